//! Compares a restored database with the dump: the database is dumped again, and rows and definitions of both dumps are
//! compared.
//!
//! Rows are compared for each table by their number and by a sum that does not depend on their order. A difference
//! fails the restore. Differing sums alone are a warning if the dump was not made with icecore's settings, since values
//! may then be written differently. Definitions are compared only if server and pg_dump have the same major version as
//! in the dump, and a difference there is only reported.

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

/// Bytes of the new dump that are read at once.
const BLOCK_LEN: usize = 64 << 10;

/// Differences that do not fail the restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Compared {
    pub(super) warnings: Vec<String>,
    /// Definitions whose text the server writes differently now.
    pub(super) differing: Vec<String>,
    /// Tables with other rows than in the dump. Only with `keep_going`; else this is an error.
    pub(super) wrong: Vec<String>,
}

/// Dumps the new database and compares rows and their sums, table by table. Then it compares the tables of contents, if
/// the versions are the same.
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
        let detail = format!("the restored rows are not those of the dump: {}", some(&all()));
        return Err(Error::destination(conninfo.label(), detail));
    }
    if !only_sums.is_empty() && !is_wrong {
        let text = "these tables have as many rows as the dump, but the text of the rows differs; this is normal if the dump was made in \
                    another time zone";
        compared.warnings.push(format!("{text}: {}", some(&only_sums)));
    }
    // Between major versions many definitions are written differently, so a list of them would say nothing.
    if major(&head.dump_version) == major(&restored.dump_version) && major(&head.server_version) == major(&restored.server_version) {
        contents(head, &restored, options, &mut compared);
    }
    Ok(compared)
}

fn major(version: &str) -> &str {
    version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default()
}

/// Dumps the database and keeps only the table of contents and the evidence.
fn dump_of(conninfo: &Conninfo, tools: &Tools, options: &ServerOptions, monitor: &dyn Monitor) -> Result<Archive> {
    monitor.phase("comparing", None);
    // A session in this database finds out which settings pg_dump has to be given: some may be set for the database
    // itself.
    let conninfo = Connection::open(conninfo)?.conninfo;
    let mut command = tools.command("pg_dump", &options.environment, &conninfo);
    command.args(["-Fc", "-Z0", "--no-password"]);
    // The parser reads a copy of the output. The loop below reads the output itself, for progress and interruption.
    let (running, output) = Running::start("pg_dump", command, |tee: &mut Tee| archive::read(tee, |_| ()))?;
    let go_on = || if monitor.cancelled() { Err(Error::Cancelled) } else { Ok(()) };
    let mut output = Pump::start(output, &go_on).map_err(|e| Error::source("pg_dump", e))?;
    let mut buffer = vec![0; BLOCK_LEN];
    loop {
        go_on()?;
        match output.read(&mut buffer) {
            Ok(0) => break,
            // usize fits u64 on every platform.
            Ok(got) => monitor.advance(got as u64),
            Err(e) => return go_on().and(Err(Error::source("pg_dump", e))),
        }
    }
    let finished = running.finish_or(", so the restored database could not be verified", monitor)?;
    finished.seen.map_err(|error| Error::source("pg_dump", format!("its archive cannot be read: {error}")))
}

type Tally<'t> = BTreeMap<(&'t str, &'t str), (u64, RowSum)>;

/// Rows and sums by kind and name. All blocks of large objects are added up, since versions of pg_dump divide them
/// differently.
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

/// Tables whose number of rows differs, and tables where only the sum differs.
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

/// Compares the tables of contents.
fn contents(head: &Archive, restored: &Archive, options: &ServerOptions, compared: &mut Compared) {
    // Left out: blocks of large objects, whose number may differ; rights that were not restored; properties of the
    // database, which has another name now.
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
        // Several entries can have one kind and name (overloaded functions). Their order in a dump may change.
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
