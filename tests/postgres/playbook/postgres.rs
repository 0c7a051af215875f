//! backup_postgres.sh and restore_postgres.sh, each test with a server of its own, whose database has the playbook's name.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};

use super::server::Server;
use super::site::{Site, backup_postgres, restore_postgres};

const LATEST: &str = "backups/postgres/latest";
const FILES: [&str; 5] = ["brainstem.pgdump", "checksums.txt", "globals.sql", "manifest.json", "schema.sql"];

struct Stage {
    site: Site,
    server: Server,
    dsn: String,
}

impl Stage {
    /// A server with the database, and one backup of it.
    fn backed_up() -> Self {
        let stage = Stage::on(Server::start_with(15, "localhost", |_| ()));
        stage.server.sql("postgres", "CREATE ROLE app LOGIN PASSWORD 'hunter2'");
        stage.server.sql("postgres", "CREATE DATABASE brainstem");
        stage.sql("CREATE TABLE memory AS SELECT n, md5(n::text) AS text FROM generate_series(1, 30000) n");
        stage.sql("ALTER TABLE memory OWNER TO app; CREATE TABLE models (n int)");
        stage.site.ok(&stage.backup());
        stage
    }

    /// With the playbook's DSN but for the port.
    fn on(server: Server) -> Self {
        let dsn = format!("postgresql://postgres:postgres@localhost:{}/brainstem", server.port);
        Stage { site: Site::new(), server, dsn }
    }

    fn backup(&self) -> String {
        backup_postgres(&self.dsn)
    }

    fn restore(&self) -> String {
        restore_postgres(&self.dsn)
    }

    fn sql(&self, text: &str) -> String {
        self.server.sql("brainstem", text)
    }

    fn databases(&self) -> String {
        let query = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datname LIKE 'brain%'";
        self.server.sql("postgres", query)
    }

    /// The old database is there under its name, and nothing else is.
    #[track_caller]
    fn untouched(&self) {
        assert_eq!(self.databases(), "brainstem");
        assert_eq!(self.sql("SELECT count(*) FROM memory"), "30000");
    }
}

#[test]
fn the_commands_do_what_the_playbook_says() {
    let stage = Stage::backed_up();
    let (site, name) = (&stage.site, format!("{LATEST}/manifest.json"));
    assert_eq!(site.names(LATEST), FILES);
    assert_eq!(site.names("backups/postgres"), ["icecore-repository", "icecore-repository.key", "latest"]);
    site.ok(&format!("cd {LATEST} && sha256sum -c --strict checksums.txt"));
    assert_eq!(std::fs::metadata(site.path(&format!("{LATEST}/brainstem.pgdump"))).unwrap().mode() & 0o777, 0o600);
    let globals = std::fs::read_to_string(site.path(&format!("{LATEST}/globals.sql"))).unwrap();
    assert!(globals.contains("CREATE ROLE app") && !globals.contains("SCRAM-SHA-256"), "{globals}");
    let first = site.json(&name);
    assert_eq!((first["status"].as_str(), first["source"]["kind"].as_str()), (Some("good"), Some("postgres")));
    assert!(first["facts"]["server_version"].as_str().unwrap().starts_with("15."), "{first}");
    assert!(first["facts"]["pg_dump"].as_str().unwrap().starts_with("15."), "{first}");
    let dump = first["files"].as_array().unwrap().iter().find(|file| file["kind"] == "pgdump").unwrap();
    let rows = |at: usize| (dump["tables"][at]["name"].as_str().unwrap(), dump["tables"][at]["rows"].as_u64().unwrap());
    assert_eq!((rows(0), rows(1)), (("public.memory", 30000), ("public.models", 0)));

    stage.sql("DELETE FROM memory WHERE n > 10");
    let run = site.ok(&stage.restore());
    assert!(run.stdout.contains("verified"), "{}", run.stdout);
    assert_eq!(stage.sql("SELECT count(*), max(tableowner) FROM memory, pg_tables WHERE tablename = 'memory'"), "30000|app");
    let kept = stage.databases();
    let kept = kept.strip_prefix("brainstem ").unwrap();
    assert!(kept.starts_with("brainstem_pre_restore_"), "{kept}");
    assert_eq!(stage.server.sql(kept, "SELECT count(*) FROM memory"), "10");
    site.ok(&stage.backup());
    assert_eq!(site.json(&name)["parent"], first["snapshot"]);
    site.ok(&format!("{} --role-passwords", stage.backup()));
    let globals = std::fs::read_to_string(site.path(&format!("{LATEST}/globals.sql"))).unwrap();
    assert!(globals.contains("SCRAM-SHA-256"), "{globals}");
}

#[test]
fn a_new_server_needs_only_the_directory() {
    let old = Stage::backed_up();
    std::fs::remove_dir_all(old.site.path("backups/postgres/icecore-repository")).unwrap();
    let new = Stage { site: old.site, ..Stage::on(Server::start_with(18, "localhost", |_| ())) };
    let bin = format!("{} --pg-bin {}", new.restore(), new.server.bin.display());
    new.site.sh(&bin).fails(1, &["app", "psql -d postgres -f backups/postgres/latest/globals.sql", "nothing was changed"]);
    let psql = new.server.bin.join("psql");
    // An existing superuser is reported, and the script goes on.
    new.site.ok(&format!("{} -Xq -d {} -f {LATEST}/globals.sql", psql.display(), new.server.dsn("postgres")));
    new.site.ok(&bin);
    new.untouched();
}

#[test]
fn what_cannot_be_reached_leaves_the_last_backup() {
    let stage = Stage::backed_up();
    let site = &stage.site;
    let before = site.files(LATEST);
    let missing = stage.dsn.replace("/brainstem", "/elsewhere");
    site.sh(&backup_postgres(&missing)).fails(1, &["elsewhere", "does not exist"]);
    site.sh("bash scripts/backup_postgres.sh --dsn x").fails(2, &["--out-dir is missing", "usage:"]);
    site.sh(&format!("{} --jobz 3", stage.backup())).fails(2, &["--jobz"]);
    stage.server.control("immediate");
    site.sh(&stage.backup()).fails(1, &["cannot connect"]);
    site.sh(&stage.restore()).fails(1, &["cannot connect"]);
    assert_eq!(site.files(LATEST), before);
    assert_eq!(site.names("backups/postgres"), ["icecore-repository", "icecore-repository.key", "latest"]);
    stage.server.control("start");
    stage.untouched();
}

#[test]
fn a_first_backup_of_what_does_not_answer_leaves_nothing_behind() {
    let site = Site::new();
    // No server has port 1.
    site.sh(&backup_postgres("postgresql://postgres@localhost:1/brainstem")).fails(1, &["cannot connect to the server; nothing was made"]);
    assert!(!site.path("backups/postgres").exists());
}

#[test]
fn a_file_that_is_not_as_it_was_stops_a_restore_before_it_touches_anything() {
    let stage = Stage::backed_up();
    let (site, path) = (&stage.site, stage.site.path(&format!("{LATEST}/brainstem.pgdump")));
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    site.sh(&stage.restore()).fails(4, &["does not have the checksum in checksums.txt", "nothing was changed"]);
    std::fs::write(&path, &good[..good.len() - 1]).unwrap();
    site.sh(&stage.restore()).fails(4, &["does not have the checksum in checksums.txt"]);
    std::fs::write(site.path(&format!("{LATEST}/checksums.txt")), "garbage\n").unwrap();
    site.sh(&stage.restore()).fails(4, &["line 1 is not a checksum"]);
    std::fs::remove_file(&path).unwrap();
    site.sh(&stage.restore()).fails(1, &["brainstem.pgdump: no such file", "nothing was changed"]);
    site.sh("bash scripts/restore_postgres.sh --dsn x").fails(2, &["--backup-file is missing", "usage:"]);
    stage.untouched();
}

/// A limit on the size of files stands for a full disk: writing past it is an error as well (EFBIG in place of ENOSPC).
#[test]
fn a_full_disk_loses_nothing() {
    let stage = Stage::backed_up();
    let (site, before) = (&stage.site, stage.site.files(LATEST));
    let full = "trap '' XFSZ; ulimit -f 100;";
    site.sh(&format!("{full} {}", stage.backup())).fails(1, &["error:", "unchanged"]);
    assert_eq!(site.files(LATEST), before);
    assert_eq!(site.names("backups/postgres"), ["icecore-repository", "icecore-repository.key", "latest"]);
    std::fs::create_dir(site.path("spool")).unwrap();
    // With several jobs a stored dump is written to a file first.
    let (repo, dsn) = ("backups/postgres/icecore-repository", &stage.dsn);
    let restore =
        format!("ICECORE_REPOSITORY={repo} ICECORE_PASSWORD_FILE={repo}.key \"$ICECORE_BIN\" restore latest --dsn {dsn} --jobs 2");
    site.sh(&format!("trap '' XFSZ; ulimit -f 500; {restore} --tmp spool")).fails(1, &["cannot be written"]);
    site.sh(&format!("{restore} --tmp nowhere")).fails(1, &["nowhere"]);
    assert!(site.names("spool").is_empty());
    stage.untouched();
}

#[test]
fn a_repository_that_is_not_encrypted_needs_no_key() {
    let stage = Stage::backed_up();
    let site = &stage.site;
    site.ok("\"$ICECORE_BIN\" -R plain init --no-encryption");
    site.ok(&format!("ICECORE_REPOSITORY=plain {}", stage.backup()));
    site.sh(&format!("ICECORE_REPOSITORY=plain {} --role-passwords", stage.backup())).fails(2, &["--no-role-passwords"]);
    assert_eq!(site.names(LATEST), FILES);
}

/// Ctrl-C reaches the script and everything that it has started.
#[test]
fn an_interrupted_restore_leaves_the_old_database() {
    let stage = Stage::backed_up();
    // An index that takes long to make.
    let function = "CREATE OR REPLACE FUNCTION slow(n int) RETURNS int LANGUAGE sql IMMUTABLE AS";
    stage.sql(&format!("{function} 'SELECT n'; CREATE INDEX ON models (slow(n)); INSERT INTO models VALUES (1)"));
    stage.sql(&format!("{function} 'SELECT pg_sleep(1000); SELECT n'"));
    stage.site.ok(&stage.backup());
    for options in ["", " --jobs 2"] {
        let mut command = stage.site.command("bash");
        command.args(["-c", &format!("{}{options}", stage.restore())]).process_group(0);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        super::wait::until("the index is made", || stage.server.sql("postgres", sleeping) != "0");
        kill_process_group(Pid::from_child(&child), Signal::INT).unwrap();
        let run: super::site::Run = child.wait_with_output().unwrap().into();
        run.fails(130, &["interrupted"]);
        stage.untouched();
    }
}
