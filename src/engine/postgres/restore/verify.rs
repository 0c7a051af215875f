//! Whether a restored database is what was dumped: it is dumped too, and what the two dumps hold is compared.

use std::collections::BTreeMap;
use std::io::Read;

use super::ServerOptions;
use super::dump::Dump;
use super::preflight::{is_of_database, some};
use crate::engine::child::{Running, Tee};
use crate::engine::postgres::archive::{self, Archive, Entry, RowSum};
use crate::engine::postgres::tables::{Evidence, Tables};
use crate::engine::postgres::{Connection, Conninfo, Tools};
use crate::engine::pump::Pump;
use crate::error::{Error, Result};
use crate::progress::Monitor;

/// Bytes of the new dump that are passed over at once.
const BLOCK_LEN: usize = 64 << 10;

/// What comparing two dumps has shown that stops nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// What the user should know.
    pub(super) warnings: Vec<String>,
    /// Definitions that the server writes differently now.
    pub(super) differing: Vec<String>,
    /// Tables that do not have the rows of the dump, if that is no failure.
    pub(super) wrong: Vec<String>,
}

/// Dumps the new database and compares rows and their sums, table by table; then, if that makes sense, the tables of contents.
///
/// # Errors
/// [`Error::Destination`] naming the tables that do not have the rows of the dump.
pub(super) fn verify(
    dump: &Dump,
    head: &Archive,
    conninfo: &Conninfo,
    tools: &Tools,
    options: &ServerOptions,
    monitor: &dyn Monitor,
) -> Result<Compared> {
    let restored = dump_of(conninfo, tools, options, monitor)?;
    let mut compared = Compared::default();
    let (wrong, only_sums) = differences(&dump.evidence, &Tables::of(&restored));
    let all = || wrong.iter().chain(&only_sums).cloned().collect::<Vec<_>>();
    let is_wrong = !wrong.is_empty() || (dump.sums_hold && !only_sums.is_empty());
    if is_wrong && options.keep_going {
        compared.wrong = all();
    } else if is_wrong {
        let detail = format!("what was restored is not what was dumped: {}", some(&all()));
        return Err(Error::destination(conninfo.label(), detail));
    }
    if !only_sums.is_empty() && !is_wrong {
        let text =
            "these tables have as many rows as the dump, but they read differently, as they do if the dump was made in another time zone";
        compared.warnings.push(format!("{text}: {}", some(&only_sums)));
    }
    if major(&head.dump_version) == major(&restored.dump_version) && major(&head.server_version) == major(&restored.server_version) {
        contents(head, &restored, options, &mut compared);
    }
    Ok(compared)
}

fn major(version: &str) -> &str {
    version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default()
}

fn dump_of(conninfo: &Conninfo, tools: &Tools, options: &ServerOptions, monitor: &dyn Monitor) -> Result<Archive> {
    monitor.phase("comparing", None);
    // Which settings pg_dump has to be given, a session in the database says.
    let conninfo = Connection::open(conninfo)?.conninfo;
    let mut command = tools.command("pg_dump", &options.environment, &conninfo);
    command.args(["-Fc", "-Z0", "--no-password"]);
    let (running, output) = Running::start("pg_dump", command, |tee: &mut Tee| archive::read(tee, |_| ()))?;
    let go_on = || if monitor.cancelled() { Err(Error::Cancelled) } else { Ok(()) };
    let mut output = Pump::start(output, &go_on).map_err(|e| Error::source("pg_dump", e))?;
    let mut buffer = vec![0; BLOCK_LEN];
    loop {
        go_on()?;
        match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => monitor.advance(got as u64),
            Err(e) => return go_on().and(Err(Error::source("pg_dump", e))),
        }
    }
    let finished = running.finish_or(", so the restored database could not be verified", monitor)?;
    finished.seen.map_err(|error| Error::source("pg_dump", format!("its archive cannot be read: {error}")))
}

type Tally<'t> = BTreeMap<(&'t str, &'t str), (u64, RowSum)>;

/// Rows and sums by kind and name. Large objects are divided among blocks in ways that differ.
fn tally(tables: &Tables) -> Tally<'_> {
    let mut tally = Tally::new();
    for Evidence { kind, name, rows, sum, .. } in &tables.blocks {
        let name = if kind == "BLOBS" { "large objects" } else { name.as_str() };
        let entry = tally.entry((kind, name)).or_default();
        entry.0 += rows;
        entry.1.merge(sum);
    }
    tally
}

/// Tables with other numbers of rows, and those with as many but other ones.
fn differences(dumped: &Tables, restored: &Tables) -> (Vec<String>, Vec<String>) {
    let (dumped, restored) = (tally(dumped), tally(restored));
    let (mut wrong, mut only_sums) = (Vec::new(), Vec::new());
    let names: std::collections::BTreeSet<_> = dumped.keys().chain(restored.keys()).collect();
    for key in names {
        let none = (0, RowSum::default());
        let (before, after) = (dumped.get(key).unwrap_or(&none), restored.get(key).unwrap_or(&none));
        match (before.0 == after.0, before.1 == after.1) {
            (true, true) => {}
            (true, false) => only_sums.push(format!("{} has other rows", key.1)),
            (false, _) => wrong.push(format!("{} has {} rows in place of {}", key.1, after.0, before.0)),
        }
    }
    (wrong, only_sums)
}

/// The digest of an entry's statements, and its owner.
type Definition = ([u8; 32], String);

/// Compares tables of contents.
fn contents(head: &Archive, restored: &Archive, options: &ServerOptions, compared: &mut Compared) {
    let is_compared = |entry: &&Entry| match entry.kind.as_str() {
        "BLOBS" | "BLOB METADATA" => false,
        "ACL" | "DEFAULT ACL" if options.no_privileges => false,
        kind => !is_of_database(kind, &entry.name),
    };
    let index = |archive: &Archive| {
        let mut index: BTreeMap<(String, String), Vec<Definition>> = BTreeMap::new();
        for entry in archive.entries.iter().filter(is_compared) {
            let owner = if options.no_owner { String::new() } else { entry.owner.clone() };
            index.entry((entry.kind.clone(), entry.full_name())).or_default().push((entry.digest, owner));
        }
        index.values_mut().for_each(|same| same.sort_unstable());
        index
    };
    let (before, after) = (index(head), index(restored));
    let mut missing = Vec::new();
    for ((kind, name), entries) in &before {
        match after.get(&(kind.clone(), name.clone())) {
            Some(found) if found == entries => {}
            Some(found) if found.len() >= entries.len() => compared.differing.push(format!("{kind} {name}")),
            _ => missing.push(format!("{kind} {name}")),
        }
    }
    if !missing.is_empty() {
        compared.warnings.push(format!("the restored database lacks what the dump has: {}", some(&missing)));
    }
}
