//! `restore --table`: names that need quotes, and tables that are made in other ways.

use crate::capture::backup;
use crate::restore::{good, plain, restore};
use crate::server::{on_every_version, server};

#[test]
fn names_are_given_as_they_are_or_as_in_sql() {
    let (place, database) = (plain(), server(16).database());
    database.sql(
        "CREATE SCHEMA \"a.b\"; CREATE SCHEMA a; CREATE SCHEMA \"Odd \"\"one\"; CREATE TABLE \"a.b\".c AS SELECT 1 AS n; \
         CREATE TABLE a.\"b.c\" AS SELECT 2 AS n; CREATE TABLE \"Odd \"\"one\".\"T.\"\"x\" AS SELECT 3 AS n; CREATE TABLE \"UPPER\" AS SELECT 4 AS n; \
         CREATE TABLE \"with.dot\" AS SELECT 5 AS n; CREATE TABLE \"\"\"quoted\"\"\" AS SELECT 6 AS n",
    );
    assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
    let table =
        |name: &str, new: &str| restore(&place, database.server, &["latest", "--dsn", &database.dsn(), "--table", name, "--as", new]);
    for (number, (given, new, value)) in [
        ("\"a.b\".c", "\"a.b\"", "1"),
        ("\"a.b\".\"c\"", "\"a.b\"", "1"),
        ("a.\"b.c\"", "a", "2"),
        ("\"Odd \"\"one\".\"T.\"\"x\"", "\"Odd \"\"one\"", "3"),
        ("Odd \"one.T.\"x", "\"Odd \"\"one\"", "3"),
        ("UPPER", "public", "4"),
        ("\"UPPER\"", "public", "4"),
        ("public.\"UPPER\"", "public", "4"),
        ("with.dot", "public", "5"),
        ("public.with.dot", "public", "5"),
        ("\"with.dot\"", "public", "5"),
        ("\"\"\"quoted\"\"\"", "public", "6"),
        ("\"quoted\"", "public", "6"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("New.{number}");
        assert_eq!(good(table(given, &name))["rows"], 1, "{given}");
        assert_eq!(database.sql(&format!("SELECT n FROM {new}.\"{name}\"")), value, "{given}");
    }
    // Two tables match. The message shows both as the user has to write them.
    table("a.b.c", "x").failed(2, &["\\\"a.b\\\".\\\"c\\\"", "\\\"a\\\".\\\"b.c\\\""]);
    table("upper", "x").failed(1, &["the dump has no table"]);
}

#[test]
fn typed_tables_come_back_and_the_one_that_is_there_stays_as_it_is() {
    on_every_version(|server| {
        let (place, database) = (plain(), server.database());
        database.sql(
            "CREATE TYPE item AS (n int, text text); CREATE TABLE typed OF item; INSERT INTO typed VALUES (1, 'a'); \
             CREATE TABLE keyed OF item (n WITH OPTIONS DEFAULT 7, CONSTRAINT positive CHECK (n > 0)); INSERT INTO keyed VALUES (2, 'b'); \
             CREATE TABLE stored (text text, n int); ALTER TABLE stored ALTER text SET STORAGE EXTERNAL, ALTER n SET STATISTICS 7; \
             ALTER TABLE stored FORCE ROW LEVEL SECURITY; INSERT INTO stored VALUES ('c', 3)",
        );
        assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
        database.sql("ALTER TABLE stored ALTER text SET STORAGE MAIN, ALTER n SET STATISTICS -1, NO FORCE ROW LEVEL SECURITY");
        for table in ["typed", "keyed", "stored"] {
            let new = format!("{table}_back");
            assert_eq!(good(restore(&place, server, &["latest", "--dsn", &database.dsn(), "--table", table, "--as", &new]))["rows"], 1);
            assert_eq!(database.sql(&format!("SELECT count(*) FROM (TABLE {table} INTERSECT TABLE {new}) x")), "1");
        }
        let shape = "SELECT attstorage::text || ' ' || relforcerowsecurity FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid \
                     WHERE relname = 'stored' AND attname = 'text'";
        assert_eq!(database.sql(shape), "m false", "the table that is there is not touched");
    });
}
