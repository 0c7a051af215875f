//! Lengths and counts: taken at their limits, refused beyond, and never a reason to allocate or to go on for long.

use super::values::{self, children, chunk, delta, slice, whole};
use icecore::id::PackId;
use icecore::store::codec::{Decoder, Encoder};
use icecore::store::crypto::keyring;
use icecore::store::format::config::{CONFIG_CHUNK_LEN_MAX, CONFIG_CHUNK_LEN_MIN, CONFIG_LEN_MAX, Config};
use icecore::store::format::key::{
    KDF_LANES_MAX, KDF_MEMORY_KIB_MAX, KDF_MEMORY_KIB_MIN, KDF_PASSES_MAX, KDF_WORK_KIB_MAX, KEY_RECORD_LEN_MAX, KdfCost, KeyRecord,
};
use icecore::store::format::log::LogRecord;
use icecore::store::format::mark::{ForgottenRecord, MarkRecord};
use icecore::store::format::node::Node;
use icecore::store::format::pack::{Encoding, Footer, Frame, Slice, Trailer, padme};
use icecore::store::format::snapshot::{PackRef, SnapshotRecord, StreamEntry};
use icecore::store::format::{
    BASES_MAX, CHUNK_LEN_MAX, FRAME_LEN_MAX, LEVEL_READ_MAX, Malformed, NODE_CHILDREN_MAX, PACK_CHUNKS_MAX, PREFIX_LEN_MAX, RECORD_LEN_MAX,
    SEGMENT_LEN_MAX, SLICES_MAX, TRAILER_LEN_MAX, TREE_LEVELS_MAX, WORK_READ_MAX, record,
};

/// What refusing short hostile bytes may allocate, in bytes: serde takes up to 1 MiB on a list's word, a record's decoder 512 KiB on a text's.
const ALLOCATED_MAX: u64 = 5 << 19;

fn refused_without_allocating<T>(what: &str, decode: impl FnOnce() -> Result<T, Malformed>) {
    let mut refused = false;
    let info = allocation_counter::measure(|| refused = decode().is_err());
    assert!(refused, "{what} is taken");
    assert!(info.bytes_max <= ALLOCATED_MAX, "{what} makes the decoder allocate {} bytes", info.bytes_max);
}

/// A number in the longest form of a record.
fn long(number: u64) -> Vec<u8> {
    [&[253][..], &number.to_le_bytes()].concat()
}

#[test]
fn hostile_counts_allocate_nothing() {
    for counts in
        [[1, PACK_CHUNKS_MAX, 0, 0], [0, PACK_CHUNKS_MAX, u32::MAX, u32::MAX], [u32::MAX; 4], [1, 1, u32::MAX, 0], [1, 1, 0, u32::MAX]]
    {
        let mut bytes: Vec<u8> = counts.iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.extend([0; 8]);
        refused_without_allocating("a table without its rows", || Trailer::decode(&bytes, 16));
        refused_without_allocating("a table without its ids", || Trailer::ids_in(&bytes));
    }
    let mut node = values::uniform_node().encode();
    node[2..4].copy_from_slice(&(NODE_CHILDREN_MAX as u16).to_le_bytes());
    refused_without_allocating("a node without its children", || Node::decode(&node, 1));
    let least = record::encode(&values::least_snapshot()).unwrap();
    // Before the host come two numbers of one byte; then host, user and tool, each empty.
    for len in [1 << 16, 1 << 20, 60 << 20, 1 << 40, u64::MAX, i64::MAX as u64] {
        let host = [&least[..2], &long(len), &least[3..]].concat();
        refused_without_allocating("a long text", || record::decode::<SnapshotRecord>(&host));
        // After the source (id, kind, label) and the absent parent come the tags.
        let before_tags = 5 + 32 + (1 + "files".len()) + 1 + 1;
        assert_eq!(least[before_tags], 0);
        let tags = [&least[..before_tags], &long(len), &least[before_tags + 1..]].concat();
        refused_without_allocating("a long list", || record::decode::<SnapshotRecord>(&tags));
        let name = [&long(len)[..], b"name"].concat();
        refused_without_allocating("a long name", || record::decode_first::<StreamEntry>(&name));
    }
}

#[test]
fn hostile_marks_allocate_nothing() {
    let mark = record::encode(&values::mark(values::MARK_KINDS[0])).unwrap();
    // Before the host come the snapshot, the kind, and a time in nine bytes; before the label two more ids, one byte, and a time in one byte.
    let (host, label) = (32 + 1 + 9, 32 + 33 + 32 + 1 + 9);
    assert_eq!(usize::from(mark[host]), values::mark(values::MARK_KINDS[0]).host.len());
    let forgotten = record::encode(&values::forgotten()).unwrap();
    assert_eq!(usize::from(forgotten[label]), values::forgotten().label.len());
    // Before the host come a time and a duration in nine bytes each; before the snapshots five texts, the exit code and a source.
    let ours = values::journal_entry();
    let entry = record::encode(&ours).unwrap();
    let texts = [&ours.host, &ours.user, &ours.tool, &ours.operation, &ours.outcome].map(|text| text.len() + 1).iter().sum::<usize>();
    let (log_host, log_ids) = (18, 18 + texts + 1 + 33);
    assert_eq!((usize::from(entry[log_host]), usize::from(entry[log_ids])), (ours.host.len(), ours.snapshots.len()));
    for len in [1 << 16, 1 << 20, 60 << 20, 1 << 40, u64::MAX, i64::MAX as u64] {
        let bytes = [&mark[..host], &long(len), &mark[host + 1..]].concat();
        refused_without_allocating("a long host", || record::decode::<MarkRecord>(&bytes));
        let bytes = [&forgotten[..label], &long(len), &forgotten[label + 1..]].concat();
        refused_without_allocating("a long label", || record::decode::<ForgottenRecord>(&bytes));
        let bytes = [&entry[..log_host], &long(len), &entry[log_host + 1..]].concat();
        refused_without_allocating("a long host in the journal", || record::decode::<LogRecord>(&bytes));
        let bytes = [&entry[..log_ids], &long(len), &entry[log_ids + 1..]].concat();
        refused_without_allocating("many snapshots in the journal", || record::decode::<LogRecord>(&bytes));
    }
}

#[test]
fn key_records_and_configurations_are_bounded() {
    let with = |cost, sealed_len: usize| KeyRecord { salt: [0; 32], cost, sealed: vec![0; sealed_len] }.encode();
    let cost = |memory_kib, passes, lanes| KdfCost { memory_kib, passes, lanes };
    let passes = (KDF_WORK_KIB_MAX / u64::from(KDF_MEMORY_KIB_MAX)) as u32;
    let memory_kib = (KDF_WORK_KIB_MAX / u64::from(KDF_PASSES_MAX)) as u32;
    assert!(KdfCost::DEFAULT.work_kib() * 4 < KDF_WORK_KIB_MAX && KdfCost::DEFAULT.memory_kib * 4 <= KDF_MEMORY_KIB_MAX);
    for good in [
        cost(KDF_MEMORY_KIB_MIN, 1, 1),
        cost(KDF_MEMORY_KIB_MAX, passes, KDF_LANES_MAX),
        cost(memory_kib, KDF_PASSES_MAX, 1),
        cost(8 * KDF_LANES_MAX, 1, KDF_LANES_MAX),
        KdfCost::DEFAULT,
    ] {
        assert!(KeyRecord::decode(&with(good, 100)).is_ok());
    }
    for bad in [
        cost(KDF_MEMORY_KIB_MIN - 1, 1, 1),
        cost(KDF_MEMORY_KIB_MAX + 1, 1, 1),
        cost(8, 0, 1),
        cost(8, KDF_PASSES_MAX + 1, 1),
        cost(8, 1, 0),
        cost(8 * (KDF_LANES_MAX + 1), 1, KDF_LANES_MAX + 1),
        cost(15, 1, 2),
        cost(KDF_MEMORY_KIB_MAX, passes + 1, 4),
        cost(memory_kib + 1, KDF_PASSES_MAX, 4),
        cost(1 << 20, 64, 4),
        cost(u32::MAX, u32::MAX, u32::MAX),
    ] {
        refused_without_allocating("a dear key derivation", || KeyRecord::decode(&with(bad, 100)));
        // Nor does a writer make one, or a reader that got such a record in another way.
        refused_without_allocating("wrapping", || keyring::wrap(&values::repository(), &values::key_payload(), b"p", [0; 32], bad));
        let record = KeyRecord { salt: [0; 32], cost: bad, sealed: vec![0; 100] };
        refused_without_allocating("unwrapping", || keyring::unwrap(&values::repository(), &record, b"p"));
    }
    assert!(KeyRecord::decode(&with(KdfCost::DEFAULT, KEY_RECORD_LEN_MAX as usize - 96)).is_ok());
    assert!(KeyRecord::decode(&with(KdfCost::DEFAULT, KEY_RECORD_LEN_MAX as usize - 95)).is_err());
    for len in [CONFIG_CHUNK_LEN_MIN, CONFIG_CHUNK_LEN_MAX] {
        let config = |page_chunk_len, content_chunk_len| Config { page_chunk_len, content_chunk_len, ..values::config(false) };
        assert!(Config::decode(&config(len, len).encode().unwrap()).is_ok());
        let outside = if len == CONFIG_CHUNK_LEN_MIN { len / 2 } else { len * 2 };
        for bad in [config(outside, len), config(len, outside), config(len + 1, len), config(len, 0)] {
            assert!(Config::decode(&bad.encode().unwrap()).is_err(), "{bad:?}");
        }
    }
    let mut long = values::config(false).encode().unwrap();
    assert!((long.len() as u64) < CONFIG_LEN_MAX);
    long.push(b' ');
    assert!(Config::decode(&long).is_err());
}

/// One frame of chunks of these lengths comes back as it is.
fn one_frame(frame: Frame, plain_lens: &[u32]) -> bool {
    let trailer = values::table(vec![vec![(frame, plain_lens.iter().map(|len| chunk(1, *len)).collect())]]);
    let decoded = Trailer::decode(&trailer.encode(), 16);
    decoded.iter().for_each(|decoded| assert_eq!(*decoded, trailer));
    decoded.is_ok()
}

#[test]
fn lengths_are_bounded() {
    let zstd = |encoded_len| whole(Encoding::Zstd, encoded_len);
    assert!(one_frame(zstd(10), &[CHUNK_LEN_MAX]));
    assert!(!one_frame(zstd(10), &[CHUNK_LEN_MAX + 1]));
    assert!(!one_frame(zstd(10), &[0]));
    assert!(!one_frame(zstd(10), &[1, 0]));
    assert!(!one_frame(zstd(0), &[1]));
    assert!(one_frame(zstd(SEGMENT_LEN_MAX), &[65536]));
    assert!(!one_frame(zstd(SEGMENT_LEN_MAX + 1), &[65536]));
    assert!(!one_frame(whole(Encoding::Raw, 10), &[65536]));
    assert!(one_frame(whole(Encoding::Raw, FRAME_LEN_MAX), &[FRAME_LEN_MAX - 1, 1]));
    for encoding in [Encoding::Raw, Encoding::Zstd] {
        assert!(!one_frame(whole(encoding, FRAME_LEN_MAX + 1), &[FRAME_LEN_MAX, 1]));
        assert!(!one_frame(whole(encoding, FRAME_LEN_MAX + 1), &[1, FRAME_LEN_MAX]));
    }
    assert!(one_frame(zstd(10), &[FRAME_LEN_MAX / 16; 16]));
    assert!(!one_frame(zstd(10), &[FRAME_LEN_MAX / 16; 17]));
}

#[test]
fn deltas_are_bounded() {
    let taken = |level, work, slices: Vec<Slice>| one_frame(delta(10, level, work, slices), &[65536]);
    let one = || vec![slice(1, 0, 100)];
    assert!(taken(LEVEL_READ_MAX, WORK_READ_MAX, one()));
    assert!(!taken(LEVEL_READ_MAX + 1, WORK_READ_MAX, one()));
    assert!(!taken(0, 2, one()));
    assert!(!taken(1, WORK_READ_MAX + 1, one()));
    assert!(!taken(1, 1, one()));
    let slices = |count: usize, bases: u64, len: u32| -> Vec<Slice> { (0..count as u64).map(|n| slice(n % bases, 0, len)).collect() };
    assert!(taken(1, 2, slices(SLICES_MAX, BASES_MAX as u64, 8192)));
    assert!(!taken(1, 2, slices(SLICES_MAX + 1, 1, 1)));
    assert!(!taken(1, 2, slices(BASES_MAX + 1, BASES_MAX as u64 + 1, 1)));
    assert!(!taken(1, 2, Vec::new()));
    assert!(taken(1, 2, vec![slice(1, 0, PREFIX_LEN_MAX as u32)]));
    assert!(!taken(1, 2, vec![slice(1, 0, PREFIX_LEN_MAX as u32 + 1)]));
    assert!(!taken(1, 2, slices(SLICES_MAX, 1, 8193)));
    assert!(taken(1, 2, vec![slice(1, CHUNK_LEN_MAX - 1, 1)]));
    assert!(!taken(1, 2, vec![slice(1, CHUNK_LEN_MAX, 1)]));
    assert!(!taken(1, 2, vec![slice(1, u32::MAX, 1)]));
    assert!(!taken(1, 2, vec![slice(1, 0, 0)]));
    assert!(!taken(1, 2, vec![slice(1, 1, 0)]));
    assert!(!taken(1, 2, vec![slice(1, 0, 5), slice(1, 1, 0)]));
    // Slices of the nominal length, which is not spelled out, are bounded by it too.
    let nominal = |slices: Vec<Slice>, len: usize| one_frame(delta(10, 1, 2, slices), &[len as u32]);
    let base = |offset, len: usize| slice(1, offset, len as u32);
    assert!(nominal(vec![base(0, PREFIX_LEN_MAX)], PREFIX_LEN_MAX), "a whole base");
    assert!(!nominal(vec![base(0, PREFIX_LEN_MAX + 1)], PREFIX_LEN_MAX + 1), "a whole base");
    assert!(nominal(vec![base(1, PREFIX_LEN_MAX)], PREFIX_LEN_MAX), "a part");
    assert!(!nominal(vec![base(1, PREFIX_LEN_MAX + 1)], PREFIX_LEN_MAX + 1), "a part");
    assert!(nominal(vec![base(CHUNK_LEN_MAX - 100, 100)], 100));
    assert!(!nominal(vec![base(CHUNK_LEN_MAX - 99, 100)], 100));
}

#[test]
fn tables_are_bounded() {
    let chunks =
        |count: u32| -> Trailer { values::table(vec![(0..count).map(|_| (whole(Encoding::Raw, 1), vec![chunk(1, 1)])).collect()]) };
    let bytes = chunks(PACK_CHUNKS_MAX).encode();
    assert!(bytes.len() < TRAILER_LEN_MAX as usize);
    assert_eq!(Trailer::decode(&bytes, 16).unwrap().chunks.len(), PACK_CHUNKS_MAX as usize);
    assert!(Trailer::decode(&chunks(PACK_CHUNKS_MAX + 1).encode(), 16).is_err());
    let frame = |first| (whole(Encoding::Zstd, 10), vec![chunk(first, 65536)]);
    let with = |segments: &[u32]| Trailer { segments: segments.to_vec(), ..values::table(vec![vec![frame(1), frame(2)]]) };
    assert!(Trailer::decode(&with(&[36]).encode(), 16).is_ok());
    // A segment shorter than its tag, longer and shorter than its frames, without frames.
    for segments in [&[15][..], &[37], &[35], &[36, 16], &[16, 36], &[26, 26]] {
        assert!(Trailer::decode(&with(segments).encode(), 16).is_err(), "{segments:?}");
    }
    // As many segments as chunks, but not as frames.
    let shared = values::table(vec![vec![(whole(Encoding::Zstd, 10), vec![chunk(1, 65536), chunk(2, 65536)])]]);
    assert!(Trailer::decode(&shared.encode(), 16).is_ok());
    assert!(Trailer::decode(&Trailer { segments: vec![26, 16], ..shared }.encode(), 16).is_err());
}

/// What a table takes in memory follows the bytes that it has, whatever they say.
#[test]
fn tables_take_memory_for_their_bytes_only() {
    let slices: Vec<Slice> = (0..SLICES_MAX).map(|_| slice(1, 0, 1)).collect();
    let deltas: Vec<_> = (0..2000).map(|_| (delta(1, 1, 2, slices.clone()), vec![chunk(1, 1)])).collect();
    for trailer in [values::table(vec![deltas]), values::table(vec![vec![(whole(Encoding::Zstd, 1), vec![chunk(1, 1); 65536])]])] {
        let bytes = trailer.encode();
        let info = allocation_counter::measure(|| drop(Trailer::decode(&bytes, 16).unwrap()));
        assert!(info.bytes_max < 10 * bytes.len() as u64, "{} bytes for {}", info.bytes_max, bytes.len());
    }
}

#[test]
fn nodes_are_bounded() {
    let node = |count: usize, level| Node { level, children: children(&vec![7; count]) }.encode();
    assert!(Node::decode(&node(NODE_CHILDREN_MAX, TREE_LEVELS_MAX), TREE_LEVELS_MAX).is_ok());
    assert!(Node::decode(&node(NODE_CHILDREN_MAX + 1, 1), 1).is_err());
    assert!(Node::decode(&node(1, TREE_LEVELS_MAX + 1), TREE_LEVELS_MAX + 1).is_err());
    assert!(Node::decode(&node(1, 0), 0).is_err());
    assert!(Node::decode(&node(1, 2), 1).is_err());
    assert!(Node::decode(&node(0, 1), 1).is_err());
    for lens in [&[7, 0][..], &[0, 7], &[0], &[3, 0, 7]] {
        assert!(Node::decode(&Node { level: 1, children: children(lens) }.encode(), 1).is_err(), "{lens:?}");
    }
    let most = Node { level: 1, children: children(&[u64::MAX, 1]) };
    assert_eq!(Node::decode(&most.encode(), 1).unwrap().span_bytes(), None);
}

#[test]
fn footers_are_bounded() {
    let decoded = |footer: Footer, pack_len| Footer::decode(&footer.encode(b""), pack_len);
    let good = values::footer(b"trailer");
    assert_eq!(decoded(good, good.pack_len).unwrap(), good);
    assert!(decoded(good, good.pack_len + 1).is_err());
    for bad in [
        Footer { trailer_offset: good.trailer_offset + 1, ..good },
        Footer { trailer_offset: u64::MAX, ..good },
        Footer { trailer_offset: u64::MAX - 80, ..good },
        Footer { trailer_len: u32::MAX, ..good },
        Footer { pack_len: u64::MAX, ..good },
    ] {
        assert!(decoded(bad, good.pack_len).is_err(), "{bad:?}");
    }
    let long = Footer { trailer_len: TRAILER_LEN_MAX + 1, trailer_offset: 48, pack_len: 48 + u64::from(TRAILER_LEN_MAX) + 81, ..good };
    assert!(decoded(long, long.pack_len).is_err());
}

/// Whatever a writer may write, a reader takes: the longest record is one with very many packs.
#[test]
fn the_longest_record_is_read_back() {
    let pack = PackRef { id: PackId([7; 32]), size: 8_650_752, trailer_offset: 8_600_000 };
    let rest = record::encode(&values::least_snapshot()).unwrap().len() + 4;
    let one = record::encode(&pack).unwrap().len();
    let longest = SnapshotRecord { packs: vec![pack; (RECORD_LEN_MAX - rest) / one], ..values::least_snapshot() };
    let bytes = record::encode(&longest).unwrap();
    assert!(bytes.len() > RECORD_LEN_MAX - 2 * one);
    assert_eq!(record::decode::<SnapshotRecord>(&bytes).unwrap().packs.len(), longest.packs.len());
    let longer = SnapshotRecord { packs: vec![pack; longest.packs.len() + 1], ..values::least_snapshot() };
    assert!(record::encode(&longer).is_err());
}

/// A small frame that gives very much, and one that gives too little.
#[test]
fn frames_give_their_length_or_nothing() {
    let mut bomb = Vec::new();
    Encoder::new().unwrap().encode(&vec![0; CHUNK_LEN_MAX as usize], &[], &mut bomb).unwrap();
    assert!(bomb.len() < 200);
    let mut decoder = Decoder::new().unwrap();
    for plain_len in [0, 1, 65536, CHUNK_LEN_MAX - 1, CHUNK_LEN_MAX + 1, u32::MAX] {
        refused_without_allocating("a frame of another length", || decoder.decode(&bomb, &[], plain_len, &mut Vec::new()));
    }
    let mut plain = Vec::new();
    decoder.decode(&bomb, &[], CHUNK_LEN_MAX, &mut plain).unwrap();
    assert_eq!(plain.len(), CHUNK_LEN_MAX as usize);
}

/// Padme's own promise: at most 12 % more, and few different lengths.
#[test]
fn padding_is_bounded() {
    let mut lengths = std::collections::HashSet::new();
    for len in (1..200_000).chain((1 << 22)..(1 << 22) + 1000) {
        let padded = padme(len);
        assert!(padded >= len && (padded - len) * 100 <= len * 12, "{len} becomes {padded}");
        assert_eq!(padme(padded), padded);
        lengths.insert(padded);
    }
    assert!(lengths.len() < 250, "{} different lengths", lengths.len());
}
