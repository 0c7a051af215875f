//! Backup and restore both warn of what a dump lacks.

use crate::capture::backup;
use crate::drill::as_the_page_says;
use crate::restore::{good, plain, restore};
use crate::server::{Server, on_every_version, server};
use crate::support::{Place, Run};

fn warned(run: &Run, words: &[&str]) {
    words.iter().for_each(|word| assert!(run.stderr.contains(word), "{word:?} is not in {}", run.stderr));
}

fn fact(place: &Place, name: &str) -> serde_json::Value {
    place.json(["show", "latest"])["facts"][name].clone()
}

#[test]
fn rows_of_unlogged_tables_that_a_standby_does_not_have() {
    let primary: &'static Server = Box::leak(Box::new(Server::start(15)));
    let (place, database) = (plain(), primary.database());
    database.sql("CREATE TABLE logged AS SELECT 1 AS n; CREATE UNLOGGED TABLE quick AS SELECT 2 AS n");
    // A standby takes no query of a serializable transaction.
    primary.sql("postgres", &format!("ALTER DATABASE {} SET default_transaction_isolation = 'serializable'", database.name));
    let standby = primary.standby();
    let dsn = standby.dsn(&database.name);
    let run: Run = crate::capture::command(&place, &standby, &dsn, &["--no-role-passwords"]).output().unwrap().into();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    warned(&run, &["unlogged", "a standby does not have: public.quick"]);
    assert_eq!(fact(&place, "unlogged_tables"), "public.quick");
    let run = restore(&place, primary, &["latest", "--dsn", &database.dsn()]);
    warned(&run, &["unlogged", "public.quick"]);
    good(run);
    assert_eq!(database.sql("SELECT (SELECT count(*) FROM logged), (SELECT count(*) FROM quick)"), "1|0");
    // The primary itself has them.
    let run = backup(&place, &database, &["--no-role-passwords"]);
    assert_eq!((run.code, run.stderr.contains("unlogged")), (Some(0), false), "{}", run.stderr);
}

#[test]
fn rows_of_extensions_and_foreign_tables_and_what_every_new_database_has() {
    on_every_version(|server| {
        let (place, database) = (plain(), server.database());
        database.sql(
            "CREATE SCHEMA app; CREATE TABLE app.own AS SELECT 1 AS n; CREATE TABLE app.\"the extension's\" AS SELECT 2 AS n; CREATE TABLE app.none (n int); \
             ALTER EXTENSION plpgsql ADD TABLE app.\"the extension's\"; ALTER EXTENSION plpgsql ADD TABLE app.none; \
             CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE app.far (n int) SERVER s",
        );
        let run = backup(&place, &database, &["--no-role-passwords"]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let told = ["belong to an extension", "app.\\\"the extension's\\\"", "foreign tables", "app.far"];
        warned(&run, &told);
        assert!(!run.stderr.contains("app.none"), "it has no rows: {}", run.stderr);
        let run = restore(&place, server, &["latest", "--dsn", &database.dsn()]);
        warned(&run, &told);
        good(run);

        database.sql("DROP SCHEMA public; DROP EXTENSION IF EXISTS plpgsql CASCADE");
        assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
        assert_eq!(fact(&place, "absent"), "schema public, extension plpgsql");
        good(restore(&place, server, &["latest", "--dsn", &database.dsn()]));
        let left = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'public'), (SELECT count(*) FROM pg_extension), \
                    (SELECT count(*) FROM app.own)";
        assert_eq!(database.sql(left), "0|0|1");
    });
}

#[test]
fn all_databases_are_templates_too_and_what_is_passed_over_is_told() {
    let server: &'static Server = Box::leak(Box::new(Server::start(16)));
    let (place, one) = (plain(), server.database());
    for name in ["a_template", "broken", "closed", "half_made"] {
        server.sql("postgres", &format!("CREATE DATABASE {name}"));
    }
    server.sql("postgres", "ALTER DATABASE a_template IS_TEMPLATE true");
    server.sql("postgres", "ALTER DATABASE closed ALLOW_CONNECTIONS false");
    server.sql("postgres", "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'broken'");
    let comment = server.sql(
        "postgres",
        "SELECT format('icecore works on half_made (%s) while it holds advisory lock 1', oid) FROM pg_database WHERE datname = 'half_made'",
    );
    server.sql("postgres", &format!("COMMENT ON DATABASE half_made IS '{comment}'"));
    let run = backup(&place, &one, &["--no-role-passwords", "--all-databases"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    warned(&run, &["database broken is passed over: it is invalid", "database closed is passed over", "database half_made is passed over"]);
    let passed: Vec<String> =
        run.json()["passed_over"].as_array().unwrap().iter().map(|one| one["database"].as_str().unwrap().to_owned()).collect();
    as_the_page_says("PassedOver", &run.json()["passed_over"][0]);
    assert_eq!(passed, ["broken", "closed", "half_made"]);
    let sources: Vec<String> =
        run.json()["snapshots"].as_array().unwrap().iter().map(|one| one["source"].as_str().unwrap().to_owned()).collect();
    assert_eq!(sources.len(), 3, "{sources:?}");
    assert!(sources[0].starts_with("a_template at"), "{sources:?}");
}

#[test]
fn logical_slots_of_the_replaced_database_are_told_before_and_after() {
    let (place, database) = (plain(), server(16).database());
    let slot = format!("{}_slot", database.name);
    database.sql("CREATE TABLE t (n int)");
    assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
    database.sql(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    let run = restore(&place, database.server, &["latest", "--dsn", &database.dsn()]);
    assert_eq!(run.stderr.matches(&slot).count(), 2, "before and after: {}", run.stderr);
    let done = good(run);
    assert_eq!(done["slots"], serde_json::json!([slot]));
    let kept = database.server.sql("postgres", &format!("SELECT database FROM pg_replication_slots WHERE slot_name = '{slot}'"));
    assert_eq!(done["kept"], kept.as_str());
    database.sql(&format!("SELECT pg_drop_replication_slot('{slot}')"));
}
