//! One way to store a history, played through: what every step costs, and what reading a chunk costs at the end.

use icecore::store::codec::Encoder;

use super::common::store::PAGE_BYTES;
use super::history::History;
use super::squeeze::{Squeeze, timed};

/// What the base of a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Version k of a lineage on version k - b^v, where b^v is the largest power of b that divides k.
    Skip(u32),
    /// Step t on what stood there at step t - b^v, where b^v is the largest power of b that divides t.
    Aligned(u32),
    /// Like `Skip`, with a first digit of its own.
    Mixed(u32, u32),
    /// The version before.
    Endless,
    /// The first version.
    First,
}

/// Which changed chunks of a step share a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Up to so many, in stream order.
    Neighbours(usize),
    /// The same, while reading takes at most so many frames.
    Bounded(usize, usize),
    /// Up to so many, if their bases lie in one frame.
    Lineage(usize),
}

/// One way to store a history.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub chunk_pages: usize,
    pub rule: Rule,
    pub group: Group,
    /// Chunks of the same step that stand before the base in the prefix.
    pub before: usize,
    /// Only the pages that differ are in the frame, only their bases in the prefix; a bitmap says which.
    pub changed_pages: bool,
    /// `None`: as the codec does it.
    pub squeeze: Option<Squeeze>,
    /// The frames of a step are compressed once more, in segments.
    pub segment: Option<Squeeze>,
}

/// What a plan costs.
pub struct Outcome {
    pub frame_bytes: Vec<f64>,
    pub metadata_bytes: Vec<f64>,
    /// By chunk of the last version: links to the whole chunk, frames to decode, their plain KiB.
    pub depth: Vec<f64>,
    pub frames: Vec<f64>,
    pub plain_kib: Vec<f64>,
    pub whole_chunks: usize,
    pub encode_s: f64,
}

/// Bytes of the prefix of a frame at most.
const PREFIX_MAX: usize = 512 << 10;
/// The trailer's bytes for a chunk: id, base and the rest of the row.
const ROW_BYTES: usize = 32 + 8 + 8;
/// A changed node beside its changed ids, and children of a node.
const NODE_BYTES: usize = 20;
const FANOUT: usize = icecore::store::format::NODE_FANOUT;

/// One stored chunk.
struct Version {
    step: usize,
    number: u32,
    base: Option<usize>,
    depth: u32,
    frame: usize,
}

/// Frames that are needed to decode one, itself included: a bit for each.
#[derive(Clone, Default)]
struct Closure(Vec<u64>);

impl Closure {
    fn add(&mut self, frame: usize) {
        if self.0.len() <= frame / 64 {
            self.0.resize(frame / 64 + 1, 0);
        }
        self.0[frame / 64] |= 1 << (frame % 64);
    }

    fn join(&mut self, other: &Closure) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn frames(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(at, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 64 + bit))
    }
}

/// A frame that was written.
struct Frame {
    closure: Closure,
    plain_bytes: usize,
}

/// A changed chunk that waits for its frame.
struct Waiting {
    place: usize,
    number: u32,
    base: usize,
}

struct Run<'h> {
    history: &'h History,
    plan: Plan,
    encoder: Encoder,
    lineages: Vec<Vec<Version>>,
    frames: Vec<Frame>,
    nodes: Vec<Vec<Vec<(usize, usize)>>>,
    out: Outcome,
    bytes: usize,
    /// Frames of this step that wait for their segment.
    segment: Vec<u8>,
}

/// Bytes of a segment of deltas.
const SEGMENT_BYTES: usize = 64 << 10;

pub fn largest_power_dividing(number: u32, base: u32) -> u32 {
    let mut power = 1;
    while number.is_multiple_of(power * base) {
        power *= base;
    }
    power
}

/// 1, or the largest of `first` * `rest`^n that divides the number.
fn mixed_power_dividing(number: u32, first: u32, rest: u32) -> u32 {
    match number.is_multiple_of(first) {
        true => first * largest_power_dividing(number / first, rest),
        false => 1,
    }
}

/// Plays the history through.
pub fn run(history: &History, plan: Plan) -> Outcome {
    let out = Outcome {
        frame_bytes: Vec::new(),
        metadata_bytes: Vec::new(),
        depth: Vec::new(),
        frames: Vec::new(),
        plain_kib: Vec::new(),
        whole_chunks: 0,
        encode_s: 0.0,
    };
    let encoder = Encoder::new().expect("memory enough");
    let mut run =
        Run { history, plan, encoder, lineages: Vec::new(), frames: Vec::new(), nodes: Vec::new(), out, bytes: 0, segment: Vec::new() };
    let ((), seconds) = timed(|| (0..=history.steps()).for_each(|step| run.step(step)));
    run.out.encode_s = seconds;
    for place in 0..run.places(history.steps()) {
        let version = run.lineages[place].last().expect("a stored chunk");
        let closure = &run.frames[version.frame].closure;
        run.out.depth.push(f64::from(version.depth));
        run.out.frames.push(closure.count() as f64);
        run.out.plain_kib.push(closure.frames().map(|frame| run.frames[frame].plain_bytes).sum::<usize>() as f64 / 1024.0);
    }
    run.out
}

impl Run<'_> {
    fn places(&self, step: usize) -> usize {
        self.history.version(step).len().div_ceil(self.plan.chunk_pages)
    }

    fn pages(&self, step: usize, place: usize) -> &[u32] {
        let pages = self.history.version(step);
        let start = place * self.plan.chunk_pages;
        &pages[start.min(pages.len())..(start + self.plan.chunk_pages).min(pages.len())]
    }

    fn step(&mut self, step: usize) {
        self.bytes = 0;
        let places = self.places(step);
        let changed: Vec<usize> =
            (0..places).filter(|place| step == 0 || self.pages(step, *place) != self.pages(step - 1, *place)).collect();
        let mut waiting: Vec<Waiting> = Vec::new();
        // The newest frames of this step, for prefixes of other chunks.
        let mut written: Vec<(usize, usize)> = Vec::new();
        for place in &changed {
            let Some((number, base)) = self.choose_base(step, *place) else {
                self.store_whole(step, *place, 0);
                continue;
            };
            let next = Waiting { place: *place, number, base };
            if !waiting.is_empty() && !self.joins(&waiting, &next) {
                self.store_group(step, std::mem::take(&mut waiting), &mut written);
            }
            waiting.push(next);
        }
        if !waiting.is_empty() {
            self.store_group(step, waiting, &mut written);
        }
        self.close_segment();
        let metadata = changed.len() * ROW_BYTES + self.node_bytes(step, &changed);
        if step > 0 {
            self.out.frame_bytes.push(self.bytes as f64);
            self.out.metadata_bytes.push(metadata as f64);
        }
    }

    /// The version and base of the chunk that now comes; the rule's base or the first older one on the chain, as the engine does it.
    fn choose_base(&self, step: usize, place: usize) -> Option<(u32, usize)> {
        let lineage = self.lineages.get(place)?;
        let mut at = lineage.len().checked_sub(1)?;
        let number = lineage[at].number + 1;
        let step = u32::try_from(step).expect("few steps");
        let fits = |version: &Version| match self.plan.rule {
            Rule::Skip(base) => version.number <= number - largest_power_dividing(number, base),
            Rule::Aligned(base) => version.step as u32 <= step - largest_power_dividing(step, base),
            Rule::Mixed(first, rest) => version.number <= number - mixed_power_dividing(number, first, rest),
            Rule::Endless => true,
            Rule::First => version.base.is_none(),
        };
        let bounded = |version: &Version| match self.plan.group {
            Group::Bounded(_, limit) => self.frames[version.frame].closure.count() < limit,
            _ => true,
        };
        while let Some(base) = lineage[at].base.filter(|_| !fits(&lineage[at]) || !bounded(&lineage[at])) {
            at = base;
        }
        bounded(&lineage[at]).then_some((number, at))
    }

    fn joins(&self, waiting: &[Waiting], next: &Waiting) -> bool {
        let frame = |one: &Waiting| self.lineages[one.place][one.base].frame;
        let room = |most: usize| waiting.len() < most && (waiting.len() + 1) * self.plan.chunk_pages * PAGE_BYTES <= PREFIX_MAX;
        match self.plan.group {
            Group::Neighbours(most) => room(most),
            Group::Lineage(most) => room(most) && frame(&waiting[0]) == frame(next),
            Group::Bounded(most, limit) => {
                let mut closure = self.frames[frame(next)].closure.clone();
                waiting.iter().for_each(|one| closure.join(&self.frames[frame(one)].closure));
                room(most) && closure.count() < limit
            }
        }
    }

    fn store_whole(&mut self, step: usize, place: usize, number: u32) {
        let plain = self.history.bytes(self.pages(step, place));
        self.bytes += if step == 0 { 0 } else { self.encode(&plain, &[]).len() };
        self.out.whole_chunks += usize::from(step > 0);
        let frame = self.add_frame(Closure::default(), plain.len());
        self.push(place, Version { step, number, base: None, depth: 0, frame });
    }

    fn add_frame(&mut self, mut closure: Closure, plain_bytes: usize) -> usize {
        let frame = self.frames.len();
        closure.add(frame);
        self.frames.push(Frame { closure, plain_bytes });
        frame
    }

    fn push(&mut self, place: usize, version: Version) {
        if self.lineages.len() <= place {
            self.lineages.resize_with(place + 1, Vec::new);
        }
        self.lineages[place].push(version);
    }

    fn encode(&mut self, plain: &[u8], prefix: &[u8]) -> Vec<u8> {
        if let Some(squeeze) = self.plan.squeeze.filter(|_| !prefix.is_empty()) {
            return squeeze.encode(plain, prefix);
        }
        let mut out = Vec::new();
        self.encoder.encode(plain, prefix, &mut out).expect("room enough");
        out
    }

    fn push_delta(&mut self, encoded: &[u8]) {
        if self.plan.segment.is_some() && !self.segment.is_empty() && self.segment.len() + encoded.len() > SEGMENT_BYTES {
            self.close_segment();
        }
        match self.plan.segment {
            Some(_) => self.segment.extend_from_slice(encoded),
            None => self.bytes += encoded.len(),
        }
    }

    fn close_segment(&mut self) {
        if let Some(squeeze) = self.plan.segment {
            self.bytes += squeeze.encode(&self.segment, &[]).len().min(self.segment.len());
            self.segment.clear();
        }
    }

    /// What of the chunk is in its frame, and what of the base in the prefix.
    fn parts(&self, step: usize, one: &Waiting) -> (Vec<u8>, Vec<u8>) {
        let new = self.pages(step, one.place);
        let old = self.pages(self.lineages[one.place][one.base].step, one.place);
        if !self.plan.changed_pages {
            return (self.history.bytes(new), self.history.bytes(old));
        }
        let other: Vec<usize> = (0..new.len()).filter(|at| old.get(*at) != new.get(*at)).collect();
        let pick = |pages: &[u32]| self.history.bytes(&other.iter().filter_map(|at| pages.get(*at).copied()).collect::<Vec<_>>());
        (pick(new), pick(old))
    }

    fn store_group(&mut self, step: usize, group: Vec<Waiting>, written: &mut Vec<(usize, usize)>) {
        let (mut plain, mut prefix, mut closure) = (Vec::new(), Vec::new(), Closure::default());
        for (place, frame) in &written[written.len().saturating_sub(self.plan.before)..] {
            let (new, _) = match self.plan.changed_pages {
                true => {
                    let version = self.lineages[*place].last().expect("just written");
                    let base = version.base.expect("a delta");
                    self.parts(step, &Waiting { place: *place, number: 0, base })
                }
                false => (self.history.bytes(self.pages(step, *place)), Vec::new()),
            };
            prefix.extend(new);
            closure.join(&self.frames[*frame].closure);
        }
        for one in &group {
            let (new, old) = self.parts(step, one);
            plain.extend(new);
            prefix.extend(old);
            closure.join(&self.frames[self.lineages[one.place][one.base].frame].closure);
        }
        let bitmaps = if self.plan.changed_pages { group.len() * self.plan.chunk_pages.div_ceil(8) } else { 0 };
        let mut encoded = self.encode(&plain, &prefix);
        // The bitmap counts; what it says does not matter here.
        encoded.extend(std::iter::repeat_n(0x5a, bitmaps));
        // A single chunk is stored whole where the engine would.
        if let [one] = group.as_slice()
            && encoded.len() * 8 > self.plan.chunk_pages * PAGE_BYTES
        {
            let whole = self.history.bytes(self.pages(step, one.place));
            if encoded.len() * 8 > self.encode(&whole, &[]).len() * 7 {
                self.store_whole(step, one.place, one.number);
                return;
            }
        }
        self.push_delta(&encoded);
        let frame = self.add_frame(closure, plain.len());
        for one in group {
            let depth = self.lineages[one.place][one.base].depth + 1;
            self.push(one.place, Version { step, number: one.number, base: Some(one.base), depth, frame });
            written.push((one.place, frame));
        }
    }

    /// The bytes of the changed nodes as deltas, by the skip rule with base 4: the ids that differ from the base's and something beside.
    fn node_bytes(&mut self, step: usize, changed: &[usize]) -> usize {
        let mut children: Vec<(usize, usize)> = changed.iter().map(|place| (*place, step)).collect();
        let mut count = self.places(step);
        let (mut bytes, mut level) = (0, 0);
        while count > 1 {
            count = count.div_ceil(FANOUT);
            if self.nodes.len() <= level {
                self.nodes.push(Vec::new());
            }
            let nodes = &mut self.nodes[level];
            nodes.resize_with(count.max(nodes.len()), Vec::new);
            let mut above = Vec::new();
            for group in children.chunk_by(|a, b| a.0 / FANOUT == b.0 / FANOUT) {
                let index = group[0].0 / FANOUT;
                let log = &mut nodes[index];
                let version = log.last().map_or(0, |last| last.1 + 1);
                let base = version.saturating_sub(largest_power_dividing(version.max(1) as u32, 4) as usize);
                log.extend(group.iter().map(|child| (child.0, version)));
                let mut differ: Vec<usize> = log.iter().rev().take_while(|(_, at)| *at > base || version == 0).map(|one| one.0).collect();
                differ.sort_unstable();
                differ.dedup();
                bytes += differ.len() * 32 + NODE_BYTES;
                above.push((index, step));
            }
            children = above;
            level += 1;
        }
        bytes
    }
}
