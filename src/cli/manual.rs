//! The commands `completions` and `man`. Both generate their output from the definitions of the arguments.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use icecore::Error;
use icecore::ops::json;
use serde::Serialize;

use super::commands::{Args, CompletionsArgs, ManArgs};
use super::complete;
use super::context::Context;
use super::exit::{Exit, Failure};
use super::output::count;

#[derive(Serialize)]
struct Written {
    #[serde(flatten, serialize_with = "json::path")]
    directory: PathBuf,
    pages: Vec<String>,
}

/// `completions`.
pub(crate) fn completions(context: &Context<'_>, args: &CompletionsArgs) -> Result<Exit, Failure> {
    context.output.raw(&complete::script(args.shell))?;
    Ok(Exit::Done)
}

/// `man`.
pub(crate) fn man(context: &Context<'_>, args: &ManArgs) -> Result<Exit, Failure> {
    let mut command = Args::command();
    command.build();
    let Some(dir) = &args.dir else {
        context.output.raw(&page(&command).map_err(|cause| Failure::failed(cause.to_string()))?)?;
        return Ok(Exit::Done);
    };
    let mut pages = Vec::new();
    write(dir, &command, &mut pages).map_err(|cause| Failure::from(Error::destination(dir, format!("cannot be written: {cause}"))))?;
    pages.sort();
    let written = Written { directory: dir.to_path_buf(), pages };
    let text = |written: &Written| format!("{} in {}\n", count(written.pages.len() as u64, "page"), written.directory.to_string_lossy());
    context.output.report(&written, text)?;
    Ok(Exit::Done)
}

/// The pages of a command and of those below it: `icecore.1`, `icecore-backup.1`, `icecore-backup-sqlite.1`.
fn write(dir: &Path, command: &Command, pages: &mut Vec<String>) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let name = format!("{}.1", command.get_display_name().unwrap_or_else(|| command.get_name()));
    std::fs::write(dir.join(&name), page(command)?)?;
    pages.push(name);
    command.get_subcommands().filter(|below| below.get_name() != "help").try_for_each(|below| write(dir, below, pages))
}

fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let mut roff = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut roff)?;
    Ok(roff)
}
