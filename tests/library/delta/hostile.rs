//! Hostile packs: whatever their tables say, reading and checking end with a clear error, after bounded work in bounded memory, and what is
//! beside them is given back.

use icecore::Error;
use icecore::id::{ChunkId, SnapshotId};
use icecore::ops::check::{CheckOptions, CheckReport, check};
use icecore::progress::Silent;
use icecore::store::format::pack::{Frame, Slice};
use icecore::store::format::snapshot::{PackRef, SnapshotRecord};
use icecore::store::format::{BASES_MAX, CHUNK_LEN_MAX, LEVEL_READ_MAX, PREFIX_LEN_MAX, SLICES_MAX, WORK_READ_MAX};

use super::common::rng::Rng;
use super::craft::{Crafted, delta, id, raw, slice, store_pack, store_snapshot};
use super::scene::{Scene, Stream, Taken, expect, read, take};

/// Bytes that a chunk takes from each base.
const PART: usize = 500;
/// What reading one chunk may have allocated at any moment, bytes: waiting prefixes, kept frames and segments, tables, the catalog. What honest ones
/// need is less than half.
const MEMORY_MAX: u64 = 112 << 20;

fn noise(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.next() as u8).collect()
}

/// A repository with a good snapshot and a hostile one.
struct Hostile {
    scene: Scene,
    good: Vec<Taken>,
    id: SnapshotId,
    record: SnapshotRecord,
    packs: Vec<PackRef>,
}

impl Hostile {
    /// The hostile stream is the last chunk of the last pack.
    fn new(packs: &[Vec<Crafted>]) -> Self {
        let scene = Scene::new(false);
        let mut rng = Rng::new(1, "good");
        let good = vec![take(&scene.open("good"), &[Stream::content("db", &noise(&mut rng, 100_000))], 1)];
        let top = packs.last().and_then(|pack| pack.last()).unwrap();
        let stored: Vec<PackRef> = packs.iter().map(|pack| store_pack(&scene, pack)).collect();
        let (id, record) = store_snapshot(&scene, top, &stored);
        Hostile { scene, good, id, record, packs: stored }
    }

    /// Reads the hostile stream with a new catalog, in bounded memory.
    fn read(&self, cache: &str) -> icecore::Result<Vec<u8>> {
        let repo = super::support::open_backend(self.scene.memory.clone(), self.scene.path(cache), 1).unwrap();
        let mut result = None;
        let info = allocation_counter::measure(|| {
            repo.refresh().unwrap();
            result = Some(read(&repo, &self.record, "db"));
        });
        println!("{cache}: {} MiB at most, {} allocations", info.bytes_max >> 20, info.count_total);
        assert!(info.bytes_max < MEMORY_MAX, "reading took {} MiB", info.bytes_max >> 20);
        result.unwrap()
    }

    fn check(&self, read_data: bool) -> CheckReport {
        check(&self.scene.open("check"), &CheckOptions { read_data, ..CheckOptions::default() }, &Silent).unwrap()
    }

    /// Nothing but the hostile snapshot is touched; the error of reading it is damage.
    fn is_refused(&self, what: &str) -> Error {
        let error = self.read(what).expect_err(what);
        println!("{what}: {error}");
        assert!(error.is_damage(), "{what}: {error}");
        for read_data in [false, true] {
            let report = self.check(read_data);
            // Levels and bases are checked without reading data; false ids only with it.
            if read_data {
                assert!(report.is_damaged() && !report.touched.is_empty(), "{what}: {report:#?}");
            }
            assert!(report.touched.iter().all(|touched| touched.snapshot == self.id), "{what}: {:#?}", report.touched);
            assert!(report.findings.len() < 100, "{what}: {} findings", report.findings.len());
        }
        expect(&self.scene.open("good"), &self.good, what);
        error
    }
}

/// A base that is all right and a delta that is not.
fn beyond(change: impl FnOnce(&mut Frame, &[ChunkId])) -> Hostile {
    let mut rng = Rng::new(2, "beyond");
    let bases: Vec<Vec<u8>> = (0..40).map(|_| noise(&mut rng, 20_000)).collect();
    let ids: Vec<ChunkId> = bases.iter().map(|plain| id(plain)).collect();
    let mut top = delta(&bases[0][..PART], &bases[0][..PART], vec![slice(&ids[0], 0, PART)], 1, 2);
    change(&mut top.frame, &ids);
    Hostile::new(&[bases.iter().map(|plain| raw(plain)).collect(), vec![top]])
}

#[test]
fn what_is_beyond_a_readers_bounds_is_refused_by_name() {
    type Change = Box<dyn FnOnce(&mut Frame, &[ChunkId])>;
    let slices = |slices: Vec<(usize, usize, usize)>| -> Change {
        Box::new(move |frame, ids| frame.slices = slices.iter().map(|(base, offset, len)| slice(&ids[*base], *offset, *len)).collect())
    };
    let cases: Vec<(&str, Change)> = vec![
        ("level 0", Box::new(|frame, _| frame.level = 0)),
        ("level", Box::new(|frame, _| frame.level = LEVEL_READ_MAX + 1)),
        ("work 1", Box::new(|frame, _| frame.work = 1)),
        ("work", Box::new(|frame, _| frame.work = WORK_READ_MAX + 1)),
        ("slices", slices(vec![(0, 0, 10); SLICES_MAX + 1])),
        ("bases", slices((0..=BASES_MAX).map(|base| (base, 0, 10)).collect())),
        ("prefix", slices((0..=PREFIX_LEN_MAX / 20_000).map(|base| (base, 0, 20_000)).collect())),
        ("a slice past any chunk", slices(vec![(0, CHUNK_LEN_MAX as usize - 5, 10)])),
        ("no slices", slices(Vec::new())),
    ];
    for (what, change) in cases {
        let hostile = beyond(change);
        let error = hostile.is_refused(what).to_string();
        assert!(error.contains(&hostile.packs[1].id.to_string()), "{what}: {error}");
    }
    // Within the bounds of tables, but more of a base than there is.
    beyond(|frame, ids| frame.slices = vec![slice(&ids[0], 19_990, 20)]).is_refused("a slice past its base");
    // The same without a change is given back.
    let honest = beyond(|_, _| {});
    assert_eq!(honest.read("honest").unwrap().len(), PART);
    assert!(!honest.check(true).is_damaged());
}

/// Chunks that are each a delta of the one before, with the levels that they claim. `bottom` is the first base.
fn chain(count: usize, level: impl Fn(usize) -> u8) -> Vec<Crafted> {
    let mut rng = Rng::new(3, "chain");
    let mut plain = noise(&mut rng, PART);
    let mut crafted = vec![raw(&plain)];
    for number in 1..=count {
        let base = plain.clone();
        plain[..8].copy_from_slice(&(number as u64).to_le_bytes());
        crafted.push(delta(&plain, &base, vec![slice(&id(&base), 0, PART)], level(number), 2));
    }
    crafted
}

#[test]
fn chains_are_as_deep_as_a_reader_goes_and_no_deeper() {
    let deepest = usize::from(LEVEL_READ_MAX);
    let honest = Hostile::new(&[chain(deepest, |number| number as u8)]);
    assert_eq!(honest.read("deepest").unwrap().len(), PART);
    assert!(!honest.check(true).is_damaged());
    for (what, levels) in [
        ("levels that stop to rise", (|number| number.min(usize::from(LEVEL_READ_MAX)) as u8) as fn(usize) -> u8),
        ("levels that fall", |number| 64 - (number % 60) as u8),
        ("equal levels", |_| 1),
    ] {
        Hostile::new(&[chain(deepest + 6, levels)]).is_refused(what);
    }
}

/// Deltas of each other, whose ids are true: only the levels keep a reader from going round for ever.
#[test]
fn cycles_end() {
    let mut rng = Rng::new(4, "cycles");
    let (one, other) = (noise(&mut rng, PART), noise(&mut rng, PART));
    let of = |plain: &[u8], base: &[u8], level: u8| delta(plain, base, vec![slice(&id(base), 0, PART)], level, 2);
    for (what, of_one, of_other) in [("equal", 1, 1), ("rising", 1, 2), ("falling", 2, 1), ("far", 64, 64)] {
        Hostile::new(&[vec![of(&one, &other, of_one), of(&other, &one, of_other)]]).is_refused(what);
    }
    Hostile::new(&[vec![of(&one, &one, 1)]]).is_refused("of itself");
    // Two hosts that stored each other's base whole: a cycle by ids, none by copies.
    let both = Hostile::new(&[vec![raw(&one), of(&other, &one, 1)], vec![raw(&other), of(&one, &other, 1)]]);
    assert!(both.read("both").unwrap() == one);
    assert!(!both.check(true).is_damaged());
}

/// Each frame has two slices of the two frames below: there are more ways from the top to the bottom than anyone can go.
fn lattice(levels: u8, copies: usize, spoil: impl Fn(usize, &mut Crafted)) -> Vec<Vec<Crafted>> {
    let mut rng = Rng::new(5, "lattice");
    let mut plains = vec![noise(&mut rng, 2 * PART), noise(&mut rng, 2 * PART)];
    let mut crafted: Vec<Crafted> = plains.iter().map(|plain| raw(plain)).collect();
    for level in 1..=levels {
        let (below, beside) = (&plains[plains.len() - 1], &plains[plains.len() - 2]);
        let prefix = [&below[..PART], &beside[..PART]].concat();
        let plain = [&level.to_le_bytes()[..], &prefix[1..]].concat();
        let slices = vec![slice(&id(below), 0, PART), slice(&id(beside), 0, PART)];
        crafted.push(delta(&plain, &prefix, slices, level, u32::from(level) + 2));
        plains.push(plain);
    }
    crafted.iter_mut().enumerate().for_each(|(number, one)| spoil(number, one));
    // The same frames again, in packs that differ by one chunk.
    let beside = |number: usize| raw(&noise(&mut Rng::new(number as u64, "beside"), 100 + number));
    (0..copies).map(|number| [&[beside(number)][..], &crafted].concat()).collect()
}

fn is_delta(crafted: &Crafted) -> bool {
    !crafted.frame.slices.is_empty()
}

#[test]
fn a_lattice_is_read_without_going_every_way() {
    for copies in [1, 3] {
        let whole = Hostile::new(&lattice(40, copies, |_, _| {}));
        assert_eq!(whole.read("whole").unwrap().len(), 2 * PART);
        assert!(!whole.check(true).is_damaged());
        // A bit of the bottom, in every copy.
        let wrong = |number: usize, one: &mut Crafted| {
            if number == 1 {
                one.encoded[100] ^= 1
            }
        };
        Hostile::new(&lattice(40, copies, wrong)).is_refused("a bad bottom");
        // Nothing is what its id says.
        let lie = |_: usize, one: &mut Crafted| {
            if is_delta(one) {
                one.encoded = vec![0xff; 40]
            }
        };
        Hostile::new(&lattice(40, copies, lie)).is_refused("nothing decodes");
        // The bottom is there, but everything above comes out as something else.
        let shifted = |_: usize, one: &mut Crafted| one.frame.slices.iter_mut().for_each(|slice: &mut Slice| slice.offset += 1);
        Hostile::new(&lattice(40, copies, shifted)).is_refused("everything is something else");
        // Only the top is wrong, so that everything below is whole when the ways are tried.
        let top = |number: usize, one: &mut Crafted| {
            one.frame.slices.iter_mut().for_each(|slice: &mut Slice| slice.offset += u32::from(number == 41))
        };
        Hostile::new(&lattice(40, copies, top)).is_refused("a wrong top");
    }
}

/// Frames in layers of these widths, the last of them one frame. Each wants as long a prefix as may be, from as many frames of the layer below as may be;
/// together they want all of it.
fn fan(widths: &[usize]) -> Vec<Crafted> {
    let bottom = vec![7; CHUNK_LEN_MAX as usize];
    let mut crafted = vec![raw(&bottom)];
    let mut below = vec![id(&bottom)];
    let part = PREFIX_LEN_MAX / SLICES_MAX;
    for (layer, width) in widths.iter().enumerate() {
        let mut these = Vec::new();
        for number in 0..*width {
            let bases: Vec<&ChunkId> = below.iter().cycle().skip(number * BASES_MAX).take(below.len().min(BASES_MAX)).collect();
            let slices = (0..SLICES_MAX).map(|n| slice(bases[n % bases.len()], 0, part)).collect();
            let mut plain = vec![7; part];
            plain[..2].copy_from_slice(&(number as u16).to_le_bytes());
            plain[2] = layer as u8;
            let one = delta(&plain, &[], slices, layer as u8 + 1, WORK_READ_MAX);
            these.push(one.id);
            crafted.push(one);
        }
        below = these;
    }
    crafted
}

#[test]
fn a_fan_of_prefixes_does_not_fill_the_memory() {
    // The last one is too much work.
    for (widths, taken) in [(&[32, 32, 1][..], true), (&[31; 32], true), (&[970, 31, 1], true), (&[1024, 1024, 32, 1], false)] {
        let mut widths = widths.to_vec();
        *widths.last_mut().unwrap() = 1;
        let hostile = Hostile::new(&[fan(&widths)]);
        let found = hostile.read(&format!("{widths:?}"));
        if taken {
            assert_eq!(found.unwrap().len(), PREFIX_LEN_MAX / SLICES_MAX);
            assert!(!hostile.check(true).is_damaged());
        } else {
            let error = found.unwrap_err();
            assert!(error.is_damage() && error.to_string().contains("more work than"), "{error}");
        }
    }
}
