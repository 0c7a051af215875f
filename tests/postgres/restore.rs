//! `restore --dsn`: the new database equals the dumped one, and the old one is kept.

use std::process::{Command, Stdio};

use crate::capture::backup;
use crate::server::{Database, Server, on_every_version, server};
use crate::support::{Place, Run};

pub fn plain() -> Place {
    let place = Place::new();
    place.ok(["init", "--no-encryption"]);
    place
}

/// `icecore restore` with these arguments and a server's own programs.
pub fn command(place: &Place, server: &Server, args: &[&str]) -> Command {
    let mut command = place.command();
    command.args(["--json", "restore"]).args(args).env("TMPDIR", place.path("home"));
    if !args.contains(&"--table") {
        command.arg("--pg-bin").arg(&server.bin);
    }
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn restore(place: &Place, server: &Server, args: &[&str]) -> Run {
    command(place, server, args).output().unwrap().into()
}

pub fn good(run: Run) -> serde_json::Value {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run.json()
}

/// Takes a snapshot that has to be good.
pub fn saved(place: &Place, database: &Database) {
    assert_eq!(backup(place, database, &["--no-role-passwords"]).code, Some(0));
}

/// All that pg_dump writes of a database, as text, without what differs from run to run.
pub fn text(server: &Server, database: &str) -> String {
    let mut pg_dump = Command::new(server.bin.join("pg_dump"));
    let output = pg_dump.args(["--create", "-d", &server.dsn(database)]).env("PGTZ", "UTC").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
        .map(|line| format!("{line}\n"))
        .collect()
}

pub fn same(before: &str, after: &str) {
    let first = before.lines().zip(after.lines()).enumerate().find(|(_, (before, after))| before != after);
    assert!(before == after, "{} and {} lines; first difference: {first:?}", before.lines().count(), after.lines().count());
}

/// A text with one word replaced.
pub fn without_word(text: &str, word: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::new();
    for piece in text.split_inclusive(|c| !is_part(c)) {
        let end = piece.find(|c| !is_part(c)).unwrap_or(piece.len());
        out.push_str(if &piece[..end] == word { "_" } else { &piece[..end] });
        out.push_str(&piece[end..]);
    }
    out
}

/// Databases whose names begin like this one's.
pub fn family(server: &Server, name: &str) -> Vec<String> {
    let query = format!("SELECT datname FROM pg_database WHERE datname = '{name}' OR starts_with(datname, '{name}_') ORDER BY 1");
    server.sql("postgres", &query).lines().map(str::to_owned).collect()
}

pub fn everything(server: &'static Server) -> Database {
    let database = server.database();
    let statements = include_str!("fixture.sql").replace("@DB@", &database.name).replace("@R@", &format!("{}_", database.name));
    database.sql(&statements);
    let extensions: &[&str] = if server.version == 15 { &["hstore", "pg_trgm", "citext"] } else { &["vector"] };
    for extension in extensions {
        database.sql(&format!("SET transaction_read_only = off; CREATE EXTENSION {extension} SCHEMA app"));
    }
    database
}

/// A document of docs/json.md has the fields that its table has there.
fn as_the_page_says(title: &str, document: &serde_json::Value) {
    let page = include_str!("../../docs/json.md");
    let table = page.split(&format!("### `{title}`\n")).nth(1).unwrap().split("###").next().unwrap();
    let mut fields: Vec<&str> = table.lines().filter_map(|row| row.strip_prefix("| `")?.split('`').next()).collect();
    fields.push("schema");
    fields.sort_unstable();
    assert_eq!(document.as_object().unwrap().keys().collect::<Vec<_>>(), fields);
}

#[test]
fn everything_comes_back_in_the_place_of_the_old_and_beside_it() {
    on_every_version(|server| {
        let (place, database) = (plain(), everything(server));
        let name = database.name.as_str();
        let before = text(server, name);
        saved(&place, &database);
        database.sql("SET transaction_read_only = off; DROP SCHEMA app CASCADE; CREATE TABLE public.newer (n int)");
        server.sql("postgres", &format!("ALTER DATABASE {name} RESET ALL; COMMENT ON DATABASE {name} IS NULL"));

        let done = good(restore(&place, server, &["latest", "--dsn", &database.dsn()]));
        same(&before, &text(server, name));
        assert_eq!(done["verified"], true);
        as_the_page_says("restore --dsn", &done);
        let told = place.json(["log"])["entries"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((&told["operation"], &told["outcome"], &told["snapshots"][0]), (&"restore".into(), &"done".into(), &done["snapshot"]));
        assert_eq!(done["large_objects"], 2);
        let kept = done["kept"].as_str().unwrap();
        assert!(kept.starts_with(&format!("{name}_pre_restore_")), "{kept}");
        assert_eq!(server.sql(kept, "SELECT count(*) FROM public.newer"), "0");
        assert_eq!(family(server, name), [name, kept]);
        assert_eq!(database.sql("SELECT hour FROM app.hours"), "09", "views are filled under the database's own settings");
        let analyzed = "SELECT count(*) FROM pg_stats WHERE tablename = 'people'";
        assert_ne!(database.sql(analyzed), "0", "the planner knows the tables");

        let beside = format!("{name}_beside");
        let done = good(restore(&place, server, &["latest", "--dsn", &database.dsn(), "--as", &beside, "--jobs", "3"]));
        assert!(done["kept"].is_null(), "{done}");
        let unnamed = |text: &str| without_word(&without_word(text, name), &beside);
        same(&unnamed(&before), &unnamed(&text(server, &beside)));
        assert!(std::fs::read_dir(place.path("home")).unwrap().next().is_none(), "the spool is gone");
        server.sql("postgres", &format!("DROP DATABASE {kept}"));
        server.sql("postgres", &format!("DROP DATABASE {beside}"));
    });
}

#[test]
fn encodings_and_locales_are_those_of_the_old() {
    on_every_version(|server| {
        let locales = [
            "ENCODING 'LATIN1' LOCALE 'C'",
            "ENCODING 'UTF8' LOCALE 'C.UTF-8'",
            "ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'",
        ];
        for (number, locale) in locales.into_iter().enumerate() {
            let (place, mut database) = (plain(), server.database());
            // Names of databases belong to the cluster, so databases of another encoding read them wrongly.
            let accent = if locale.contains("UTF8") { "\u{e9}" } else { "" };
            let name = format!("Odd Name {} {number}{accent}", database.name);
            if !can_create(server, &format!("CREATE DATABASE \"{name}\" TEMPLATE template0 {locale}")) {
                continue;
            }
            database.name = name.clone();
            let dsn = server.dsn(&name.replace(' ', "%20").replace('\u{e9}', "%C3%A9"));
            server.sql(&name, "CREATE TABLE t AS SELECT chr(233) || n AS text FROM generate_series(1, 10) n");
            let before = text_of(server, &name);
            let run: Run = crate::capture::command(&place, server, &dsn, &["--no-role-passwords"]).output().unwrap().into();
            assert_eq!(run.code, Some(0), "{}", run.stderr);
            good(restore(&place, server, &["latest", "--dsn", &dsn]));
            assert_eq!(before, text_of(server, &name), "{locale}");
            let table = good(restore(&place, server, &["latest", "--dsn", &dsn, "--table", "public.t", "--as", "back"]));
            assert_eq!(table["rows"], 10);
            assert_eq!(server.sql(&name, "SELECT count(*) FROM t FULL JOIN back USING (text) WHERE t IS NULL OR back IS NULL"), "0");
        }
    });
}

/// Not every server has every locale.
fn can_create(server: &Server, statement: &str) -> bool {
    let mut psql = Command::new(server.bin.join("psql"));
    psql.args(["-XqAt", "-d", &server.dsn("postgres"), "-c", statement]).output().unwrap().status.success()
}

fn text_of(server: &Server, database: &str) -> String {
    let query = "SELECT pg_encoding_to_char(encoding) || ' ' || datcollate || ' ' || datlocprovider::text || ' ' || \
                 (SELECT count(*) || md5(string_agg(text, ',' ORDER BY text)) FROM t) FROM pg_database WHERE datname = current_database()";
    server.sql(database, query)
}

#[test]
fn a_newer_server_takes_the_dump_of_an_older_one_once_it_has_the_roles() {
    let (place, database) = (plain(), everything(server(15)));
    database.sql("SET transaction_read_only = off; DROP EXTENSION hstore; DROP EXTENSION pg_trgm; DROP EXTENSION citext");
    saved(&place, &database);
    let newer: &'static Server = Box::leak(Box::new(Server::start(18)));
    let args = ["latest", "--dsn", &newer.dsn("postgres")];
    let run = restore(&place, newer, &args);
    run.failed(1, &[&format!("{0}_Odd role; {0}_owner; {0}_reader", database.name), "globals.sql", "nothing was changed"]);
    let mut psql = Command::new(newer.bin.join("psql"));
    std::fs::write(place.path("globals.sql"), crate::capture::dump(&place, "globals.sql")).unwrap();
    let run = psql.args(["-Xq", "-d", &newer.dsn("postgres")]).arg("-f").arg(place.path("globals.sql")).output().unwrap();
    assert!(run.status.success());
    let done = good(restore(&place, newer, &args));
    assert!(done["kept"].is_null() && done["database"] == database.name.as_str(), "{done}");
    assert_eq!(newer.sql(&database.name, "SELECT count(*) FROM app.people"), "2002");
    // A dump cannot be restored into an older version.
    let (place, newer) = (plain(), newer.database());
    saved(&place, &newer);
    let args = ["latest", "--dsn", &database.server.dsn("postgres")];
    restore(&place, newer.server, &args).failed(1, &["the dump is of PostgreSQL 18 and this server is version 15"]);
}

#[test]
fn the_time_zone_of_a_session_does_not_matter() {
    on_every_version(|server| {
        let (place, database) = (plain(), server.database());
        database.sql("CREATE TABLE t AS SELECT now() + n * interval '1 hour' AS at FROM generate_series(1, 100) n");
        let elsewhere = format!("{}?options=-c%20timezone%3DAsia/Tokyo", database.dsn());
        let run: Run = crate::capture::command(&place, server, &elsewhere, &["--no-role-passwords"]).output().unwrap().into();
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        good(restore(&place, server, &["latest", "--dsn", &database.dsn()]));
        assert_eq!(good(restore(&place, server, &["latest", "--dsn", &elsewhere, "--table", "t"]))["rows"], 100);
    });
}

#[test]
fn a_file_is_restored_if_it_is_what_its_checksum_says() {
    let (place, database) = (plain(), server(16).database());
    let (server, name) = (database.server, database.name.as_str());
    database.sql(
        "CREATE TABLE t AS SELECT n, now() + n * interval '1 day' AS at FROM generate_series(1, 5000) n; \
         CREATE TABLE checked (code varchar(3) CHECK (code IN ('a', 'b')))",
    );
    std::fs::create_dir(place.path("out")).unwrap();
    let dump = database.pg_dump(&[]);
    let (path, sums) = (place.path("out/x.pgdump"), place.path("out/checksums.txt"));
    let file = path.to_str().unwrap();
    std::fs::write(&path, &dump).unwrap();
    let run = restore(&place, server, &["--from-file", file, "--dsn", &database.dsn(), "--as", &format!("{name}_1")]);
    assert!(run.stderr.contains("there is no checksum for"), "{}", run.stderr);
    good(run);
    let written = Command::new("sha256sum").arg("x.pgdump").current_dir(place.path("out")).output().unwrap();
    std::fs::write(&sums, &written.stdout).unwrap();
    // With several jobs the file is read in place: this directory cannot be written to.
    let args = ["--from-file", file, "--dsn", &database.dsn(), "--as", &format!("{name}_2"), "--jobs", "2", "--tmp", "/proc/none"];
    let run = restore(&place, server, &args);
    assert!(!run.stderr.contains("there is no checksum for"), "{}", run.stderr);
    let done = good(run);
    assert_eq!(done["rows"], 5000);
    // The server writes this check differently after a restore. That is reported and stops nothing.
    assert_eq!(done["differing"], serde_json::json!(["TABLE public.checked"]));
    // A pipe does not block.
    let pipe = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    restore(&place, server, &["--from-file", pipe.to_str().unwrap(), "--dsn", &database.dsn()]).failed(1, &["not a regular file"]);
    for damaged in [&dump[..dump.len() - 1], &[dump.as_slice(), b"x"].concat()] {
        std::fs::write(&path, damaged).unwrap();
        let args = ["--from-file", file, "--dsn", &database.dsn()];
        restore(&place, server, &args).failed(4, &["checksums.txt"]);
        std::fs::remove_file(&sums).unwrap();
        restore(&place, server, &args).failed(4, &["x.pgdump is damaged"]);
        std::fs::write(&sums, &written.stdout).unwrap();
    }
    assert_eq!(family(server, name), [name.to_owned(), format!("{name}_1"), format!("{name}_2")]);
}

#[test]
fn one_table_comes_back_beside_what_is_there() {
    on_every_version(|server| {
        let (place, database) = (plain(), everything(server));
        database.sql("SET transaction_read_only = off; CREATE TABLE ballast AS SELECT md5(n::text) FROM generate_series(1, 100000) n");
        saved(&place, &database);
        let dsn = database.dsn();
        database.sql("SET transaction_read_only = off; DELETE FROM app.people WHERE id > 5; TRUNCATE app.parent CASCADE");
        let table = |table: &str, more: &[&str]| restore(&place, server, &[&["latest", "--dsn", &dsn, "--table", table], more].concat());
        let done = good(table("app.people", &[]));
        let new = done["table"].as_str().unwrap();
        assert!(new.starts_with("app.people_restored_20"), "{new}");
        assert_eq!(done["rows"], 2002);
        as_the_page_says("restore --dsn --table", &done);
        assert!(done["read_bytes"].as_u64().unwrap() < 700_000, "{done}");
        let count =
            format!("SELECT (SELECT count(*) FROM {new}), (SELECT count(*) FROM app.people), (SELECT length FROM {new} WHERE id = 10)");
        assert_eq!(database.sql(&count), "2002|5|3");
        // No rows appear in the tables that it inherited from.
        good(table("app.child", &["--as", "child back"]));
        assert_eq!(database.sql("SELECT (SELECT count(*) FROM app.parent), (SELECT count(*) FROM app.\"child back\")"), "0|1");
        good(table("odd schema.odd \" table", &["--as", "back"]));
        good(table("nothing", &["--as", "nothing_back"]));
        table("app.parted", &[]).failed(2, &["name one of its partitions"]);
        table("app.none", &[]).failed(1, &["the dump has no table app.none"]);
        table("people", &["--as", "serials"]).failed(1, &["already exists", "nothing was changed"]);
        database.sql("SET transaction_read_only = off; DROP TYPE app.place CASCADE");
        table("people", &["--as", "no_type"]).failed(1, &["app.place", "nothing was changed"]);
        assert_eq!(database.sql("SELECT to_regclass('app.no_type') IS NULL"), "t");
    });
}
