//! Dumps with objects that cannot be restored. The objects are named, and the rest is restored if asked for.

use crate::capture::backup;
use crate::drill::as_the_page_says;
use crate::restore::{family, good, plain, restore};
use crate::server::{Database, on_every_version, server};
use crate::support::{Place, Run};

/// A generated column and an index whose function calls another one without its schema, and intact tables.
const FIXTURE: &str = "CREATE FUNCTION inner_one(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(t)'; \
    CREATE FUNCTION outer_one(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN inner_one(t); END'; \
    CREATE TABLE people (name text, plain text GENERATED ALWAYS AS (outer_one(name)) STORED); INSERT INTO people VALUES ('Ann'), ('Bob'); \
    CREATE TABLE places (name text); CREATE INDEX places_plain ON places (outer_one(name)); INSERT INTO places VALUES ('Here'), ('There'); \
    CREATE TABLE well AS SELECT n FROM generate_series(1, 100) n; ALTER TABLE well ADD PRIMARY KEY (n)";

fn filled(database: &Database) -> Place {
    let place = plain();
    database.sql(FIXTURE);
    assert_eq!(backup(&place, database, &["--no-role-passwords"]).code, Some(0));
    place
}

fn objects(done: &serde_json::Value) -> Vec<String> {
    done["failed"].as_array().unwrap().iter().map(|failed| failed["object"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_object_is_named_and_the_rest_is_restored_if_asked_for() {
    on_every_version(|server| {
        let database = server.database();
        let (place, name) = (filled(&database), database.name.as_str());
        let args = ["latest", "--dsn", &database.dsn()];
        for jobs in ["1", "2"] {
            let run = restore(&place, server, &[&args[..], &["--jobs", jobs]].concat());
            run.failed(1, &["public.p", "cannot be restored", "inner_one(text) does not exist", "search_path", "--keep-going"]);
            assert!(!run.stderr.contains("Command was"), "{}", run.stderr);
            assert_eq!(family(server, name), [name]);
        }
        // It never replaces another database.
        restore(&place, server, &[&args[..], &["--keep-going"]].concat()).failed(2, &["--as"]);
        restore(&place, server, &[&args[..], &["--keep-going", "--as", name]].concat()).failed(2, &["another database"]);
        for (number, jobs) in ["1", "2"].into_iter().enumerate() {
            let beside = format!("{name}_beside{number}");
            let run = restore(&place, server, &[&args[..], &["--keep-going", "--as", &beside, "--jobs", jobs]].concat());
            assert_eq!(run.code, Some(3), "{}", run.stderr);
            let done = run.json();
            let mut failed = objects(&done);
            // With several jobs the order is not fixed.
            failed.sort_unstable();
            assert_eq!(failed, ["INDEX public.places_plain", "TABLE DATA public.people", "rows"], "{done}");
            assert!(done["failed"][0]["reason"].as_str().unwrap().contains("inner_one(text) does not exist"), "{done}");
            as_the_page_says("FailedObject", &done["failed"][0]);
            assert_eq!(done["failed"][2]["reason"], "public.people has 0 rows in place of 2");
            assert!(run.stderr.contains("not restored: INDEX public.places_plain: "), "{}", run.stderr);
            let rows = "SELECT (SELECT count(*) FROM well), (SELECT count(*) FROM places), (SELECT count(*) FROM people)";
            assert_eq!(server.sql(&beside, rows), "100|2|0");
            assert_eq!(
                server.sql(
                    "postgres",
                    &format!("SELECT shobj_description(oid, 'pg_database') IS NULL FROM pg_database WHERE datname = '{beside}'")
                ),
                "t"
            );
        }
        assert_eq!(database.sql("SELECT count(*) FROM people"), "2", "the old one is as it was");
        let told = place.json(["log"])["entries"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((&told["outcome"], &told["exit_code"]), (&"incomplete".into(), &3.into()));
    });
}

#[test]
fn with_nothing_in_the_way_it_is_a_restore_like_others() {
    let (place, database) = (plain(), server(16).database());
    database.sql("CREATE TABLE t AS SELECT n FROM generate_series(1, 10) n");
    assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
    let beside = format!("{}_beside", database.name);
    let done = good(restore(&place, database.server, &["latest", "--dsn", &database.dsn(), "--keep-going", "--as", &beside]));
    assert_eq!((objects(&done).len(), &done["verified"]), (0, &true.into()));
}

/// Missing roles and extensions are reported and do not stop the restore.
#[test]
fn what_the_server_lacks_is_left_out() {
    let (place, database) = (plain(), server(15).database());
    let role = format!("{}_gone", database.name);
    database.sql(&format!(
        "CREATE ROLE {role}; CREATE TABLE t AS SELECT 1 AS n; ALTER TABLE t OWNER TO {role}; CREATE EXTENSION hstore; \
         CREATE TABLE pairs AS SELECT 'a=>1'::hstore AS pair"
    ));
    assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
    // The wheel's servers have no hstore.
    let bare = server(16);
    let run = restore(&place, bare, &["latest", "--dsn", &bare.dsn("postgres"), "--as", &role, "--keep-going"]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    let failed = objects(&run.json());
    for object in ["EXTENSION hstore", "TABLE public.pairs", "TABLE public.t"] {
        assert!(failed.iter().any(|one| one == object), "{object} is not in {failed:?}");
    }
    assert_eq!(bare.sql(&role, "SELECT n FROM t"), "1");
}

/// Statements that fail may hold passwords, and are shown nowhere.
#[test]
fn passwords_in_statements_are_not_told() {
    let (place, database) = (plain(), server(16).database());
    let role = format!("{}_maker", database.name);
    database.sql(&format!(
        "CREATE ROLE {role} LOGIN CREATEDB; CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; \
         CREATE USER MAPPING FOR PUBLIC SERVER s OPTIONS (password 'hunter2'); \
         CREATE SUBSCRIPTION {0}_sub CONNECTION 'host=/none password=hunter2' PUBLICATION p WITH (connect = false)",
        database.name
    ));
    assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
    let dsn = database.server.dsn("postgres").replace("postgres@", &format!("{role}@"));
    let beside = format!("{role}_own");
    for (args, code) in [(&["--as", &beside][..], 1), (&["--as", &beside, "--keep-going"], 3)] {
        let run: Run = restore(&place, database.server, &[&["latest", "--dsn", &dsn, "--no-owner"], args].concat());
        assert_eq!(run.code, Some(code), "{}", run.stderr);
        assert!(run.stderr.contains("FOREIGN DATA WRAPPER w"), "{}", run.stderr);
        assert!(!run.stderr.contains("hunter2") && !run.stdout.contains("hunter2"), "{}", run.stderr);
    }
    assert!(!place.ok(["--json", "log"]).stdout.contains("hunter2"));
    let name = format!("{}_sub", database.name);
    database.sql(&format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE); DROP SUBSCRIPTION {name}"));
}
