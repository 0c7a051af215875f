//! The command line: arguments, output for people and as JSON, progress, exit codes.
//!
//! Each command parses its arguments, calls one operation of the library and prints its report. The library reads neither the environment
//! nor the clock; this module passes them in.

mod args;
mod backup;
mod check;
mod columns;
mod commands;
mod complete;
mod confirm;
mod context;
mod drill;
mod environment;
mod exit;
mod export;
mod findings;
mod forget;
mod init;
mod local_files;
mod location;
mod log;
mod look;
mod manual;
mod mark;
mod memory;
mod outlet;
mod output;
mod panics;
mod passphrase;
mod postgres;
mod progress;
mod prometheus;
mod prune;
mod repair;
mod restore;
mod restore_modes;
mod restore_server;
mod salvage;
mod screen;
mod scrub;
mod signals;
mod stats;
mod status;
mod tables;
mod targets;
mod time;
mod whole;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue};

use commands::{Args, BackupWhat, Command};
use context::Context;
use exit::{Exit, Failure};
use icecore::ops::secrets::hidden;
use output::Output;

/// Runs what the arguments ask for.
pub(crate) fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == complete::WORD) {
        output::to_stdout(&complete::names(&arguments.collect::<Vec<_>>()));
        return Exit::Done.into();
    }
    memory::keep_memory_private();
    memory::outlive_cut_indexes();
    match Args::try_parse() {
        Ok(args) => {
            let output = Output::new(&args.global);
            panics::note_panics();
            let exit = match panics::guarded(|| run(args, &output)) {
                Ok(exit) => exit,
                Err(failure) => {
                    output.failure(&failure);
                    failure.exit
                }
            };
            exit.into()
        }
        Err(error) => refuse(error),
    }
}

fn run(args: Args, output: &Output) -> Result<Exit, Failure> {
    let context = Context::new(args.global, output)?;
    match args.command {
        Command::Init(init) => init::run(&context, &init),
        Command::Backup(backup) => match backup.what {
            BackupWhat::Sqlite(sqlite) => backup::sqlite(&context, &sqlite),
            BackupWhat::Postgres(postgres) => postgres::backup(&context, &postgres),
            BackupWhat::Files(files) => backup::files(&context, &files),
            BackupWhat::Command(command) => backup::command(&context, &command),
        },
        Command::Snapshots(snapshots) => look::snapshots(&context, &snapshots),
        Command::Show(snap) => look::show(&context, &snap),
        Command::Ls(snap) => look::ls(&context, &snap),
        Command::Stats(args) => stats::run(&context, &args),
        Command::Restore(restore) => restore::restore(&context, &restore),
        Command::Drill(args) => drill::run(&context, &args),
        Command::Export(args) => export::run(&context, &args),
        Command::Dump(dump) => restore::dump(&context, &dump),
        Command::Check(check) => check::run(&context, &check),
        Command::Scrub(args) => scrub::run(&context, &args),
        Command::Repair(args) => repair::run(&context, &args),
        Command::Prune(args) => prune::run(&context, &args),
        Command::Forget(args) => forget::run(&context, &args),
        Command::Protect(args) => mark::protect(&context, &args),
        Command::Mark(args) => mark::mark(&context, &args),
        Command::Log(args) => log::run(&context, &args),
        Command::Status(args) => status::run(&context, &args),
        Command::Completions(args) => manual::completions(&context, &args),
        Command::Man(args) => manual::man(&context, &args),
    }
}

/// Prints what clap says. Help and version are results; everything else is a usage error.
fn refuse(mut error: clap::Error) -> ExitCode {
    drop_tip(&mut error);
    let asked_for = !error.use_stderr();
    if !asked_for && std::env::args_os().any(|arg| arg == OsStr::new("--json")) {
        let text = error.render().to_string();
        output::failure_as_json(&Failure::usage(text.trim_end().strip_prefix("error: ").unwrap_or(text.trim_end())));
    } else if !asked_for && hidden(&error.render().to_string()) != error.render().to_string() {
        // Without colours, as one of the arguments is changed.
        output::to_stderr(hidden(&error.render().to_string()).trim_end());
    } else if let Err(failed) = error.print()
        && failed.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Exit::Failed.into();
    }
    if asked_for { Exit::Done.into() } else { Exit::Usage.into() }
}

/// "to pass '--x' as a value, use '-- --x'" misleads: no command takes an option of another one as a value.
fn drop_tip(error: &mut clap::Error) {
    let Some(ContextValue::StyledStrs(tips)) = error.get(ContextKind::Suggested) else { return };
    let tips: Vec<_> = tips.iter().filter(|tip| !tip.to_string().contains("as a value, use")).cloned().collect();
    match tips.is_empty() {
        true => error.remove(ContextKind::Suggested),
        false => error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips)),
    };
}
