//! docs/json.md against what the program prints: every field of every document is on the page, with its type, and none is missing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::support::Place;
use super::xattrs::{are_there, set};

struct Field {
    name: String,
    kind: String,
    optional: bool,
}

struct Page {
    tables: BTreeMap<String, Vec<Field>>,
    /// Tables and fields that something was compared with.
    used: BTreeSet<String>,
}

impl Page {
    fn read() -> Self {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md")).unwrap();
        let (mut tables, mut title) = (BTreeMap::new(), String::new());
        for line in text.lines() {
            if let Some(heading) = line.strip_prefix("### ") {
                title = heading.trim_matches('`').to_owned();
                assert!(tables.insert(title.clone(), Vec::new()).is_none(), "{title} is there twice");
            } else if let Some(row) = line.strip_prefix("| ").filter(|row| row.starts_with(['`', '('])) {
                let cells: Vec<&str> = row.split(" | ").collect();
                let kind = cells[1].trim_end_matches(" |").trim();
                let optional = kind.ends_with(", optional");
                let field =
                    Field { name: cells[0].trim_matches('`').to_owned(), kind: kind.trim_end_matches(", optional").to_owned(), optional };
                tables.get_mut(&title).unwrap().push(field);
            }
        }
        Page { tables, used: BTreeSet::new() }
    }

    /// The fields of a table, with those of the tables in brackets: place on the page, name, type, and whether it may be absent.
    fn fields(&mut self, table: &str) -> Vec<(String, String, String, bool)> {
        self.used.insert(table.to_owned());
        let rows = self.tables.get(table).unwrap_or_else(|| panic!("the page has no table {table}"));
        let place = |name: &str| format!("{table}.{name}");
        let rows: Vec<_> = rows.iter().map(|row| (place(&row.name), row.name.clone(), row.kind.clone(), row.optional)).collect();
        assert!(!rows.is_empty(), "{table} is empty");
        let mut all = Vec::new();
        for row in rows {
            match row.1.strip_prefix('(') {
                Some(other) => all.extend(self.fields(other.trim_end_matches(')'))),
                None => all.push(row),
            }
        }
        all
    }

    #[track_caller]
    fn compare(&mut self, table: &str, value: &Value) {
        let object = value.as_object().unwrap_or_else(|| panic!("{table}: {value}"));
        let fields = self.fields(table);
        let named: BTreeSet<&str> = fields.iter().map(|(_, name, ..)| name.as_str()).collect();
        assert_eq!(named.len(), fields.len(), "{table} names a field twice");
        let unknown: Vec<&String> = object.keys().filter(|name| !named.contains(name.as_str())).collect();
        assert!(unknown.is_empty(), "{table}: the page does not have {unknown:?}");
        for (place, name, kind, optional) in &fields {
            match object.get(name) {
                Some(found) => self.compare_type(place, kind, found),
                None => assert!(optional, "{table}: {name} is not there: {value}"),
            }
        }
    }

    fn compare_type(&mut self, place: &str, kind: &str, value: &Value) {
        if let Some(kind) = kind.strip_suffix(" or null") {
            if !value.is_null() {
                self.compare_type(place, kind, value);
            }
            return;
        }
        if let Some(kind) = kind.strip_prefix("array of ") {
            let all = value.as_array().unwrap_or_else(|| panic!("{place}: {value}"));
            return all.iter().for_each(|one| self.compare_type(place, kind, one));
        }
        if let Some(kind) = kind.strip_prefix("map of ") {
            let all = value.as_object().unwrap_or_else(|| panic!("{place}: {value}"));
            return all.values().for_each(|one| self.compare_type(place, kind, one));
        }
        self.used.insert(place.to_owned());
        let holds = match kind {
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            named => return self.compare(named, value),
        };
        assert!(holds, "{place} is no {kind}: {value}");
    }

    /// A document with its schema.
    #[track_caller]
    fn document(&mut self, title: &str, mut document: Value) {
        assert_eq!(document.as_object_mut().unwrap().remove("schema"), Some(1.into()), "{title}");
        self.compare(title, &document);
    }
}

fn answer(place: &Place, args: &[&str]) -> Value {
    place.run([&["--json"], args].concat()).json()
}

/// A tree with all kinds of streams, with names that are not UTF-8; whether one has an extended attribute, which not every file system takes.
fn make_tree(place: &Place) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"odd\xff");
    std::fs::create_dir_all(place.path("tree/dir")).unwrap();
    place.database("tree/t.db", 5);
    std::fs::write(place.path("tree").join(odd), "x").unwrap();
    std::os::unix::fs::symlink(odd, place.path("tree/link")).unwrap();
    std::fs::hard_link(place.path("tree").join(odd), place.path("tree/hard")).unwrap();
    let has_attributes = are_there(&place.path("tree"), "user.x", b"");
    if has_attributes {
        set(&place.path("tree/t.db"), "user.x", b"y");
    }
    has_attributes
}

fn make_documents(place: &Place, page: &mut Page) {
    use std::os::unix::fs::FileExt;
    page.document("init", answer(place, &["init", "--no-encryption", "--parity", "0"]));
    let page_of = |page: &mut Page, title: &str, args: &[&str]| page.document(title, answer(place, args));
    page_of(page, "status", &["status"]);
    place.database("a.db", 2000);
    for args in [&["backup", "sqlite", "a.db", "--tag", "x"][..], &["backup", "files", "tree"], &["backup", "sqlite", "a.db"]] {
        page_of(page, "backup", args);
    }
    for source in ["a.db", "tree"] {
        page_of(page, "show", &["show", "latest", "--source", source]);
        page_of(page, "ls", &["ls", "latest", "--source", source]);
    }
    page_of(page, "restore", &["restore", "latest", "--source", "tree", "--to", "out"]);
    page_of(page, "restore", &["restore", "latest", "--source", "a.db", "a.db=a.db"]);
    // A file whose place a directory has is not restored, nor its further name.
    let odd = place.path("out").join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"odd\xff"));
    std::fs::remove_file(&odd).unwrap();
    std::fs::create_dir(&odd).unwrap();
    page_of(page, "restore", &["restore", "latest", "--source", "tree", "--to", "out"]);
    page_of(page, "check", &["check"]);
    page_of(page, "check", &["check", "--read-data-subset", "50%"]);
    page_of(page, "check", &["check", "--read-data"]);
    // A flagged one, one that is accepted, one that is protected.
    place.database("bad.db", 300);
    std::fs::File::options().write(true).open(place.path("bad.db")).unwrap().write_all_at(&[0xee; 64], 2 * 4096).unwrap();
    page_of(page, "backup", &["backup", "sqlite", "bad.db"]);
    let bad = &place.newest();
    page_of(page, "mark", &["mark", bad, "accept", "it was so"]);
    page_of(page, "mark", &["mark", bad, "flag", "it is not"]);
    page_of(page, "mark", &["protect", bad]);
    page_of(page, "log", &["log", "note", "a note", "--snapshot", bad]);
    place.run(["backup", "sqlite", "gone.db", "--source", "a.db"]);
    std::fs::rename(place.path("a.db"), place.path("b.db")).unwrap();
    place.run(["backup", "sqlite", "a.db"]);
    place.run(["backup", "sqlite", "never.db", "--host", "elsewhere"]);
    page_of(page, "status", &["status", "--max-age", "1h", "--source", "a.db"]);
    page_of(page, "status", &["status"]);
    page_of(page, "snapshots", &["snapshots"]);
    page_of(page, "stats", &["stats"]);
    page_of(page, "forget", &["forget", "--keep-last", "1", "--dry-run", "--group-by", "tags"]);
    page_of(page, "forget", &["forget", "--keep-last", "9", "--dry-run", "--group-by", "host"]);
    page_of(page, "forget", &["forget", "--keep-last", "1", "--source", "a.db"]);
    place.database("c.db", 500);
    place.ok(["backup", "sqlite", "c.db"]);
    page_of(page, "forget", &["forget", "latest", "--source", "c.db", "--force"]);
    page_of(page, "prune --dry-run", &["prune", "--dry-run", "--max-unused", "0"]);
    page_of(page, "forget", &["forget", "--keep-last", "1", "--prune", "--grace", "0"]);
    page_of(page, "prune", &["prune", "--grace", "0"]);
    page_of(page, "backup", &["backup", "command", "--name", "words", "--", "echo", "words"]);
    page_of(page, "man", &["man", "pages"]);
    page_of(page, "log", &["log"]);
}

/// Exports of databases and of a tree, and what is restored and drilled.
fn make_copies(place: &Place, page: &mut Page) {
    use std::os::unix::ffi::OsStrExt;
    place.database("a.db", 100);
    std::fs::create_dir(place.path("tree").join(std::ffi::OsStr::from_bytes(b"dir\xff"))).unwrap();
    let [tree, databases] = [&["backup", "files", "tree"][..], &["backup", "sqlite", "a.db", "--tag", "y"]].map(|args| {
        let document = answer(place, args);
        let id = document["snapshot"].as_str().unwrap().to_owned();
        page.document("backup", document);
        id
    });
    for (title, args) in [
        ("export", &["export", &databases, "exported"][..]),
        ("restore", &["restore", "--from-dir", "exported", "a.db=copy.db"]),
        ("drill", &["drill", &databases, "--rto", "1h", "--check-sql", "SELECT 1", "--report", "report.json"]),
        ("drill", &["drill", &tree]),
        ("drill", &["drill", &databases, "--rto", "0"]),
        ("drill", &["drill"]),
    ] {
        page.document(title, answer(place, args));
    }
    let file = |name: &str| serde_json::from_slice(&std::fs::read(place.path(name)).unwrap()).unwrap();
    page.document("drill", file("report.json"));
    page.document("manifest.json", file("exported/manifest.json"));
    std::fs::write(place.path("exported/a.db"), "changed").unwrap();
    page.document("export", answer(place, &["export", &tree, "exported"]));
    page.document("manifest.json", file("exported/manifest.json"));
}

fn make_damage(place: &Place, page: &mut Page) {
    // A part of a pack first: some chunk of a stream; then all of them.
    let largest = place.stored("packs").into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    bytes[100..200].fill(0xee);
    std::fs::write(&largest, bytes).unwrap();
    page.document("check", answer(place, &["check", "--read-data"]));
    place.stored("packs").iter().for_each(|pack| std::fs::write(pack, "damaged").unwrap());
    let entry = place.stored("log").pop().unwrap();
    std::fs::write(entry, "damaged").unwrap();
    for (title, args) in [
        ("check", &["check", "--mark"][..]),
        ("scrub", &["scrub"]),
        ("snapshots", &["snapshots"]),
        ("stats", &["stats"]),
        ("log", &["log"]),
        ("status", &["status"]),
    ] {
        page.document(title, answer(place, args));
    }
    let run = place.run(["--json", "log"]);
    page.document("Warning line", serde_json::from_str(run.stderr.lines().next().unwrap()).unwrap());
    let run = place.run(["--json", "restore", "latest", "--source", "tree", "--to", "other"]);
    let error: Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((run.stdout.as_str(), error["error"]["exit_code"].as_i64()), ("", run.code.map(i64::from)));
    page.document("Error line", error);
    let usage = place.run(["--json", "frobnicate"]);
    page.document("Error line", serde_json::from_str(&usage.stderr).unwrap());
}

/// Damage to a snapshot record and to a part of a pack.
fn make_repairs(page: &mut Page) {
    let place = Place::without_parity();
    place.ok(["backup", "sqlite", "a.db"]);
    let snapshot = place.stored("snapshots").pop().unwrap();
    std::fs::write(snapshot, "damaged").unwrap();
    let pack = place.stored("packs").into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[100..200].fill(0xee);
    std::fs::write(&pack, bytes).unwrap();
    for (title, args) in [
        ("repair --dry-run", &["repair", "--dry-run"][..]),
        ("repair", &["repair"]),
        ("repair", &["repair", "--from", "a.db"]),
        ("repair --catalog", &["repair", "--catalog"]),
    ] {
        page.document(title, answer(&place, args));
    }
}

/// Damage to streams, then to everything.
fn make_salvages(page: &mut Page) {
    let place = Place::without_parity();
    page.document("restore --salvage", {
        place.ok(["backup", "sqlite", "a.db"]);
        answer(&place, &["restore", "latest", "--salvage", "--to", "whole"])
    });
    let flip = |at: &dyn Fn(usize) -> usize| {
        let pack = place.stored("packs").into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
        let mut bytes = std::fs::read(&pack).unwrap();
        let at = at(bytes.len());
        bytes[at] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
    };
    // Its only chunk, with the schema.
    flip(&|_| 100);
    page.document("restore --salvage", answer(&place, &["restore", "latest", "--salvage", "--to", "first"]));
    place.database("large.db", 2000);
    place.ok(["backup", "sqlite", "large.db"]);
    flip(&|len| len / 2);
    let document = answer(&place, &["restore", "latest", "--source", "large.db", "--salvage", "--to", "second"]);
    assert!(!document["streams"][0]["tables"]["damaged"].as_array().unwrap().is_empty(), "{document}");
    page.document("restore --salvage", document);
    place.stored("packs").iter().for_each(|pack| std::fs::write(pack, "damaged").unwrap());
    page.document("restore --salvage", answer(&place, &["restore", "latest", "--source", "large.db", "--salvage", "--to", "third"]));
}

#[test]
fn every_document_is_as_the_page_says() {
    let place = Place::new();
    let mut page = Page::read();
    if !make_tree(&place) {
        page.used.insert("Stream.xattrs".to_owned());
    }
    make_documents(&place, &mut page);
    make_copies(&place, &mut page);
    make_damage(&place, &mut page);
    make_repairs(&mut page);
    make_salvages(&mut page);
    // All of the page was met, but for what takes the rarest of circumstances.
    let rare = [
        "Restored.path_hex",
        "Place.path_hex",
        "man.path_hex",
        "export.path_hex",
        "restore --salvage.path_hex",
        "SalvagedStream.name_hex",
        "SalvagedStream.path_hex",
        "Touched.stream_hex",
        "TableContent.name_hex",
        "Flag.stream_hex",
    ];
    // It takes a server: the tests of PostgreSQL compare it.
    let elsewhere =
        ["backup postgres --all-databases", "FailedDatabase", "PassedOver", "FailedObject", "restore --dsn", "restore --dsn --table"];
    let fields_elsewhere = ["Drill.server", "Drill.server_user"];
    for (title, fields) in page.tables.iter().filter(|(title, _)| !elsewhere.contains(&title.as_str())) {
        assert!(page.used.contains(title), "nothing was compared with {title}");
        for Field { name, kind, .. } in fields.iter().filter(|field| !field.name.starts_with('(')) {
            let place = format!("{title}.{name}");
            let rare = [&rare[..], &fields_elsewhere].concat();
            let is_plain = ["string", "integer", "number", "boolean"].contains(&kind.trim_end_matches(" or null"));
            assert!(!is_plain || page.used.contains(&place) || rare.contains(&place.as_str()), "{place} was never met");
        }
    }
}

/// The words of errors on the page are those of the program.
#[test]
fn the_words_of_errors() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md")).unwrap();
    let row = page.lines().find(|line| line.starts_with("| `code` | string | a stable word: `backend`")).unwrap();
    let said: BTreeSet<&str> = row.split('`').skip(3).step_by(2).collect();
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/error.rs")).unwrap();
    let arms = source.lines().filter(|line| line.contains(" => (") && line.contains('"')).filter_map(|line| line.split('"').nth(1));
    let mut words: BTreeSet<String> = arms.map(str::to_owned).collect();
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        words.extend(text.split("Failure { exit: Exit::").skip(1).filter_map(|rest| Some(rest.split('"').nth(1)?.to_owned())));
    }
    assert_eq!(said, words.iter().map(String::as_str).collect());
}
