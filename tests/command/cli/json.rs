//! The shape of the JSON documents: fields, types, and nothing else on standard output.

use serde_json::Value;

use super::support::Place;

/// Each field is there and has the type: `n`umber, `i`nteger, `s`tring, `b`ool, `a`rray, `o`bject; with `?` also null.
#[track_caller]
fn shape(value: &Value, fields: &str) {
    for field in fields.split_whitespace() {
        let (name, kind) = field.split_once(':').unwrap();
        let there = value.get(name).unwrap_or_else(|| panic!("{name} is not in {value}"));
        let right = match kind.trim_end_matches('?') {
            "n" => there.is_number(),
            "i" => there.is_u64(),
            "s" => there.is_string(),
            "b" => there.is_boolean(),
            "a" => there.is_array(),
            "o" => there.is_object(),
            other => panic!("{other}"),
        };
        assert!(right || kind.ends_with('?') && there.is_null(), "{name} is {there}");
    }
}

const SNAPSHOT: &str = "id:s time:s duration_ms:n host:s user:s tool:s source:o parent:s? tags:a flags:a accepted:a protected:b checked:o? streams:i logical_bytes:i \
                        read_bytes:i new_chunks:i new_bytes:i stored_bytes:i";

const COST: &str = "stored_bytes:i raw_bytes:i zstd_bytes:i delta_bytes:i patch_bytes:i metadata_bytes:i node_bytes:i table_bytes:i padding_bytes:i \
                    record_bytes:i";
const CHAINS: &str = "stream_chunks:i? depth:o? work:o?";

#[test]
fn every_document() {
    let place = Place::new();
    let init = place.json(["init", "--no-encryption"]);
    shape(&init, "schema:i repository:s location:s encrypted:b");
    place.database("a.db", 100);
    let backup = "schema:i snapshot:s parent:s? source:s time:s duration_ms:n capture_ms:n key_derivation_ms:n streams:i \
                  unchanged_streams:i logical_bytes:i read_bytes:i new_chunks:i new_bytes:i stored_bytes:i flags:a accepted:a skipped:a";
    let first = place.json(["backup", "sqlite", "a.db", "--tag", "x", "--tag", "y"]);
    shape(&first, backup);
    assert_eq!(first["parent"], Value::Null);
    let size = std::fs::metadata(place.path("a.db")).unwrap().len();
    assert_eq!(first["logical_bytes"], size);
    let second = place.json(["backup", "sqlite", "a.db"]);
    shape(&second, backup);
    assert_eq!(second["parent"], first["snapshot"]);

    let list = place.json(["snapshots"]);
    shape(&list, "schema:i snapshots:a unreadable:a");
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 2);
    shape(&list["snapshots"][0], SNAPSHOT);
    shape(&list["snapshots"][0]["source"], "id:s kind:s label:s");
    assert_eq!(list["snapshots"][0]["tags"], serde_json::json!(["x", "y"]));
    assert!(list["snapshots"][0]["time"].as_str().unwrap().ends_with('Z'));

    let show = place.json(["show", "latest"]);
    shape(&show, &format!("schema:i snapshot:o facts:o packs:a streams:a {COST} {CHAINS} ratio:n"));
    shape(&show["snapshot"], SNAPSHOT);
    shape(&show["facts"], "instant:s sqlite:s");

    let ls = place.json(["ls", "latest"]);
    shape(&ls, "schema:i snapshot:s streams:a");
    let stream = "name:s kind:s bytes:i page_size:i page_count:i freelist_pages:i user_version:n application_id:n encoding:s \
                  journal_mode:s change_counter:i schema_cookie:i mode:s mtime:s uid:i gid:i";
    shape(&ls["streams"][0], stream);
    assert_eq!((&ls["streams"][0]["name"], &ls["streams"][0]["bytes"]), (&"a.db".into(), &size.into()));

    let stats = place.json(["stats"]);
    let sums = "schema:i repository:s location:s encrypted:b snapshots:i logical_bytes:i new_chunks:i new_bytes:i packs:i pack_bytes:i \
                chunks:i other:o unfinished_files:i unfinished_bytes:i per_snapshot:a unreadable:a ratio:n";
    shape(&stats, &format!("{sums} {COST} {CHAINS}"));
    shape(&stats["other"], COST);
    let row = "snapshot:s time:s source:s logical_bytes:i new_chunks:i new_bytes:i ratio:n";
    stats["per_snapshot"].as_array().unwrap().iter().for_each(|one| shape(one, &format!("{row} {COST} {CHAINS}")));
    shape(&stats["per_snapshot"][1]["depth"], "mean:n p99:i max:i");
    shape(&stats["per_snapshot"][1]["work"], "mean:n p99:i max:i");
    assert_eq!((&stats["snapshots"], &stats["logical_bytes"]), (&2.into(), &(2 * size).into()));

    let restore = place.json(["restore", "latest", "--to", "out"]);
    shape(&restore, "schema:i snapshot:s bytes:i duration_ms:n key_derivation_ms:n restored:a");
    shape(&restore["restored"][0], "name:s path:s bytes:i kept:a");

    let check = place.json(["check", "--read-data"]);
    shape(
        &check,
        "schema:i status:s read_data:b findings:a touched:a snapshots:i packs:i chunks:i read_bytes:i data:o \
                   marked_damaged:a marked_verified:a duration_ms:n",
    );
    let data = "chosen_packs:i read_packs:i complete:b seed:i? frames:i decoded_frames:i packs_within_7_days:i oldest:s?";
    shape(&check["data"], data);
    assert_eq!((&check["status"], &check["data"]["seed"]), (&"ok".into(), &Value::Null));
    let part = place.json(["check", "--read-data-subset", "50%", "--seed", "7"]);
    shape(&part["data"], data);
    assert_eq!(part["data"]["seed"], 7);
    assert_eq!(place.json(["check"])["data"], Value::Null);
    let scrub = place.json(["scrub"]);
    shape(&scrub, "schema:i status:s findings:a packs:i records:i read_bytes:i not_checked:a duration_ms:n");
    for document in [init, first, list, show, ls, stats, restore, check, part, scrub] {
        assert_eq!(document["schema"], 1);
    }
}

#[test]
fn errors_are_one_line_of_json() {
    let place = Place::new();
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--json", "snapshots"], 10, "no-repository"),
        (&["snapshots", "--json", "--bogus"], 2, "usage"),
        (&["--json", "-R", "s3://x/y", "stats"], 2, "usage"),
        (&["--json", "init"], 1, "backend"),
    ];
    for (args, code, word) in cases {
        let run = place.run(args);
        run.failed(code, &[]);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        let error: Value = serde_json::from_str(&run.stderr).unwrap();
        assert_eq!(error["error"]["code"], word);
        assert!(!error["error"]["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_warning_is_a_line_of_json_too() {
    let place = Place::with_repository();
    std::fs::create_dir_all(place.path(".icecore/snapshots")).unwrap();
    std::fs::write(place.path(".icecore/snapshots").join(format!("{}-{}", "ab".repeat(8), "ab".repeat(32))), "nothing").unwrap();
    let run = place.run(["--json", "snapshots"]);
    assert_eq!(run.code, Some(4));
    assert_eq!(run.json()["unreadable"].as_array().unwrap().len(), 1);
    let warning: Value = serde_json::from_str(&run.stderr).unwrap();
    assert!(warning["warning"]["message"].as_str().unwrap().contains("is damaged"));
}
