//! What `restore` can do, and which options go with what. An option that does not apply is an error: ignored, it would let the user believe
//! that less was restored, or with more care, than was.

use std::ffi::OsStr;
use std::fmt;

use super::exit::Failure;
use super::restore::RestoreArgs;

/// What is restored to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// All streams into a directory.
    Tree,
    /// Some streams onto files.
    Streams,
    /// What can be had of damaged streams.
    Salvage,
    /// Files of an export.
    Export,
    /// A database of a server, from a snapshot.
    Server,
    /// One table of it.
    Table,
    /// A database of a server, from a dump in a file.
    ServerFromFile,
    /// One table of it.
    TableFromFile,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Tree => "--to DIR",
            Mode::Streams => "NAME=DEST",
            Mode::Salvage => "--salvage",
            Mode::Export => "--from-dir",
            Mode::Server => "--dsn",
            Mode::Table => "--dsn with --table",
            Mode::ServerFromFile => "--from-file",
            Mode::TableFromFile => "--from-file with --table",
        })
    }
}

use Mode::{Export, Salvage, Server, ServerFromFile, Streams, Table, TableFromFile, Tree};

/// The modes that read a repository.
const WITH_REPOSITORY: &[Mode] = &[Tree, Streams, Salvage, Server, Table];
/// The modes that make a whole database on a server.
const WHOLE_DATABASE: &[Mode] = &[Server, ServerFromFile];
/// The modes that restore into a server.
const INTO_SERVER: &[Mode] = &[Server, Table, ServerFromFile, TableFromFile];

/// An option, whether it was given, and the modes that it goes with.
type Rule = (&'static str, fn(&RestoreArgs) -> bool, &'static [Mode]);

/// All options of `restore`, but those of all commands.
const RULES: [Rule; 25] = [
    ("--source", |args| args.filter.source.is_some(), WITH_REPOSITORY),
    ("--tag", |args| args.filter.tag.is_some(), WITH_REPOSITORY),
    ("--host", |args| args.filter.host.is_some(), WITH_REPOSITORY),
    ("NAME=DEST", |args| !args.streams.is_empty(), &[Streams, Salvage, Export]),
    ("--to", |args| args.to.is_some(), &[Tree, Salvage]),
    ("--salvage", |args| args.salvage, &[Salvage]),
    ("--from-dir", |args| args.from_dir.is_some(), &[Export]),
    ("--live", |args| args.live, &[Streams, Export]),
    ("--busy-timeout", |args| args.busy_timeout.is_some(), &[Streams, Export]),
    ("--accept-damaged", |args| args.accept_damaged, &[Tree, Streams, Export]),
    ("--no-xattrs", |args| args.no_xattrs, &[Tree, Streams, Salvage]),
    ("--dsn", |args| args.server.dsn.is_some(), INTO_SERVER),
    ("--from-file", |args| args.server.from_file.is_some(), &[ServerFromFile, TableFromFile]),
    ("SNAP", |args| args.snap.is_some(), &[Tree, Streams, Salvage, Export, Server, Table]),
    ("--as", |args| args.server.name.is_some(), INTO_SERVER),
    ("--table", |args| args.server.table.is_some(), &[Table, TableFromFile]),
    ("--jobs", |args| args.server.jobs.is_some(), WHOLE_DATABASE),
    ("--tmp", |args| args.server.tmp.is_some(), WHOLE_DATABASE),
    ("--disconnect", |args| args.server.disconnect, WHOLE_DATABASE),
    ("--no-owner", |args| args.server.no_owner, WHOLE_DATABASE),
    ("--no-privileges", |args| args.server.no_privileges, WHOLE_DATABASE),
    ("--no-tablespaces", |args| args.server.no_tablespaces, WHOLE_DATABASE),
    ("--no-verify", |args| args.server.no_verify, WHOLE_DATABASE),
    ("--keep-going", |args| args.server.keep_going, WHOLE_DATABASE),
    ("--pg-bin", |args| args.server.pg_bin.is_some(), WHOLE_DATABASE),
];

/// The mode that the arguments ask for.
///
/// # Errors
/// A usage error for arguments that ask for none, for an option that does not go with the mode, and for one that another option lacks.
pub(crate) fn mode_of(args: &RestoreArgs) -> Result<Mode, Failure> {
    let server = &args.server;
    let mode = match (server.from_file.is_some(), server.table.is_some()) {
        _ if args.salvage => Salvage,
        (true, true) => TableFromFile,
        (true, false) => ServerFromFile,
        (false, true) if server.dsn.is_some() => Table,
        _ if server.dsn.is_some() => Server,
        _ if args.from_dir.is_some() => Export,
        _ if args.to.is_some() => Tree,
        _ if !args.streams.is_empty() => Streams,
        _ => {
            let text = "say where to: --to DIR for all streams, NAME=DEST for one of them, or --dsn DSN for a PostgreSQL server";
            return Err(Failure::usage(text));
        }
    };
    refuse_idle(args, mode)?;
    let lacks = |option: &str, other: &str| Err(Failure::usage(format!("{option} needs {other}, too")));
    match mode {
        ServerFromFile | TableFromFile if server.dsn.is_none() => lacks("--from-file", "--dsn DSN"),
        Salvage if args.to.is_none() => lacks("--salvage", "--to DIR"),
        Export if args.snap.is_none() && args.streams.is_empty() => lacks("--from-dir", "NAME=DEST: which file goes where"),
        Tree | Streams | Salvage | Server | Table if args.snap.is_none() => Err(Failure::usage("say which snapshot: SNAP")),
        _ if args.busy_timeout.is_some() && !args.live => lacks("--busy-timeout", "--live"),
        _ if server.keep_going && server.name.is_none() => lacks("--keep-going", "--as NAME"),
        _ => Ok(mode),
    }
}

/// Refuses options that would do nothing.
fn refuse_idle(args: &RestoreArgs, mode: Mode) -> Result<(), Failure> {
    let Some((option, _, modes)) = RULES.iter().find(|(_, is_given, modes)| is_given(args) && !modes.contains(&mode)) else {
        return Ok(());
    };
    let stream = args.streams.first().filter(|_| *option == "NAME=DEST").map(|stream| stream.to_string_lossy().into_owned());
    let (option, others) = (stream.as_deref().unwrap_or(option), modes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    Err(Failure::usage(format!("{option} does not go with {mode}; it is for: {others}")))
}

/// SNAP as text. With --from-dir it is the first NAME=DEST instead.
pub(crate) fn snap_of(args: &RestoreArgs) -> Result<&str, Failure> {
    args.snap.as_deref().and_then(OsStr::to_str).ok_or_else(|| Failure::usage("SNAP is not UTF-8"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::cli::commands::{Args, Command};
    use clap::{CommandFactory, Parser};

    /// The arguments that make each mode.
    const MODES: [(Mode, &[&str]); 8] = [
        (Tree, &["latest", "--to", "d"]),
        (Streams, &["latest", "a=b"]),
        (Salvage, &["latest", "--salvage", "--to", "d"]),
        (Export, &["--from-dir", "d", "a=b"]),
        (Server, &["latest", "--dsn", "x"]),
        (Table, &["latest", "--dsn", "x", "--table", "t"]),
        (ServerFromFile, &["--from-file", "f", "--dsn", "x"]),
        (TableFromFile, &["--from-file", "f", "--dsn", "x", "--table", "t"]),
    ];

    fn parsed(args: &[&str]) -> RestoreArgs {
        match Args::try_parse_from([&["icecore", "restore"], args].concat()).unwrap_or_else(|e| panic!("{args:?}: {e}")).command {
            Command::Restore(restore) => restore,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_mode_is_found() {
        for (mode, args) in MODES {
            assert_eq!(mode_of(&parsed(args)), Ok(mode), "{args:?}");
        }
        for lacking in [&["latest"][..], &["latest", "--table", "t"], &["latest", "--salvage"], &["--from-file", "f"], &["--from-dir", "d"]]
        {
            assert!(mode_of(&parsed(lacking)).is_err(), "{lacking:?}");
        }
        for lacking in
            [&["--to", "d"][..], &["--dsn", "x"], &["latest", "--dsn", "x", "--keep-going"], &["latest", "a=b", "--busy-timeout", "1s"]]
        {
            assert!(mode_of(&parsed(lacking)).is_err(), "{lacking:?}");
        }
    }

    /// An option with its value, and with the option that it needs unless that is there.
    fn with_what_it_needs<'a>(option: &'a str, value: Option<&'a str>, there: &[&str]) -> Vec<&'a str> {
        let needed: &[&str] = match option {
            "--busy-timeout" => &["--live"],
            "--keep-going" => &["--as", "n"],
            "--salvage" => &["--to", "d"],
            _ => &[],
        };
        let needed = if needed.first().is_some_and(|needed| there.contains(needed)) { &[] } else { needed };
        [option].into_iter().chain(value).chain(needed.iter().copied()).collect()
    }

    #[test]
    fn every_option_goes_with_the_modes_of_the_table_alone() {
        let mut command = Args::command();
        command.build();
        let restore = command.find_subcommand("restore").unwrap();
        let of_all = |arg: &clap::Arg| arg.is_global_set() || ["help", "repo"].contains(&arg.get_id().as_str());
        let options: Vec<&clap::Arg> = restore.get_arguments().filter(|arg| arg.get_long().is_some() && !of_all(arg)).collect();
        assert_eq!(options.len(), RULES.len() - 2, "SNAP and NAME=DEST are in the table, too");
        for arg in options {
            let option = format!("--{}", arg.get_long().unwrap());
            let (_, _, modes) = RULES.iter().find(|(name, ..)| *name == option).unwrap_or_else(|| panic!("{option} has no rule"));
            let value = arg.get_action().takes_values().then_some(if option == "--jobs" { "2" } else { "1s" });
            for (mode, args) in MODES {
                if args.contains(&option.as_str()) {
                    assert!(modes.contains(&mode), "{option} {mode}");
                    continue;
                }
                let mut all = args.to_vec();
                all.extend(with_what_it_needs(&option, value, args));
                let made = mode_of(&parsed(&all));
                let other_mode = ["--salvage", "--from-dir", "--dsn", "--from-file", "--table", "--to"].contains(&option.as_str());
                match made {
                    Ok(made) => assert!(modes.contains(&made) && (made == mode || other_mode), "{all:?} {made}"),
                    Err(failure) => {
                        assert!(other_mode || !modes.contains(&mode), "{all:?}: {}", failure.message);
                        assert!(
                            failure.exit == crate::cli::exit::Exit::Usage && failure.message.contains("does not go with"),
                            "{all:?}: {}",
                            failure.message
                        );
                    }
                }
            }
        }
    }
}
