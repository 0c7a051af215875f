//! Asks on the terminal before something is dropped.
//! Only `y` or `yes` means yes; any other answer, and the end of the input, means no. A stop request ends the waiting.
//! Callers look with `can_ask` first whether there is a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use icecore::Error;

use super::context::Context;
use super::exit::Failure;
use super::output::printable;

/// How often the program looks whether the user wants to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Whether there is somebody to ask. Programs that read JSON are not asked.
pub(crate) fn can_ask(context: &Context<'_>) -> bool {
    !context.output.json && io::stdin().is_terminal()
}

/// Shows the plan and asks the question, on standard error: standard output may be a file.
///
/// # Errors
/// [`Error::NotDone`] with `otherwise` unless the answer is yes; [`Error::Cancelled`].
pub(crate) fn ask(context: &Context<'_>, plan: &str, question: &str, otherwise: &str) -> Result<(), Failure> {
    let mut stderr = io::stderr().lock();
    let asked = write!(stderr, "{plan}{} [y/N] ", printable(question)).and_then(|()| stderr.flush());
    asked.map_err(|e| Failure::failed(format!("cannot ask on the terminal: {e}")))?;
    // A signal does not end a read, so another thread reads.
    let (sender, answers) = sync_channel(1);
    let read = move || {
        let mut line = String::new();
        drop(sender.send(io::stdin().read_line(&mut line).map(|_| line)));
    };
    std::thread::Builder::new()
        .name("answer".to_owned())
        .spawn(read)
        .map_err(|e| Failure::failed(format!("cannot ask on the terminal: {e}")))?;
    let answer = loop {
        match answers.recv_timeout(LOOK) {
            Ok(answer) => break answer.map_err(|e| Failure::failed(format!("cannot read the answer: {e}")))?,
            Err(_) if context.cancelled().load(Ordering::Relaxed) => return Err(Error::Cancelled.into()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break String::new(),
        }
    };
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::NotDone { detail: otherwise.to_owned() }.into()),
    }
}
