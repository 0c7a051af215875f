//! The owner of a database, an ordinary role, tries to get the rights of the role that backs it up, drills it or restores it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::capture::{self, dump};
use crate::drill;
use crate::restore::{family, good, plain, restore};
use crate::server::{Database, Server, must, on_every_version, server};
use crate::support::{Place, Run};

/// The start of the statements whose code runs while rows are loaded.
const LOADING: &str = "-- What loading runs.";

/// A database with the owner's code in every possible place.
pub struct Hostile {
    pub database: Database,
    /// The owner.
    pub owner: String,
    /// Connects as a superuser whose names are looked up in the owner's schema first.
    pub dsn: String,
    dir: tempfile::TempDir,
}

impl Hostile {
    /// Creates it, on request with code that runs while rows are loaded.
    pub fn on(server: &'static Server, is_loaded: bool) -> Self {
        let database = server.database();
        let (owner, admin) = (format!("{}_mallory", database.name), format!("{}_admin", database.name));
        // The server's user may make the file.
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        server.sql(
            "postgres",
            &format!(
                "CREATE ROLE {owner} LOGIN; CREATE ROLE {admin} LOGIN SUPERUSER; ALTER ROLE {admin} SET search_path = public, pg_catalog; \
                 ALTER DATABASE {} OWNER TO {owner}",
                database.name
            ),
        );
        let dsn = database.dsn().replace("postgres@", &format!("{admin}@"));
        let hostile = Hostile { database, owner, dsn, dir };
        let told = hostile.told();
        let all = include_str!("hostile.sql");
        let text = if is_loaded { all } else { all.split(LOADING).next().unwrap() };
        let text = text.replace("@OWNER@", &hostile.owner).replace("@DB@", &hostile.database.name);
        let mut psql = Command::new(server.bin.join("psql"));
        psql.args([
            "-Xq",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            &hostile.database.dsn().replace("postgres@", &format!("{}@", hostile.owner)),
            "-c",
        ]);
        must(psql.arg(text.replace("@TOLD@", told.to_str().unwrap())).output().unwrap(), "the owner's code");
        hostile.has_nothing("making it");
        hostile
    }

    /// The traces of code that had a superuser's rights.
    fn told(&self) -> PathBuf {
        self.dir.path().join("told")
    }

    /// Only the owner has run the owner's code.
    #[track_caller]
    pub fn has_nothing(&self, after: &str) {
        let query = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{}' AND rolsuper", self.owner);
        assert_eq!(self.database.server.sql("postgres", &query), "0", "{after} has made the owner a superuser");
        assert!(!self.told().exists(), "{after} has run the owner's code as a superuser");
    }

    /// How many roles there are that load rows of this owner.
    pub fn loaders(&self) -> String {
        let query = format!(
            "SELECT count(*) FROM pg_auth_members WHERE roleid = '{}'::regrole AND starts_with(member::regrole::text, 'icecore_loads_')",
            self.owner
        );
        self.database.server.sql("postgres", &query)
    }

    pub fn backup(&self, place: &Place, args: &[&str]) -> Run {
        let run: Run = capture::command(place, self.database.server, &self.dsn, args).output().unwrap().into();
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        run
    }
}

#[test]
fn a_backup_runs_none_of_the_owners_code() {
    on_every_version(|server| {
        let (place, hostile) = (plain(), Hostile::on(server, true));
        // For patterns pg_dump goes back to the search_path that the database's owner has chosen.
        let patterns = ["--exclude-table", "tab?e", "--exclude-table-data", "p*.lef*", "--exclude-table", "missing"];
        let patterns = [&["--no-role-passwords"], &patterns[..]].concat();
        for args in [&["--no-role-passwords"][..], &["--no-role-passwords", "--jobs", "2"], &patterns] {
            let run = hostile.backup(&place, args);
            assert_eq!(run.stderr, "", "these programs are new enough");
            hostile.has_nothing(&format!("{args:?}"));
        }
        let tables = String::from_utf8(dump(&place, "tables.tsv")).unwrap();
        assert!(tables.contains("\t3\t") && tables.contains("public.loaded"), "{tables}");
    });
}

#[test]
fn a_backup_of_all_databases_runs_none_of_the_owners_code() {
    let server: &'static Server = Box::leak(Box::new(Server::start(18)));
    let (place, hostile) = (plain(), Hostile::on(server, true));
    let run = hostile.backup(&place, &["--no-role-passwords", "--all-databases"]);
    assert_eq!(run.json()["snapshots"].as_array().unwrap().len(), 2);
    hostile.has_nothing("--all-databases");
}

/// Questions, indexes, refreshes and checks run with no more than the owner's rights. On a throw-away server too, none runs as a superuser.
#[test]
fn drills_and_restores_ask_and_index_without_rights() {
    for server in [15, 18].map(server) {
        let (place, hostile) = (plain(), Hostile::on(server, false));
        hostile.backup(&place, &["--no-role-passwords"]);
        let ask = "SELECT count(n) = 3 FROM v";
        let bin = server.bin.to_str().unwrap();
        for args in [&["--dsn", &hostile.dsn][..], &[]] {
            let args = [&["latest", "--pg-bin", bin, "--check-sql", ask, "--check-sql", "SELECT n > 0 FROM m"], args].concat();
            let run: Run = drill::command(&place, &args).output().unwrap().into();
            assert_eq!(run.code, Some(0), "{}", run.stderr);
            hostile.has_nothing(&format!("{args:?}"));
        }
        good(restore(&place, server, &["latest", "--dsn", &hostile.dsn]));
        hostile.has_nothing("restore");
        let roles = "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, 'icecore_asks_')";
        assert_eq!(server.sql("postgres", roles), "0", "who asked is gone");
        assert_eq!(family(server, &hostile.database.name).len(), 2, "the new one and the kept one");
    }
}

/// Loading rows runs the owner's code, with the owner's rights.
#[test]
fn loading_gives_owners_no_rights() {
    on_every_version(|server| {
        let (place, hostile) = (plain(), Hostile::on(server, true));
        hostile.backup(&place, &["--no-role-passwords"]);
        let run: Run =
            drill::command(&place, &["latest", "--pg-bin", server.bin.to_str().unwrap(), "--dsn", &hostile.dsn]).output().unwrap().into();
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(!run.stderr.contains("code of"), "{}", run.stderr);
        hostile.has_nothing("drill --dsn");
        for jobs in ["1", "2"] {
            let run = restore(&place, server, &["latest", "--dsn", &hostile.dsn, "--jobs", jobs]);
            assert!(!run.stderr.contains("code of"), "{}", run.stderr);
            let done = good(run);
            assert_eq!((&done["verified"], &done["differing"]), (&true.into(), &serde_json::json!([])), "{done}");
            hostile.has_nothing(&format!("restore --jobs {jobs}"));
        }
        assert_eq!(hostile.loaders(), "0", "who loaded is gone");
    });
}

/// So does loading a single table. Afterwards the table is complete or does not exist.
#[test]
fn loading_a_table_gives_its_owner_no_rights() {
    for server in [15, 18].map(server) {
        let (place, hostile) = (plain(), Hostile::on(server, true));
        hostile.backup(&place, &["--no-role-passwords"]);
        for (table, rows) in
            [("public.loaded", "3"), ("public.folded", "1"), ("public.constant", "1"), ("public.first", "1"), ("closed.t", "1")]
        {
            let args = ["latest", "--dsn", &hostile.dsn, "--table", table, "--as", "again"];
            let run = restore(&place, server, &args);
            assert_eq!(run.code, Some(0), "{table}: {}", run.stderr);
            assert!(!run.stderr.contains("code of"), "{}", run.stderr);
            restore(&place, server, &args).failed(1, &["already exists"]);
            let schema = table.split('.').next().unwrap();
            let query = format!(
                "SET search_path = pg_catalog; SELECT count(*) || (SELECT ' ' || relowner::regrole FROM pg_class \
                 WHERE oid = '{schema}.again'::regclass) FROM {schema}.again"
            );
            assert_eq!(hostile.database.sql(&query), format!("{rows} {}_admin", hostile.database.name), "{table}");
            hostile.database.sql(&format!("DROP TABLE {schema}.again"));
        }
        hostile.has_nothing("--table");
        assert_eq!(hostile.loaders(), "0");
    }
}

/// A failure leaves no role and no database.
#[test]
fn a_load_that_fails_leaves_no_role() {
    let server = server(16);
    let (place, hostile) = (plain(), Hostile::on(server, false));
    let only_here = format!(
        "CREATE FUNCTION here(int) RETURNS bool LANGUAGE plpgsql AS $$BEGIN RETURN current_database() = '{}' AND $1 < 2; END$$; \
         CREATE TABLE held (n int CHECK (here(n))); INSERT INTO held VALUES (1); ALTER TABLE held OWNER TO {}",
        hostile.database.name, hostile.owner
    );
    hostile.database.sql(&format!("SET search_path = public; {only_here}"));
    hostile.backup(&place, &["--no-role-passwords"]);
    for jobs in ["1", "2"] {
        let run = restore(&place, server, &["latest", "--dsn", &hostile.dsn, "--jobs", jobs]);
        run.failed(1, &["TABLE DATA public.held cannot be restored", &format!("no more rights than those of role {}", hostile.owner)]);
        assert_eq!(hostile.loaders(), "0");
        assert_eq!(family(server, &hostile.database.name), [hostile.database.name.as_str()]);
    }
    let run =
        restore(&place, server, &["latest", "--dsn", &hostile.dsn, "--keep-going", "--as", &format!("{}_all", hostile.database.name)]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert_eq!(hostile.loaders(), "0");
    hostile.has_nothing("a load that fails");
}

/// A server that lets in only its superuser. Loading then runs the owner's code as a superuser: a warning says so, and no role is left behind.
#[test]
fn who_loads_has_to_be_let_in() {
    let server: &'static Server = Box::leak(Box::new(Server::start_with(16, "", |data| {
        std::fs::write(data.join("pg_hba.conf"), "local all postgres trust\n").unwrap();
    })));
    let (place, database) = (plain(), server.database());
    database.sql("CREATE ROLE app; CREATE TABLE t AS SELECT 1 AS n; ALTER TABLE t OWNER TO app");
    assert_eq!(capture::backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
    for args in [&[][..], &["--table", "t"]] {
        let run = restore(&place, server, &[&["latest", "--dsn", &database.dsn()], args].concat());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        for words in [
            "with the rights of role postgres, a superuser",
            "trust these roles",
            "app; a temporary role without rights",
            "no pg_hba.conf entry",
        ] {
            assert!(run.stderr.contains(words), "{}", run.stderr);
        }
    }
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, 'icecore_loads_')"), "0");
}

/// A server as on Debian: the socket lets in only the role with the user's name, and TCP roles with a password.
#[test]
fn who_loads_logs_in_over_tcp_where_sockets_ask_for_the_user() {
    let server: &'static Server = Box::leak(Box::new(Server::start_with(18, "127.0.0.1", |data| {
        std::fs::write(data.join("pg_hba.conf"), "local all postgres trust\nlocal all all peer\nhost all all 127.0.0.1/32 scram-sha-256\n")
            .unwrap();
    })));
    let (place, database) = (plain(), server.database());
    database.sql("CREATE ROLE \"o'dd \\role\"; CREATE TABLE t AS SELECT 1 AS n; ALTER TABLE t OWNER TO \"o'dd \\role\"");
    assert_eq!(capture::backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
    for args in [&[][..], &["--table", "t"]] {
        let run = restore(&place, server, &[&["latest", "--dsn", &database.dsn()], args].concat());
        assert!(!run.stderr.contains("code of"), "{}", run.stderr);
        good(run);
    }
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, 'icecore_loads_')"), "0");
}

/// A server that lets nobody in but its superuser: that is found out before anything is restored.
#[test]
fn who_asks_has_to_be_let_in() {
    let server: &'static Server = Box::leak(Box::new(Server::start_with(16, "", |data| {
        std::fs::write(data.join("pg_hba.conf"), "local all postgres trust\n").unwrap();
    })));
    let (place, database) = (plain(), server.database());
    database.sql("CREATE TABLE t AS SELECT 1 AS n");
    assert_eq!(capture::backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
    let args = ["latest", "--pg-bin", server.bin.to_str().unwrap(), "--dsn", &database.dsn(), "--check-sql", "SELECT n = 1 FROM t"];
    let run: Run = drill::command(&place, &args).output().unwrap().into();
    run.failed(1, &["which cannot log in", "drill without --dsn"]);
    assert_eq!(family(server, &database.name), [database.name.as_str()]);
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, 'icecore_asks_')"), "0");
    let run: Run = drill::command(&place, &args[..5]).output().unwrap().into();
    assert_eq!(run.code, Some(0), "without it nobody has to ask: {}", run.stderr);
}
