//! Whatever a command writes to its standard output, as one stream.

use std::ffi::OsString;
use std::io::BufRead;
use std::process::{Command, Stdio};

use super::child::{Running, Tee};
use super::environment::Environment;
use super::{Body, Capture, CaptureReport, CapturedStream, Comparison, Known, Source, SourceDescription};
use crate::error::{Error, Result};
use crate::progress::Monitor;
use crate::recorded::{EntryKind, Flag, SourceKind};

/// What a command writes.
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

/// A command. Its identity is the stream's name, so that its history goes on when the command changes; its arguments, which may hold secrets,
/// are not recorded. Its exit status decides: unless that is 0 there is no snapshot. No output at all makes a flagged one.
///
/// The output ends when nobody holds the pipe open any more. A process that the command leaves running may go on writing; one that holds the pipe and writes
/// nothing for some seconds after the command's end fails the capture, as nobody can know whether the output is whole. It runs once for a snapshot.
#[derive(Debug)]
pub struct CommandSource {
    name: String,
    command: Vec<OsString>,
    environment: Environment,
}

impl CommandSource {
    /// Names the stream and the command: the program and its arguments, with the surroundings that it is to have. It inherits none of icecore's
    /// own variables, as the passphrase may be among them.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a name that no stream can have, or no command.
    pub fn new(name: String, command: Vec<OsString>, environment: Environment) -> Result<Self> {
        super::name::check(&name, "--name NAME")?;
        match command.is_empty() {
            true => Err(Error::InvalidArgument("name the command to run".to_owned())),
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
        if finished.seen == 0 {
            report.flags.push(Flag::new("empty", "the command has written nothing").about(self.name.as_bytes()));
        }
        if !finished.messages.is_empty() {
            report.facts.push(("messages".to_owned(), finished.messages));
        }
        Ok(report)
    }
}

/// Bytes in all.
fn count(output: &mut Tee) -> u64 {
    let mut total = 0;
    while let Ok(bytes) = output.fill_buf() {
        let got = bytes.len();
        if got == 0 {
            break;
        }
        output.consume(got);
        total += got as u64;
    }
    total
}
