//! The engine for commands: the standard output of a command is one stream.
//!
//! Guarantee: there is a snapshot only if the command has ended with exit code 0 and its output is known to be
//! complete. Its arguments are not recorded, since they may hold secrets.

use std::ffi::OsString;
use std::io::BufRead;
use std::process::{Command, Stdio};

use super::child::{Running, Tee};
use super::environment::Environment;
use super::{Body, Capture, CaptureReport, CapturedStream, Comparison, Known, Source, SourceDescription};
use crate::error::{Error, Result};
use crate::progress::Monitor;
use crate::recorded::{EntryKind, Flag, SourceKind};

/// The output of a command.
pub struct CommandEngine;

impl super::Engine for CommandEngine {
    fn kind(&self) -> SourceKind {
        SourceKind::COMMAND
    }

    fn has_files(&self) -> bool {
        false
    }

    fn comparison(&self) -> Comparison {
        Comparison::Programs
    }
}

/// A command. Its identity is the stream's name, so its history goes on when the command changes. An exit code other
/// than 0 means that there is no snapshot. Without any output the snapshot is flagged. The command runs once for a
/// snapshot.
///
/// The output ends when no process holds the pipe open any more. A process that the command leaves running may go on
/// writing. If it holds the pipe and writes nothing for some seconds after the command's end, the capture fails, since
/// the output may be incomplete.
#[derive(Debug)]
pub struct CommandSource {
    name: String,
    command: Vec<OsString>,
    environment: Environment,
}

impl CommandSource {
    /// A stream's name, and the command with its arguments and environment. The command does not inherit icecore's own
    /// variables, as the passphrase may be among them.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if no stream can have this name, or if there is no command.
    pub fn new(name: String, command: Vec<OsString>, environment: Environment) -> Result<Self> {
        super::name::check(&name, "--name NAME")?;
        match command.is_empty() {
            true => Err(Error::InvalidArgument("there is no command to run: give it after `--`".to_owned())),
            false => Ok(CommandSource { name, command, environment }),
        }
    }
}

impl Source for CommandSource {
    fn identity(&self) -> SourceDescription {
        SourceDescription { kind: SourceKind::COMMAND, parts: vec![self.name.clone().into_bytes()], label: self.name.clone() }
    }

    fn runs_once(&self) -> bool {
        true
    }

    fn capture<'a>(&'a self, _known: &'a dyn Known, monitor: &'a dyn Monitor) -> Result<Box<dyn Capture + 'a>> {
        let Some((program, arguments)) = self.command.split_first() else { return Err(Error::source(&self.name, "has no command")) };
        let mut command = Command::new(program);
        self.environment.give(&mut command);
        command.args(arguments).stdin(Stdio::null());
        Ok(Box::new(CommandCapture { name: self.name.clone(), command: Some(command), running: None, monitor }))
    }
}

struct CommandCapture<'a> {
    name: String,
    command: Option<Command>,
    running: Option<Running<u64>>,
    monitor: &'a dyn Monitor,
}

impl Capture for CommandCapture<'_> {
    fn total_bytes(&self) -> Option<u64> {
        None
    }

    fn next_stream(&mut self) -> Result<Option<CapturedStream>> {
        let Some(command) = self.command.take() else { return Ok(None) };
        let program = command.get_program().to_string_lossy().into_owned();
        let (running, output) = Running::start(&program, command, count)?;
        self.running = Some(running);
        let name = self.name.clone().into_bytes();
        Ok(Some(CapturedStream { name, kind: EntryKind::File, meta: None, body: Body::Bytes(output) }))
    }

    fn unreadable(&mut self, error: Error) -> Result<()> {
        Err(error)
    }

    fn blocks_writers(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>) -> Result<CaptureReport> {
        let mut report = CaptureReport::default();
        let Some(running) = self.running else { return Ok(report) };
        let finished = running.finish(self.monitor)?;
        // A command that has written nothing may have gone wrong although it ended with 0. The snapshot is kept, and
        // flagged.
        if finished.seen == 0 {
            report.flags.push(Flag::new("empty", "the command has written nothing").about(self.name.as_bytes()));
        }
        if !finished.messages.is_empty() {
            report.facts.push(("messages".to_owned(), finished.messages));
        }
        Ok(report)
    }
}

/// Counts the bytes of the output.
fn count(output: &mut Tee) -> u64 {
    let mut total = 0;
    while let Ok(bytes) = output.fill_buf() {
        let got = bytes.len();
        if got == 0 {
            break;
        }
        output.consume(got);
        // usize fits u64 on every platform.
        total += got as u64;
    }
    total
}
