//! The arguments. Paths and stream names need not be UTF-8.

use std::ffi::OsString;
use std::time::Duration;

use super::exit::Failure;
use super::screen::ColorWhen;

/// Heads the options that every command takes.
const GLOBAL: &str = "Options of all commands";

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    /// The repository's directory. It goes before ICECORE_REPOSITORY [default: ICECORE_REPOSITORY, else .icecore]
    #[arg(short = 'R', long = "repo", value_name = "R", global = true, help_heading = GLOBAL)]
    pub(crate) repo: Option<OsString>,
    /// Print one JSON document, and errors as JSON lines
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) json: bool,
    /// No progress, and no report of what went well
    #[arg(short, long, global = true, help_heading = GLOBAL, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say on standard error what is being done
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub(crate) verbose: bool,
    /// Use colours: `auto` on a terminal, unless NO_COLOR is set
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, global = true, help_heading = GLOBAL)]
    pub(crate) color: ColorWhen,
    /// Open this repository, given by its id or the start of it, though this machine knows another one at its place
    #[arg(long, value_name = "ID", global = true, help_heading = GLOBAL, value_parser = repository_id)]
    pub(crate) accept_repository: Option<String>,
    /// Threads that work at once [default: one per core]
    #[arg(long, value_name = "N", global = true, help_heading = GLOBAL, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,
}

/// Enough of an id that no other repository is meant.
fn repository_id(text: &str) -> Result<String, String> {
    let is_id = text.len() >= 12 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    if is_id { Ok(text.to_owned()) } else { Err("at least the first 12 digits of the repository's id are needed".to_owned()) }
}

/// How long locks on databases are waited for.
#[derive(Debug, clap::Args)]
pub(crate) struct BusyArgs {
    /// How long to wait for a lock that somebody else holds on a database: 0, or a number with s, m, h or d
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = span)]
    pub(crate) busy_timeout: Duration,
}

/// A time span.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    super::time::seconds(text).map(|seconds| Duration::from_secs(seconds.unsigned_abs())).map_err(|failure| failure.message)
}

/// What every backup records.
#[derive(Debug, clap::Args)]
pub(crate) struct RecordArgs {
    /// A word to record; may be given several times
    #[arg(long = "tag", value_name = "T")]
    pub(crate) tags: Vec<String>,
    /// Names the source, so that its history goes on where host or paths change; a name of another kind of source is another source
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
    /// The machine to record in place of this one: for containers, whose host names change
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) host: Option<String>,
    /// The time to record in place of now, for imports of history: 2026-11-23T03:15:00Z, `2026-11-23 03:15` or 2026-11-23
    #[arg(long, value_name = "TIME")]
    pub(crate) time: Option<String>,
}

/// Narrows which snapshots are meant.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct FilterArgs {
    /// Only snapshots of this source: its name, its path or database, or the start of its id
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
    /// Only snapshots with this tag
    #[arg(long, value_name = "T")]
    pub(crate) tag: Option<String>,
    /// Only snapshots of this host
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
}

impl FilterArgs {
    /// Refuses a filter for what has no snapshots to choose from.
    pub(crate) fn refuse(&self, place: &str) -> Result<(), Failure> {
        let given = [("--source", &self.source), ("--tag", &self.tag), ("--host", &self.host)];
        match given.into_iter().find(|(_, value)| value.is_some()) {
            Some((option, _)) => Err(Failure::usage(format!("{option} does not go with {place}"))),
            None => Ok(()),
        }
    }
}

/// One snapshot.
#[derive(Debug, clap::Args)]
pub(crate) struct SnapArgs {
    /// An id or the start of one, `latest`, `latest~N` or `@TIME`
    #[arg(value_name = "SNAP")]
    pub(crate) snap: String,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}
