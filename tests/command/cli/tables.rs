//! The rows of tables in `show` and `ls`.

use rusqlite::Connection;

use super::support::Place;

/// A database with tables `t1` to `t25`, each with as many rows as its number says.
fn with_tables() -> Place {
    let place = Place::with_repository();
    let conn = Connection::open(place.path("many.db")).unwrap();
    for number in 1..=25 {
        conn.execute_batch(&format!("CREATE TABLE t{number}(x)")).unwrap();
        let rows = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number}) INSERT INTO t{number} SELECT i FROM n"
        );
        conn.execute_batch(&rows).unwrap();
    }
    drop(conn);
    place.ok(["backup", "sqlite", "a.db", "many.db"]);
    place
}

#[test]
fn the_largest_tables_come_first() {
    let place = with_tables();
    let show = place.ok(["show", "latest"]).stdout;
    assert!(show.contains("\nTABLE  ROWS  STREAM\nt       100  a.db\nt25      25  many.db\nt24      24  many.db\n"), "{show}");
    assert!(show.ends_with("t7        7  many.db\nand 6 more: --all\n"), "{show}");
    let all = place.ok(["show", "latest", "--all"]).stdout;
    assert!(all.ends_with("t1        1  many.db\n"), "{all}");
}

#[test]
fn ls_has_them_where_they_are_asked_for() {
    let place = with_tables();
    assert!(!place.ok(["ls", "latest"]).stdout.contains("TABLE"));
    let both = place.ok(["ls", "latest", "--tables", "--all"]).stdout;
    assert!(both.contains("t       100  a.db\n") && both.contains("t1        1  many.db\n"), "{both}");
    let one = place.ok(["ls", "latest", "a.db"]).stdout;
    assert!(one.ends_with("\nTABLE  ROWS\nt       100\n") && !one.contains("many.db"), "{one}");
    place.run(["ls", "latest", "nosuch.db"]).failed(1, &["has no stream nosuch.db"]);
    let document = place.json(["ls", "latest", "a.db"]);
    let tables = document["streams"][0]["tables"].as_array().unwrap();
    assert!(tables.iter().any(|table| table["name"] == "t" && table["rows"] == 100), "{tables:?}");
    assert!(place.json(["ls", "latest"])["streams"][0]["tables"].is_null());
}

#[test]
fn a_directory_names_what_is_in_it() {
    let place = Place::with_repository();
    std::fs::create_dir_all(place.path("tree/sub")).unwrap();
    place.database("tree/sub/in.db", 5);
    place.database("tree/subordinate.db", 5);
    place.ok(["backup", "files", "tree"]);
    let below = place.ok(["ls", "latest", "sub"]).stdout;
    assert!(below.contains("sub/in.db") && !below.contains("subordinate"), "{below}");
}

#[test]
fn without_recorded_rows_there_is_no_table() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db", "--content", "never"]);
    assert!(!place.ok(["show", "latest"]).stdout.contains("ROWS"));
    assert!(!place.ok(["ls", "latest", "--tables"]).stdout.contains("ROWS"));
}
