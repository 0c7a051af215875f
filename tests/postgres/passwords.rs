//! Malformed passwords are shown nowhere, not even in part.

use icecore::engine::Environment;
use icecore::engine::postgres::Conninfo;

use crate::support::Place;

/// Pieces of passwords.
const PIECES: [&str; 4] = ["Xhalf", "Yhalf", "Zhalf", "Whalf"];

/// Connection strings whose password is divided by characters in it.
const TORN: [&str; 22] = [
    "postgresql://u:Xhalf@Yhalf@127.0.0.1:1/db",
    "postgresql://u:Xhalf@Yhalf@127.0.0.1:1/db?application_name=x",
    "postgresql://u:Xhalf@Yhalf@Zhalf@127.0.0.1:1/db",
    "postgresql://u:Xhalf/Yhalf@127.0.0.1:1/db",
    "postgresql://u:123/Yhalf@127.0.0.1:1/db",
    "postgresql://u:Xhalf@Yhalf/Zhalf@127.0.0.1:1/db",
    "postgresql://u:Xhalf@Yhalf?Zhalf=1@127.0.0.1:1/db",
    "postgresql://u:Xhalf@Yhalf?port=Zhalf@127.0.0.1:1/db",
    "postgresql://u:Xhalf/Yhalf?Zhalf@127.0.0.1:1/db",
    "postgresql://u:Xhalf%zz@127.0.0.1:1/db",
    "postgresql://u:Xhalf/Yhalf",
    "postgresql://u:Xhalf",
    "postgresql://u@127.0.0.1:1/db?password=Xhalf&Yhalf=Zhalf",
    "postgresql://127.0.0.1:1/db?password=Xhalf%zz",
    "u:Xhalf@127.0.0.1:1/db",
    "u:Xhalf@Yhalf@127.0.0.1:1/db",
    "postgresql+psycopg2://u:Xhalf@127.0.0.1:1/db",
    "POSTGRESQL://u:Xhalf@127.0.0.1:1/db?sslmode=disable",
    " postgresql://u:Xhalf@127.0.0.1:1/db",
    "jdbc:postgresql://127.0.0.1:1/db?user=u&password=Xhalf",
    "host=127.0.0.1 port=1 user=u password=Xhalf Yhalf=Zhalf dbname=db",
    "host=127.0.0.1 port=1 user=u password='Xhalf' 'Yhalf dbname=db",
];

#[test]
fn a_password_that_is_torn_apart_is_not_shown_in_part() {
    let place = Place::new();
    place.ok(["init", "--no-encryption"]);
    place.database("a.db", 10);
    place.ok(["backup", "sqlite", "a.db"]);
    for (number, dsn) in TORN.into_iter().enumerate() {
        let restore = ["restore", "latest", "--dsn", dsn];
        let backup = ["backup", "postgres", "--no-role-passwords", "--dsn", dsn];
        // The second one is the same code from there on.
        for args in [&backup[..], &restore].into_iter().take(if number % 8 == 0 { 2 } else { 1 }) {
            let run = place.run(args);
            assert_eq!(run.code, Some(2), "{dsn}: {}", run.stderr);
            let shown = format!("{}{}", run.stdout, run.stderr);
            PIECES.iter().for_each(|piece| assert!(!shown.contains(piece), "{dsn}: {shown}"));
        }
        let hints = ["percent-encoded", "begins with postgresql://", "without its postgresql://", "without a `=`"];
        let surroundings = Environment { os_user: Some("me".into()), ..Environment::default() };
        let said = Conninfo::resolve(Some(dsn), &surroundings).unwrap_err().to_string();
        assert!(hints.iter().any(|hint| said.contains(hint)), "{dsn}: {said}");
    }
    let stored = place.ok(["--json", "log"]).stdout;
    PIECES.iter().for_each(|piece| assert!(!stored.contains(piece), "{stored}"));
}

/// Strings that libpq understands as intended are accepted.
#[test]
fn a_password_that_is_whole_is_taken() {
    for (dsn, database) in [
        ("postgresql://u:a%40b%2Fc@h/db", "db"),
        ("postgresql://u:a#b@h/db", "db"),
        ("postgresql://u:a?b@h/db", "db"),
        ("postgresql://u:a:b@h/db", "db"),
        ("postgresql://u:a@h:5432/my%40db?application_name=x", "my@db"),
        ("postgresql://u@h/db?application_name=a@b", "db"),
        ("postgresql://h:5432/db?user=a@b", "db"),
        ("postgresql://[::1]:5432/db?user=a@b", "db"),
        ("host=h user=u password='it\\'s @ / ?' dbname=db", "db"),
        ("dbname='a:b@c' user=u", "a:b@c"),
        ("a@b", "a@b"),
    ] {
        let surroundings = Environment { os_user: Some("me".into()), ..Environment::default() };
        assert_eq!(Conninfo::resolve(Some(dsn), &surroundings).unwrap().database, database, "{dsn}");
    }
}

/// Message and journal name a misplaced argument without its password.
#[test]
fn arguments_in_the_wrong_place_are_told_without_their_password() {
    let place = Place::new();
    place.ok(["init", "--no-encryption"]);
    let uri = "postgresql://u:Xhalf@Yhalf@h/db";
    for args in [
        &["backup", "postgres", uri][..],
        &["--json", "backup", "postgres", uri],
        &["restore", uri, "--to", "x"],
        &["--json", "restore", uri, "--to", "x"],
        &["drill", uri],
        &["show", uri],
        &["dump", uri, "x"],
        &["restore", "password=Xhalf", "--to", "x"],
        &["--repo", uri, "snapshots"],
    ] {
        let run = place.run(args);
        assert_ne!(run.code, Some(0), "{args:?}");
        let shown = format!("{}{}", run.stdout, run.stderr);
        PIECES.iter().for_each(|piece| assert!(!shown.contains(piece), "{args:?}: {shown}"));
        assert!(!run.stderr.is_empty());
    }
    let stored = place.ok(["--json", "log"]).stdout;
    PIECES.iter().for_each(|piece| assert!(!stored.contains(piece), "{stored}"));
}
