//! Recoveries of a PostgreSQL database: `drill` against what is done by hand, on servers that are thrown away.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::bank::Bank;
use crate::common::Result;
use crate::common::process::{Cost, measure};
use crate::common::report::{median, ms};
use crate::server;

/// Tables and indexes that are loaded at once.
const JOBS: &str = "4";
/// By hand, in the arguments' order: the directory of PostgreSQL's programs (empty: they are on PATH), a new directory, the dump, the jobs. Makes a server with the settings of a drill's,
/// loads the dump, counts the rows of every table, stops it. The shell waits for the server, so that its CPU time counts as it does in a drill.
const BY_HAND: &str = r#"
set -e
dir=$2 dump=$3 jobs=$4 PATH=${1:+$1:}$PATH
mkdir "$dir"
initdb -D "$dir/data" -U postgres --auth=trust --no-sync -E UTF8 --locale=C >/dev/null
postgres -D "$dir/data" -c "unix_socket_directories=$dir" -c listen_addresses= -c fsync=off -c full_page_writes=off \
    -c synchronous_commit=off -c autovacuum=off -c wal_level=logical -c max_wal_size=4GB >/dev/null 2>&1 &
server=$!
trap 'kill -QUIT $server; wait $server || true; rm -rf "$dir"' EXIT
export PGHOST="$dir" PGUSER=postgres
until pg_isready -q; do sleep 0.02; done
createdb -T template0 bank
pg_restore -d bank -j "$jobs" "$dump"
echo "SELECT format('SELECT count(*) FROM %I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public' \gexec" |
    psql -X -q -A -t -v ON_ERROR_STOP=1 -d bank
"#;

/// One way to recover, as often as it was measured.
struct Way {
    name: &'static str,
    costs: Vec<Cost>,
    /// What a drill says the recovery took, without what it does after it, milliseconds.
    recovery_ms: Vec<f64>,
}

/// Measures `runs` recoveries of each way in turns, of the database of the postgres bench at this scale.
///
/// # Errors
/// What the programs say.
pub fn compare(scale: u32, runs: usize) -> Result<()> {
    if !server::is_installed() {
        println!("drill of a PostgreSQL database: left out, no server is installed");
        return Ok(());
    }
    let bank = Bank::start(scale, None)?;
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("log");
    let icecore = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.current_dir(dir.path()).args(["--json", "-R", "repo"]).args(args).env("ICECORE_PASSWORD", "bench");
        command.env("ICECORE_CACHE_DIR", dir.path().join("cache"));
        command
    };
    let dsn = bank.server().dsn();
    measure(&mut icecore(&["init"]), &log)?;
    measure(&mut icecore(&["backup", "postgres", "--dsn", &dsn]), &log)?;
    measure(&mut icecore(&["export", "latest", "export"]), &log)?;
    // The server's user may not enter the directory of the bench.
    let dump = bank.server().dir().join("dump");
    let bytes = std::fs::copy(dir.path().join("export/postgres.pgdump"), &dump)?;
    std::fs::set_permissions(&dump, Permissions::from_mode(0o644))?;
    let drills: [(&str, &[&str]); 3] = [
        ("drill latest", &[]),
        ("drill latest --jobs 4", &["--jobs", JOBS]),
        ("drill latest --jobs 4 --dsn (the server is not counted)", &["--jobs", JOBS, "--dsn", &dsn]),
    ];
    let names = drills.iter().map(|(name, _)| *name).chain(["a server, pg_restore -j 4, count(*)"]);
    let mut ways: Vec<Way> = names.map(|name| Way { name, costs: Vec::new(), recovery_ms: Vec::new() }).collect();
    for run in 0..runs {
        for turn in 0..ways.len() {
            let which = (turn + run) % ways.len();
            let Some((_, args)) = drills.get(which) else {
                ways[which].costs.push(by_hand(&bank, &dump, &log)?);
                continue;
            };
            let (cost, output) = measure(&mut icecore(&[&["drill", "latest", "--no-mark"], *args].concat()), &log)?;
            let report: serde_json::Value = serde_json::from_slice(&output)?;
            ways[which].costs.push(cost);
            ways[which].recovery_ms.push(report["drills"][0]["recovery_ms"].as_f64().ok_or("a drill tells how long it took")?);
        }
    }
    print(bytes, runs, &ways);
    Ok(())
}

fn by_hand(bank: &Bank, dump: &Path, log: &Path) -> Result<Cost> {
    let mut command = bank.server().owned("/bin/sh");
    command.args(["-c", BY_HAND, "sh"]).arg(bank.server().bin()).arg(bank.server().dir().join("by-hand")).arg(dump).arg(JOBS);
    Ok(measure(&mut command, log)?.0)
}

fn print(bytes: u64, runs: usize, ways: &[Way]) {
    let Some(plain) = ways.last() else { return };
    let middle = |costs: &[Cost], value: fn(&Cost) -> f64| median(&mut costs.iter().map(value).collect::<Vec<_>>());
    println!(
        "\na PostgreSQL database, {:.1} MB of dump, median of {runs} runs; peak memory is the most of one process",
        bytes as f64 / 1e6
    );
    println!("| | wall ms | recovery ms | CPU ms | peak MiB | of pg_restore |\n|---|--:|--:|--:|--:|--:|");
    for Way { name, costs, recovery_ms } in ways {
        let (wall, cpu) = (middle(costs, |cost| ms(cost.wall)), middle(costs, |cost| ms(cost.cpu)));
        let peak = costs.iter().map(|cost| cost.peak_bytes >> 20).max().unwrap_or(0);
        let recovery = if recovery_ms.is_empty() { wall } else { median(&mut recovery_ms.clone()) };
        let ratio = wall / middle(&plain.costs, |cost| ms(cost.wall));
        println!("| {name} | {wall:.0} | {recovery:.0} | {cpu:.0} | {peak} | {ratio:.2} |");
    }
}
