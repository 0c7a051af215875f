//! Settings of the role, the database and the server do not change what is dumped, loaded or compared.

use std::process::Command;

use crate::capture::{self, dump};
use crate::restore::{good, plain, restore, same, text, without_word};
use crate::script::write_script;
use crate::server::{Database, Server, server};
use crate::support::{Place, Run};
use crate::{drill, failures};

/// Settings with odd values.
const ODD: [(&str, &str); 34] = [
    ("bytea_output", "escape"),
    ("DateStyle", "'SQL, DMY'"),
    ("IntervalStyle", "sql_standard"),
    ("TimeZone", "'Asia/Kathmandu'"),
    ("extra_float_digits", "-3"),
    ("quote_all_identifiers", "on"),
    ("standard_conforming_strings", "off"),
    ("escape_string_warning", "off"),
    ("backslash_quote", "off"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("xmloption", "document"),
    ("xmlbinary", "hex"),
    ("client_encoding", "LATIN1"),
    ("search_path", "evil, pg_catalog"),
    ("row_security", "off"),
    ("check_function_bodies", "off"),
    ("default_tablespace", "pg_global"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("statement_timeout", "'5s'"),
    ("lock_timeout", "'5s'"),
    ("idle_in_transaction_session_timeout", "'5s'"),
    ("idle_session_timeout", "'5s'"),
    ("synchronous_commit", "off"),
    ("synchronize_seqscans", "on"),
    ("session_replication_role", "replica"),
    ("zero_damaged_pages", "on"),
    ("exit_on_error", "on"),
    ("client_min_messages", "debug1"),
    ("password_encryption", "md5"),
    ("gin_fuzzy_search_limit", "1"),
    ("timezone_abbreviations", "Default"),
];
/// Since 17.
const ODD_LATER: [(&str, &str); 2] = [("transaction_timeout", "'5s'"), ("event_triggers", "off")];

/// Values and objects that one of these settings changes.
const FIXTURE: &str = "CREATE SCHEMA evil; CREATE TABLE t AS SELECT n, decode(md5(n::text), 'hex') AS bytes, now() AS at, current_date AS day, \
    '-1 day +02:03'::interval AS span, n / 3.0::float8 AS part, n::numeric::money AS money, ARRAY[NULL, 'NULL', 'a'] AS list, \
    'a\\b''c' || chr(8364) AS text FROM generate_series(1, 500) n; \
    CREATE VIEW nulls AS SELECT n FROM t WHERE text = NULL OR text IS NULL; CREATE TABLE \"Odd\" (n int DEFAULT 1 CHECK (n <> 2), \
    span interval DEFAULT '-1 day +02:03'::interval, bytes bytea DEFAULT '\\x00ff'::bytea, day date DEFAULT '2026-02-01'::date, \
    text text DEFAULT E'a\\\\b'); INSERT INTO \"Odd\" DEFAULT VALUES; \
    CREATE FUNCTION back() RETURNS text LANGUAGE sql AS $$SELECT E'\\\\' || 'x'$$; CREATE INDEX ON t (n); \
    CREATE TABLE child (n int PRIMARY KEY, parent int REFERENCES child); INSERT INTO child VALUES (1, NULL), (2, 1); \
    CREATE FUNCTION evil.pg_export_snapshot() RETURNS text LANGUAGE sql AS $$SELECT 'evil'::text$$; \
    CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS $$SELECT '1'::text$$; \
    CREATE VIEW evil.pg_database AS SELECT 'evil'::name AS datname; \
    CREATE MATERIALIZED VIEW m AS SELECT n, text FROM t WHERE n < 10; SELECT lo_from_bytea(0, 'large')";

/// Only where the machine has it (scripts/test-servers.sh): there an amount is `-1.234,56` with its currency at the end.
const ODD_MONEY: (&str, &str) = ("lc_monetary", "'de_DE.UTF-8'");

fn odd(version: u32) -> impl Iterator<Item = (&'static str, &'static str)> {
    let locales = Command::new("locale").arg("-a").output().map(|output| output.stdout).unwrap_or_default();
    let has_locale = String::from_utf8_lossy(&locales).lines().any(|line| line == "de_DE.utf8");
    let later = ODD_LATER.into_iter().filter(move |_| version >= 17);
    ODD.into_iter().chain(later).chain(has_locale.then_some(ODD_MONEY))
}

fn set(server: &Server, what: &str) {
    let all: String = odd(server.version).map(|(name, value)| format!("{what} SET {name} = {value};")).collect();
    server.sql("postgres", &format!("SET transaction_read_only = off; {all}"));
}

fn saved(place: &Place, server: &Server, dsn: &str) -> Run {
    let run: Run = capture::command(place, server, dsn, &["--no-role-passwords"]).output().unwrap().into();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run
}

/// The dump without the time in its head, the evidence, and the schema.
fn streams(place: &Place, name: &str) -> (usize, Vec<u8>, Vec<String>, String) {
    let text = |name: &str| String::from_utf8(dump(place, name)).unwrap();
    let bytes = dump(place, &format!("{name}.pgdump"));
    let schema = text("schema.sql").lines().filter(|line| !line.contains("restrict ")).map(|line| format!("{line}\n")).collect();
    (bytes.len(), bytes[60..].to_vec(), text("tables.tsv").lines().skip(1).map(str::to_owned).collect(), schema)
}

/// A server of this version on which only this happens.
fn every_level(version: u32) {
    let server: &'static Server = Box::leak(Box::new(Server::start(version)));
    let (place, database) = (plain(), server.database());
    let name = database.name.as_str();
    database.sql(FIXTURE);
    if version == 15 {
        // The other servers are built without it.
        database.sql("ALTER TABLE t ADD xml xml DEFAULT '<a/>b'");
    }
    server.sql("postgres", "CREATE ROLE odd LOGIN SUPERUSER");
    let dsn = database.dsn().replace("postgres@", "odd@");
    saved(&place, server, &dsn);
    let (before, usual) = (streams(&place, name), text(server, name));

    set(server, "ALTER ROLE odd");
    let run = saved(&place, server, &dsn);
    assert_eq!(run.stderr, "", "nothing is refused to a superuser, and nothing is said");
    assert!(streams(&place, name) == before, "the role's settings");
    set(server, "ALTER ROLE odd IN DATABASE postgres");

    let system: Vec<String> = odd(version).map(|(name, value)| format!("ALTER SYSTEM SET {name} = {value}")).collect();
    let mut psql = Command::new(server.bin.join("psql"));
    psql.args(["-Xq", "-d", &server.dsn("postgres")]);
    for text in system.iter().filter(|text| !text.contains("client_encoding")) {
        psql.args(["-c", text]);
    }
    assert!(psql.args(["-c", "SELECT pg_reload_conf()"]).output().unwrap().status.success());
    while server.sql("postgres", "SHOW bytea_output") != "escape" {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    saved(&place, server, &dsn);
    assert!(streams(&place, name) == before, "the server's settings");

    set(server, &format!("ALTER DATABASE {name}"));
    saved(&place, server, &dsn);
    // The dump has the database's settings now.
    let now = streams(&place, name);
    assert!(now.2 == before.2 && now.3 == before.3, "the database's settings");

    all_comes_back(&place, &database, &dsn);
    let reset = |name: &str| server.sql("postgres", &format!("SET transaction_read_only = off; ALTER DATABASE {name} RESET ALL"));
    server.sql("postgres", "ALTER SYSTEM RESET ALL");
    server.sql("postgres", "SELECT pg_reload_conf()");
    reset("back");
    reset(name);
    while server.sql("postgres", "SHOW bytea_output") != "hex" {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let unnamed = |text: &str| without_word(&without_word(text, name), "back");
    same(&unnamed(&usual), &unnamed(&text(server, "back")));
}

fn all_comes_back(place: &Place, database: &Database, dsn: &str) {
    let server = database.server;
    let done = good(restore(place, server, &["latest", "--dsn", dsn, "--as", "back", "--no-tablespaces"]));
    assert_eq!((&done["verified"], &done["differing"]), (&true.into(), &serde_json::json!([])));
    good(restore(place, server, &["latest", "--dsn", dsn]));
    good(restore(place, server, &["latest", "--dsn", dsn, "--table", "public.t", "--as", "again"]));
    let bin = server.bin.to_str().unwrap();
    for args in [&["latest", "--dsn", dsn, "--pg-bin", bin][..], &["latest", "--pg-bin", bin]] {
        let own = "SELECT pg_catalog.current_setting('bytea_output') = 'escape'";
        let run: Run = drill::command(place, &[args, &["--check-sql", own]].concat()).output().unwrap().into();
        assert_eq!(run.code, Some(0), "assertions are asked as the database's sessions ask: {}", run.stderr);
    }
}

#[test]
fn settings_of_role_database_and_server_change_nothing_in_15() {
    every_level(15);
}

#[test]
fn settings_of_role_database_and_server_change_nothing_in_18() {
    every_level(18);
}

/// A role that may not change a setting of a superuser still connects. A warning says what the dump may lack.
#[test]
fn settings_that_a_role_may_not_change_are_told() {
    let (place, database) = (plain(), server(16).database());
    let role = format!("{}_bound", database.name);
    let sets = ["zero_damaged_pages = on", "session_replication_role = replica", "plpgsql.extra_errors = 'all'", "bytea_output = escape"];
    let sets: String = sets.into_iter().map(|set| format!("ALTER ROLE {role} SET {set};")).collect();
    database.sql(&format!("CREATE ROLE {role} LOGIN; {sets} CREATE TABLE t AS SELECT '\\x00ff'::bytea AS b; GRANT SELECT ON t TO {role}"));
    let run = saved(&place, database.server, &database.dsn().replace("postgres@", &format!("{role}@")));
    assert!(run.stderr.contains("this role has zero_damaged_pages=on"), "{}", run.stderr);
    assert!(!run.stderr.contains("session_replication_role"), "{}", run.stderr);
    good(restore(&place, database.server, &["latest", "--dsn", &database.dsn()]));
}

/// PgBouncer refuses settings that it does not know. A warning says so, and the dump is still made.
#[test]
fn a_pooler_that_refuses_settings_is_told() {
    let (place, database) = (plain(), server(16).database());
    failures::fill(&database);
    let role = format!("{}_odd", database.name);
    database.sql(&format!("CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET bytea_output = escape"));
    let dir = place.path("pooled");
    std::fs::create_dir(&dir).unwrap();
    for program in ["psql", "pg_dump", "pg_dumpall"] {
        let refusal = "case \"$PGOPTIONS\" in *bytea_output*) echo 'FATAL:  unsupported startup parameter: options' >&2; exit 2;; esac";
        write_script(&dir.join(program), &format!("{refusal}\nexec {} \"$@\"", database.server.bin.join(program).display()));
    }
    let dsn = database.dsn().replace("postgres@", &format!("{role}@"));
    let mut command = place.command();
    command.args(["--json", "backup", "postgres", "--no-role-passwords", "--dsn", &dsn, "--pg-bin"]).arg(&dir);
    let run: Run = command.output().unwrap().into();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("a pooler does not pass settings") && run.stderr.contains("bytea_output"), "{}", run.stderr);
}
