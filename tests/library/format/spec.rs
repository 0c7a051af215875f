//! The tables of `store-format.md` against the code.

use std::collections::BTreeMap;
use std::path::Path;

use super::golden;
use super::page::{Page, Table};
use super::support::{Bed, back_up, make_database};
use super::values::{self, counted};
use icecore::id;
use icecore::recorded;
use icecore::store::crypto;
use icecore::store::format::config::{self, Config};
use icecore::store::format::key::{self, KdfCost, KeyRecord};
use icecore::store::format::pack::{self, FOOTER_MAGIC, padme};
use icecore::store::format::{self, Cipher, Kind, log, mark, node, parity, snapshot};

fn source(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_page_is_ascii_and_its_links_lead_somewhere() {
    let page = Page::read();
    assert!(page.text.is_ascii());
    let (links, anchors) = page.links();
    assert!(links.len() > 10);
    links.iter().for_each(|link| assert!(anchors.contains(link), "#{link} leads nowhere; there are {anchors:?}"));
}

#[test]
fn the_page_says_which_version_it_is() {
    let text = Page::read().text;
    let said: Vec<&str> = text.split("format version: ").skip(1).map(|rest| rest.split([' ', '|']).next().unwrap()).collect();
    let version = format::FORMAT_VERSION.to_string();
    assert_eq!(said, [version.as_str(); 2]);
}

#[test]
fn byte_tables_add_up() {
    let page = Page::read();
    let tables: Vec<&Table> = page.tables.iter().filter(|table| table.is_byte_table()).collect();
    for table in &tables {
        let (name, total) = table.heading.rsplit_once(": ").expect("the heading of a byte table says its length");
        assert_eq!(format!("{} bytes", table.chain()), total, "{name}");
    }
    let lengths: Vec<usize> = tables.iter().map(|table| table.chain()).collect();
    let associated = 32 + 2 + 1 + format::HEADER_LEN + 4;
    let expected = [
        12,
        associated,
        format::HEADER_LEN,
        key::KEY_PLAIN_LEN,
        pack::TRAILER_HEADER_LEN,
        pack::FOOTER_LEN,
        parity::DESCRIPTOR_LEN,
        node::NODE_HEADER_LEN,
    ];
    assert_eq!(lengths, expected);
}

#[test]
fn object_header() {
    let page = Page::read();
    let table = page.bytes_of("Object header");
    let bytes = values::header(Kind::Pack, Cipher::Aes256Gcm).encode();
    assert_eq!(table.names(), ["magic", "version", "cipher", "reserved", "features", "salt"]);
    assert_eq!(table.bytes("magic", &bytes), Kind::Pack.magic());
    assert_eq!(table.number("version", &bytes), u64::from(format::FORMAT_VERSION));
    assert_eq!(table.number("cipher", &bytes), u64::from(Cipher::Aes256Gcm.code()));
    assert_eq!(table.number("reserved", &bytes), 0);
    assert_eq!(table.number("features", &bytes), 0);
    assert_eq!(table.bytes("salt", &bytes), counted(0x80));
}

#[test]
fn key_record() {
    let page = Page::read();
    let table = page.bytes_of("Key record, plain part");
    let bytes = golden::key_record().encode();
    assert_eq!(table.names(), ["header", "memory", "passes", "lanes", "sealed_len"]);
    assert_eq!(table.bytes("header", &bytes), values::header(Kind::Key, Cipher::Aes256Gcm).encode());
    assert_eq!(["memory", "passes", "lanes"].map(|name| table.number(name, &bytes)), [32, 2, 1]);
    let sealed_len = table.number("sealed_len", &bytes) as usize;
    assert_eq!(bytes.len(), key::KEY_PLAIN_LEN + sealed_len + key::KEY_CHECKSUM_LEN);
    let (body, checksum) = bytes.split_at(key::KEY_PLAIN_LEN + sealed_len);
    assert_eq!(blake3::hash(body).as_bytes(), checksum);
    assert_eq!(KeyRecord::decode(&bytes).unwrap().sealed, body[key::KEY_PLAIN_LEN..]);
    let default = KdfCost::DEFAULT;
    let said = format!("{} KiB, {} passes, {} lanes", default.memory_kib, default.passes, default.lanes);
    assert!(page.text.contains(&said), "the page does not say {said}");
}

#[test]
fn trailer() {
    let page = Page::read();
    let table = page.bytes_of("Trailer, plain header");
    let (trailer, bytes) = (values::trailer(), values::trailer().encode());
    assert_eq!(table.names(), ["segments", "chunks", "bases", "rows_len", "nominal_len", "reserved"]);
    let slices = || trailer.frames.iter().flat_map(|frame| &frame.slices);
    let bases = slices().map(|slice| slice.base).collect::<std::collections::BTreeSet<_>>().len();
    assert!(bases < slices().count(), "no base is named twice");
    let number = |name| table.number(name, &bytes) as usize;
    assert_eq!((number("segments"), number("chunks"), number("bases")), (trailer.segments.len(), trailer.chunks.len(), bases));
    assert_eq!((number("nominal_len"), number("reserved")), (65536, 0));
    let ids_end = pack::TRAILER_HEADER_LEN + trailer.chunks.len() * id::ID_LEN;
    let bases_end = ids_end + bases * pack::BASE_PREFIX_LEN;
    assert_eq!(bytes.len(), bases_end + number("rows_len"));
    assert_eq!(bytes[ids_end - id::ID_LEN..ids_end], counted(0x3d));
    assert_eq!(bytes[ids_end..ids_end + 8], [0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10]);
}

#[test]
fn footer() {
    let page = Page::read();
    let table = page.bytes_of("Footer of a pack");
    let stored_trailer = b"a trailer";
    let footer = values::footer(stored_trailer);
    let bytes = footer.encode(stored_trailer);
    assert_eq!(
        table.names(),
        ["magic", "trailer_offset", "pack_len", "trailer_len", "version", "reserved", "features", "salt", "checksum"]
    );
    assert_eq!(table.bytes("magic", &bytes), FOOTER_MAGIC);
    assert_eq!(table.number("trailer_offset", &bytes), footer.trailer_offset);
    assert_eq!(table.number("pack_len", &bytes), footer.pack_len);
    assert_eq!(table.number("trailer_len", &bytes), 9);
    assert_eq!(table.number("version", &bytes), u64::from(format::FORMAT_VERSION));
    assert_eq!(table.number("reserved", &bytes), 0);
    assert_eq!(table.number("features", &bytes), 0);
    assert_eq!(table.bytes("salt", &bytes), counted(0x80));
    let checksum = table.place("checksum");
    let hash = blake3::Hasher::new().update(&bytes[..checksum.start]).update(stored_trailer).finalize();
    assert_eq!(bytes[checksum], hash.as_bytes()[..pack::FOOTER_CHECKSUM_LEN]);
}

#[test]
fn node_header() {
    let page = Page::read();
    let table = page.bytes_of("Node, header");
    assert_eq!(table.names(), ["tag", "level", "count", "reserved", "span"]);
    for (node, span) in [(values::uniform_node(), 65536), (values::explicit_node(), 0)] {
        let bytes = node.encode();
        let fields = ["tag", "level", "count", "reserved", "span"].map(|name| table.number(name, &bytes));
        assert_eq!(fields, [u64::from(node::NODE_TAG), u64::from(node.level), 3, 0, span]);
        let lengths = if span == 0 { 3 } else { 1 };
        assert_eq!(bytes.len(), node::NODE_HEADER_LEN + 3 * id::ID_LEN + lengths * 8);
        assert_eq!(bytes[16..48], counted(0x21));
    }
}

#[test]
fn magics() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(" ");
    let mut expected: Vec<Vec<String>> =
        Kind::ALL.iter().map(|kind| vec![format!("{kind:?}"), kind.code().to_string(), hex(&kind.magic())]).collect();
    expected.push(vec!["(footer of a pack)".into(), "-".into(), hex(&FOOTER_MAGIC)]);
    expected.push(vec!["(descriptor of parity)".into(), "-".into(), hex(&parity::PARITY_MAGIC)]);
    assert_eq!(Page::read().table("Magics", "kind").rows, expected);
}

#[test]
fn ciphers_and_configuration() {
    let page = Page::read();
    for (row, encrypted) in page.table("Ciphers", "cipher").rows.iter().zip([false, true]) {
        let cipher = values::config(encrypted).cipher();
        assert_eq!(row[..3], [format!("{cipher:?}"), cipher.code().to_string(), cipher.overhead().to_string()]);
        let json: serde_json::Value = serde_json::from_slice(&values::config(encrypted).encode().unwrap()).unwrap();
        assert_eq!((json["cipher"].as_str(), json["chunk_ids"].as_str()), (Some(&row[3][..]), Some(&row[4][..])));
    }
    assert_eq!(page.table("Ciphers", "cipher").rows.len(), 2);
    let text = String::from_utf8(values::config(true).encode().unwrap()).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix('"')?.split('"').next()).collect();
    let table = page.table("Configuration", "key");
    assert_eq!(table.rows.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), keys);
    for row in &table.rows {
        let found = match json[&row[0]] {
            serde_json::Value::Number(_) => "number",
            serde_json::Value::String(_) => "string",
            serde_json::Value::Array(_) => "array",
            _ => "something else",
        };
        assert_eq!(row[1], found, "{}", row[0]);
    }
    let checksum = blake3::hash(&format::record::encode(&values::config(true)).unwrap());
    assert_eq!(json["checksum"], checksum.to_hex().as_str());
    assert!(Config::decode(text.as_bytes()).is_ok());
}

/// The constants of the format, by name.
fn constants() -> BTreeMap<&'static str, u64> {
    macro_rules! named {
        ($($module:ident: $($name:ident)*;)*) => { BTreeMap::from([$($((stringify!($name), u64::from_ne_bytes(wide($module::$name as i128)))),*),*]) };
    }
    fn wide(number: i128) -> [u8; 8] {
        u64::try_from(number).unwrap().to_ne_bytes()
    }
    named! {
        id: ID_LEN;
        format: FORMAT_VERSION HEADER_LEN SALT_LEN TAG_LEN CHUNK_LEN_MAX FRAME_LEN_MAX SEGMENT_LEN_MAX WHOLE_FRAME_TARGET WHOLE_SEGMENT_TARGET DELTA_SEGMENT_TARGET PACK_LEN_MAX
            PACK_TARGET TRAILER_LEN_MAX PACK_CHUNKS_MAX SLICES_MAX BASES_MAX PREFIX_LEN_MAX LEVEL_WRITE_MAX LEVEL_READ_MAX WORK_WRITE_MAX
            WORK_READ_MAX NODE_CHILDREN_MAX NODE_FANOUT TREE_LEVELS_MAX RECORD_LEN_MAX;
        snapshot: LABEL_LEN_MAX TAG_LEN_MAX TAGS_MAX;
        recorded: CONTENT_TABLES_MAX ATTRIBUTES_MAX ATTRIBUTE_LEN_MAX ATTRIBUTES_LEN_MAX;
        config: CONFIG_LEN_MAX CONFIG_CHUNK_LEN_MIN CONFIG_CHUNK_LEN_MAX;
        key: KEY_PLAIN_LEN KEY_CHECKSUM_LEN KEY_RECORD_LEN_MAX KDF_MEMORY_KIB_MIN KDF_MEMORY_KIB_MAX KDF_PASSES_MAX KDF_LANES_MAX
            KDF_WORK_KIB_MAX KDF_WORK_KIB_TOTAL KEY_RECORDS_MAX;
        log: LOG_LEN_MAX LOG_SNAPSHOTS_MAX LOG_DETAIL_LEN_MAX LOG_ENTRIES_KEPT;
        mark: MARK_LEN_MAX FORGOTTEN_CHECKSUM_LEN;
        node: NODE_HEADER_LEN NODE_TAG;
        pack: TRAILER_HEADER_LEN TRAILER_SEGMENT BASE_PREFIX_LEN PATCH_PIECE_LEN FOOTER_LEN FOOTER_CHECKSUM_LEN;
        parity: DESCRIPTOR_LEN DESCRIPTOR_CHECKSUM_LEN SHARD_CHECKSUM_LEN PARITY_SECTOR_LEN COPY_SHARD_LEN DATA_SHARDS_MAX PARITY_SHARDS_MIN PARITY_PERCENT_MAX PARITY_PERCENT_DEFAULT
            PROTECTED_LEN_MAX;
    }
}

#[test]
fn limits() {
    let page = Page::read();
    let table = page.table("Limits", "name");
    let stated: BTreeMap<&str, u64> = table.rows.iter().map(|row| (row[0].as_str(), row[1].parse().unwrap())).collect();
    assert_eq!(stated.len(), table.rows.len(), "a limit is named twice");
    assert_eq!(stated, constants());
    // And none is missing in both.
    let mut names = vec!["ID_LEN".to_string()];
    let files_in = |dir: &str| walkdir::WalkDir::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)).into_iter().map(Result::unwrap);
    let files = files_in("src/store/format").chain(files_in("src/recorded"));
    for file in files.filter(|entry| entry.file_type().is_file()) {
        let text = std::fs::read_to_string(file.path()).unwrap();
        names.extend(text.lines().filter_map(|line| Some(line.strip_prefix("pub const ")?.split(':').next()?.to_string())));
    }
    names.retain(|name| !name.ends_with("_MAGIC"));
    names.sort();
    assert_eq!(names, stated.keys().copied().collect::<Vec<_>>());
}

/// The numbers of the skip rule, which are the writer's own.
#[test]
fn skip_rule() {
    let (page, text) = (Page::read(), source("store/repo/writer/base.rs"));
    let first = |name: &str| {
        let rule = text.split_once(&format!("const {name}: Skip = Skip {{ first: ")).unwrap().1;
        rule.split_once(", factor: 4 }").expect("the page says 4").0
    };
    let said = format!("f = {} for chunks, {} for nodes", first("CHUNK_SKIP"), first("NODE_SKIP"));
    assert!(page.text.contains(&said), "the page does not say {said}");
}

#[test]
fn limits_named_in_the_text_exist() {
    let page = Page::read();
    let known = constants();
    let (_, contexts) = (0, page.table("Names and keys", "name").names());
    for word in page.text.split(|c: char| !(c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())) {
        let is_limit = word.contains('_') && (word.ends_with("_MAX") || word.ends_with("_MIN") || word.ends_with("_FANOUT"));
        assert!(!is_limit || known.contains_key(word) || contexts.contains(&word), "{word} is no limit");
    }
}

#[test]
fn contexts() {
    let page = Page::read();
    let table = page.table("Names and keys", "name");
    let stated: Vec<(&str, &str)> = table.rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    let expected = [
        ("SUB_KEY_CONTEXT", crypto::SUB_KEY_CONTEXT),
        ("PADDING_CONTEXT", crypto::PADDING_CONTEXT),
        ("CHUNK_KEY_CONTEXT", crypto::CHUNK_KEY_CONTEXT),
        ("CHUNKING_SEED_CONTEXT", crypto::CHUNKING_SEED_CONTEXT),
        ("SOURCE_TAG_CONTEXT", crypto::SOURCE_TAG_CONTEXT),
        ("CATALOG_CONTEXT", crypto::CATALOG_CONTEXT),
        ("SUSPICION_CONTEXT", crypto::SUSPICION_CONTEXT),
    ];
    assert_eq!(stated[..7], expected);
    let [(_, source_context)] = stated[7..] else { panic!("{stated:?}") };
    assert!(source("ops/backup/mod.rs").contains(&format!("\"{source_context}\"")));
}

/// The fields of a structure in the source, with their types.
fn fields_in(text: &str, name: &str) -> Vec<Vec<String>> {
    let body =
        text.split_once(&format!("pub struct {name} {{\n")).unwrap_or_else(|| panic!("no struct {name}")).1.split_once("\n}").unwrap().0;
    let field = |line: &str| {
        let (name, kind) = line.trim().strip_prefix("pub ")?.split_once(": ")?;
        Some(vec![name.to_string(), kind.trim_end_matches(',').to_string()])
    };
    body.lines().filter_map(field).collect()
}

/// The variants of an enumeration in the source, with their numbers and what they hold.
fn variants_in(text: &str, name: &str) -> Vec<Vec<String>> {
    let body = text.split_once(&format!("pub enum {name} {{\n")).unwrap_or_else(|| panic!("no enum {name}")).1.split_once("\n}").unwrap().0;
    let lines = body.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    let variant = |(number, line): (usize, &str)| {
        let line = line.trim_end_matches(',');
        let (name, holds) = line.split_once('(').map_or((line, ""), |(name, rest)| (name, rest.trim_end_matches(')')));
        vec![name.to_string(), number.to_string(), holds.to_string()]
    };
    lines.enumerate().map(variant).collect()
}

#[test]
fn records() {
    let page = Page::read();
    let mut checked = 0;
    for path in [
        "recorded/mod.rs",
        "store/format/snapshot.rs",
        "store/format/config.rs",
        "store/format/key.rs",
        "store/format/log.rs",
        "store/format/mark.rs",
        "store/format/tombstone.rs",
    ] {
        let text = source(path);
        for structure in text.split("pub struct ").skip(1).map(|rest| rest.split(' ').next().unwrap()) {
            // Not records: laid out by the byte tables, or a string.
            if matches!(structure, "KdfCost" | "KeyRecord") || structure.starts_with("SourceKind(") {
                continue;
            }
            let stated: Vec<&[String]> = page.table(structure, "field").rows.iter().map(|row| &row[..2]).collect();
            assert_eq!(stated, fields_in(&text, structure), "{structure}");
            checked += 1;
        }
        for enumeration in text.split("pub enum ").skip(1).map(|rest| rest.split(' ').next().unwrap()) {
            assert_eq!(page.table(enumeration, "variant").rows, variants_in(&text, enumeration), "{enumeration}");
            checked += 1;
        }
    }
    assert_eq!(checked, page.tables.iter().filter(|table| matches!(&table.columns[0][..], "field" | "variant")).count());
}

#[test]
fn rows() {
    let page = Page::read();
    let text = source("store/format/pack/rows.rs");
    let (_, module) = text.split_once("mod bit {\n").unwrap();
    let mask = |line: &str| {
        let (name, value) = line.trim().strip_prefix("pub const ")?.split_once(": u8 = ")?;
        // The last is no bit of its own.
        (name != "OF_FRAME").then(|| vec![name.to_string(), value.trim_end_matches(';').to_string()])
    };
    let expected: Vec<Vec<String>> = module.split_once("\n}").unwrap().0.lines().filter_map(mask).collect();
    let table = page.table("Bits of a row", "name");
    assert_eq!(table.rows.iter().map(|row| &row[..2]).collect::<Vec<_>>(), expected);
    let masks: Vec<u8> = expected.iter().map(|row| u8::from_str_radix(&row[1].replace("0b", "").replace('_', ""), 2).unwrap()).collect();
    assert_eq!(masks.iter().fold(0u8, |all, mask| all.checked_add(*mask).expect("no bit twice")), 0xff);
    // What a row of each encoding starts with.
    let encodings = page.table("Encodings", "encoding");
    for (row, encoding) in
        encodings.rows.iter().zip([pack::Encoding::Raw, pack::Encoding::Zstd, pack::Encoding::Delta, pack::Encoding::Patch])
    {
        let (frame, bases) = match encoding {
            pack::Encoding::Delta | pack::Encoding::Patch => {
                (pack::Frame { encoding, ..values::delta(10, 1, 2, vec![values::slice(1, 1, 1)]) }, 1)
            }
            _ => (values::whole(encoding, 10), 0),
        };
        let bytes = values::table(vec![vec![(frame, vec![values::chunk(1, 10)])]]).encode();
        let first = pack::TRAILER_HEADER_LEN + id::ID_LEN + bases * pack::BASE_PREFIX_LEN + 1;
        assert_eq!(row[..2], [format!("{encoding:?}"), (bytes[first] & masks[0]).to_string()]);
    }
    assert_eq!(encodings.rows.len(), 4);
}

#[test]
fn padding() {
    for row in &Page::read().table("Packs", "L").rows {
        assert_eq!(padme(row[0].parse().unwrap()).to_string(), row[1], "{row:?}");
    }
}

/// Every file of a repository is one that the page names.
#[test]
fn layout() {
    let page = Page::read();
    let stated: Vec<&str> = page.table("Where objects lie", "path").rows.iter().map(|row| row[0].as_str()).collect();
    let bed = Bed::new(true);
    drop(make_database(&bed.path("db.sqlite"), 100));
    let repo = bed.open();
    let (first, second) = (back_up(&repo, &bed.path("db.sqlite"), 1), back_up(&repo, &bed.path("db.sqlite"), 2));
    super::support::protect(&repo, &second.id);
    super::support::forget(&repo, &[first.id], false);
    let mut found = std::collections::BTreeSet::new();
    let mut open = vec![(bed.path("repo"), String::new())];
    while let Some((directory, prefix)) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let (stem, suffix) = name.split_once('.').map_or((&name[..], ""), |(stem, _)| (stem, ".copy"));
            let shown = match (stem.len(), prefix.as_str()) {
                (64, "marks/") => "marks/<snapshot>".to_string(),
                (64, _) => format!("{prefix}<id>{suffix}"),
                (81, _) => format!("{prefix}<source>-<id>"),
                (2, "packs/") => "packs/<xx>".to_string(),
                _ => format!("{prefix}{name}"),
            };
            if entry.file_type().unwrap().is_dir() {
                let known = stated.iter().any(|path| path.starts_with(&format!("{shown}/")));
                assert!(known, "the page does not name {shown}");
                open.push((entry.path(), format!("{shown}/")));
            } else {
                assert!(stated.contains(&&shown[..]), "the page does not name {shown}");
                found.insert(shown);
            }
        }
    }
    let expected = [
        "FORMAT.md",
        "config",
        "config.copy",
        "forgotten/<id>",
        "keys/<id>",
        "keys/<id>.copy",
        "marks/<snapshot>/<id>",
        "packs/<xx>/<id>",
        "snapshots/<source>-<id>",
    ];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    assert_eq!(std::fs::read_to_string(bed.path("repo/FORMAT.md")).unwrap(), page.text);
}
