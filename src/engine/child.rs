//! Runs a program whose output is stored and parsed at the same time.
//!
//! A thread reads the pipe, gives the bytes to a parser (`watch`), and passes each block on to the reader that stores
//! it. Both see all bytes, and the slower one sets the pace. Guarantee: [`Running::finish`] succeeds only if the
//! program has ended with exit code 0 and its output is known to be complete. The memory is bounded by the queue of
//! blocks.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{BufRead, Read};
use std::process::{ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::program::{Pipe, Program, failure, wait_for};
use crate::error::{Error, Result};
use crate::progress::Monitor;

/// Bytes that are read at once.
const BLOCK_LEN: usize = 64 << 10;
/// The length of the pipe, so that the program seldom waits. Linux allows this to every user (pipe(7),
/// `pipe-max-size`); the default is 64 KiB.
#[cfg(target_os = "linux")]
const PIPE_LEN: usize = 1 << 20;
/// Blocks that may wait for the reader that stores them.
const QUEUE: usize = 32;
/// The error for a program that has ended with exit code 0, but whose output has not ended.
const HELD: &str = "has ended, but another process that it started holds its output open and writes nothing, so it cannot be known whether all of it has come";
const HELD_ADVICE: &str = "let it wait for what it starts, or send the output of that elsewhere (`>/dev/null`)";
/// Bytes that are kept from the start of a program's messages, and as many from their end.
const MESSAGES_KEPT: usize = 4 << 10;

/// A running program. Dropping it ends the program.
pub(crate) struct Running<T> {
    name: String,
    program: Program,
    watch: Option<JoinHandle<T>>,
    messages: Messages<String>,
}

/// The results of a program that has ended.
pub(crate) struct Finished<T> {
    /// The result of the parser.
    pub(crate) seen: T,
    /// Its standard error. If it is long, the middle is left out.
    pub(crate) messages: String,
}

impl<T: Send + 'static> Running<T> {
    /// Starts a program. Its output goes to `watch`, which must read it to the end, and to the reader that is returned.
    /// The slower one sets the pace.
    ///
    /// # Errors
    /// [`Error::Source`] if it cannot be started.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        watch: impl FnOnce(&mut Tee) -> T + Send + 'static,
    ) -> Result<(Self, Box<dyn Read + Send>)> {
        let failed = |e: std::io::Error| Error::source(name, format!("cannot be run: {e}"));
        let mut program = Program::start(command.stdout(Stdio::piped()).stderr(Stdio::piped())).map_err(failed)?;
        let stdout = program.stdout();
        #[cfg(target_os = "linux")]
        if let Some(stdout) = &stdout {
            // If this fails, the program only waits more often.
            let _ = rustix::pipe::fcntl_setpipe_size(stdout, PIPE_LEN);
        }
        let messages = Messages::collect(&mut program, collect).map_err(failed)?;
        let input = stdout.map(|stdout| Box::new(stdout) as Box<dyn Read + Send>);
        let (watching, output) = watched(input, watch).map_err(failed)?;
        Ok((Running { name: name.to_owned(), program, watch: Some(watching), messages }, output))
    }

    /// Waits for the end of the program.
    ///
    /// # Errors
    /// [`Error::Source`] with the program's messages if it has failed, or if it is not known whether its output is
    /// complete; [`Error::Cancelled`].
    pub(crate) fn finish(self, monitor: &dyn Monitor) -> Result<Finished<T>> {
        self.finish_or(", so there is no snapshot", monitor)
    }

    /// Like [`Running::finish`], with a text for the consequence of a failure.
    pub(crate) fn finish_or(mut self, consequence: &str, monitor: &dyn Monitor) -> Result<Finished<T>> {
        // First the output, then the status: a program that waits for its reader does not end.
        let watch = self.watch.take();
        wait_for(monitor, || watch.as_ref().is_none_or(JoinHandle::is_finished).then_some(()))?;
        let panicked = |panic| Error::panicked("reading what a program wrote", panic);
        let seen = watch.map(JoinHandle::join).transpose().map_err(panicked)?;
        let status = self.program.wait(&self.name, monitor)?;
        let messages = self.messages.take();
        if let Some(how) = failure(status) {
            let said = if messages.is_empty() { String::new() } else { format!(": {}", messages.trim_end()) };
            return Err(Error::source(&self.name, format!("{how}{consequence}{said}")));
        }
        if self.program.is_held() {
            return Err(Error::source(&self.name, format!("{HELD}{consequence}; {HELD_ADVICE}")));
        }
        match seen {
            Some(seen) => Ok(Finished { seen, messages }),
            None => Err(Error::source(&self.name, "its output could not be read")),
        }
    }
}

/// Collects a program's standard error while it runs. A program whose messages nobody reads would wait when the pipe is
/// full.
pub(crate) struct Messages<T>(Option<JoinHandle<T>>);

impl<T: Default + Send + 'static> Messages<T> {
    /// Begins to collect with `read`, which must read to the end. The program must have a pipe for its standard error.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn collect(program: &mut Program, read: impl FnOnce(Pipe<ChildStderr>) -> T + Send + 'static) -> std::io::Result<Self> {
        let stderr = program.stderr();
        let thread = std::thread::Builder::new().name("messages".to_owned());
        thread.spawn(move || stderr.map(read).unwrap_or_default()).map(|thread| Messages(Some(thread)))
    }

    /// Everything that was collected. Waits for the end of the program.
    pub(crate) fn take(&mut self) -> T {
        self.0.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

/// Reads a program's messages to their end. If they are long, the middle is left out.
pub(crate) fn collect(mut input: impl Read) -> String {
    let (mut first, mut last, mut left_out) = (Vec::new(), Vec::new(), 0_usize);
    let mut buffer = [0; 4096];
    while let Ok(got) = input.read(&mut buffer) {
        let mut piece = buffer.get(..got).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        // The start is kept until it is full, and of the rest always the last bytes.
        if let Some((head, tail)) = piece.split_at_checked((MESSAGES_KEPT - first.len()).min(piece.len())) {
            first.extend_from_slice(head);
            piece = tail;
        }
        last.extend_from_slice(piece);
        let excess = last.len().saturating_sub(MESSAGES_KEPT);
        last.drain(..excess);
        left_out += excess;
    }
    let mut text = String::from_utf8_lossy(&first).into_owned();
    if left_out > 0 {
        let _ = write!(text, "\n[{left_out} bytes left out]\n");
    }
    text.push_str(&String::from_utf8_lossy(&last));
    text
}

/// Gives the bytes of an input to `watch`, which must read it to the end, and to the reader that is returned. The
/// slower one sets the pace. If the input cannot be read any more, `watch` gets the error and the reader just ends.
///
/// # Errors
/// If no thread can be started.
pub(crate) fn watched<T: Send + 'static>(
    input: Option<Box<dyn Read + Send>>,
    watch: impl FnOnce(&mut Tee) -> T + Send + 'static,
) -> std::io::Result<(JoinHandle<T>, Box<dyn Read + Send>)> {
    let (sender, receiver) = sync_channel(QUEUE);
    let mut tee = Tee { input, sender, sent: VecDeque::new(), block: Arc::default(), at: 0 };
    let look = move || {
        let seen = watch(&mut tee);
        tee.drain();
        seen
    };
    let watching = std::thread::Builder::new().name("watch".to_owned()).spawn(look)?;
    Ok((watching, Box::new(Output { receiver, block: Arc::default(), at: 0 })))
}

/// The parser's side: reads the input and passes each block on to the reader that stores it.
pub(crate) struct Tee {
    input: Option<Box<dyn Read + Send>>,
    sender: SyncSender<Arc<Vec<u8>>>,
    /// Blocks that were passed on, to be used again when the other side has dropped them.
    sent: VecDeque<Arc<Vec<u8>>>,
    /// The current block, and how much of it the parser has consumed.
    block: Arc<Vec<u8>>,
    at: usize,
}

impl Tee {
    /// A block of full length: the oldest one if the other side has dropped it (it drops them in order), else a new
    /// one.
    fn free_block(&mut self) -> Vec<u8> {
        // `try_unwrap` succeeds only if the other side has dropped its reference.
        match self.sent.pop_front().map(Arc::try_unwrap) {
            Some(Ok(mut bytes)) => {
                bytes.resize(BLOCK_LEN, 0);
                bytes
            }
            Some(Err(busy)) => {
                self.sent.push_front(busy);
                vec![0; BLOCK_LEN]
            }
            None => vec![0; BLOCK_LEN],
        }
    }

    /// Passes the rest on if the parser has stopped early. Without this the program would fail with a broken pipe, and
    /// not with its own exit code.
    fn drain(&mut self) {
        self.at = self.block.len();
        while self.fill_buf().is_ok_and(|rest| !rest.is_empty()) {
            self.at = self.block.len();
        }
    }
}

/// Reads until the buffer is full or the input has ended. A pipe gives little at a time, and passing on small blocks
/// would wake other threads each time.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) if filled == 0 => return Err(e),
            // The next call, after these bytes, gets the error again.
            Err(_) => break,
        }
    }
    Ok(filled)
}

impl BufRead for Tee {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.at >= self.block.len() && self.input.is_some() {
            let mut bytes = self.free_block();
            let Some(input) = &mut self.input else { return Ok(&[]) };
            let got = fill(input, &mut bytes)?;
            bytes.truncate(got);
            self.sent.push_back(std::mem::replace(&mut self.block, Arc::new(bytes)));
            self.at = 0;
            // The reader was dropped. Dropping the input closes the pipe, and so tells the program.
            let closed = got > 0 && self.sender.send(Arc::clone(&self.block)).is_err();
            if closed {
                self.input = None;
                self.block = Arc::default();
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
        }
        // An error and not an empty slice, which would look like the end of the stream.
        self.block.get(self.at..).ok_or_else(|| Error::bug_io("more was taken of a block than it has"))
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Tee {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.fill_buf()?.read(buffer)?;
        self.consume(got);
        Ok(got)
    }
}

/// The reader's side, which is stored.
struct Output {
    receiver: Receiver<Arc<Vec<u8>>>,
    block: Arc<Vec<u8>>,
    at: usize,
}

impl Read for Output {
    /// Ends where the output ends. Whether that is the whole output, [`Running::finish`] says.
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at >= self.block.len() {
            let Ok(block) = self.receiver.recv() else { return Ok(0) };
            (self.block, self.at) = (block, 0);
        }
        let mut rest = self.block.get(self.at..).ok_or_else(|| Error::bug_io("more was taken of a block than it has"))?;
        let got = rest.read(buffer)?;
        self.at += got;
        Ok(got)
    }
}
