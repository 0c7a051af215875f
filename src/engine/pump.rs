//! Reads an input that may block for long, so that the caller can still stop at once.
//!
//! A blocking read from a program or a network cannot be interrupted. So a thread reads ahead, and the caller waits for
//! the thread only a moment at a time. When the caller stops, it leaves the thread alone. The thread ends when its read
//! returns: at the latest with the program that it reads from, or with this process.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::error::Result;

/// Bytes that are read at once.
const BLOCK_LEN: usize = 256 << 10;
/// Blocks that may wait for the caller.
const QUEUE: usize = 2;
/// How often the caller checks whether to go on waiting.
const LOOK: Duration = Duration::from_millis(50);

/// Reads from a thread that reads ahead.
pub(crate) struct Pump<'a> {
    /// Blocks from the thread. An empty one is the end.
    blocks: Receiver<io::Result<Vec<u8>>>,
    /// Used blocks, for the thread to fill again.
    used: SyncSender<Vec<u8>>,
    block: Vec<u8>,
    at: usize,
    has_ended: bool,
    go_on: &'a dyn Fn() -> Result<()>,
}

impl<'a> Pump<'a> {
    /// Begins to read. While nothing comes, `go_on` is called repeatedly; if it fails, reading fails. The input is
    /// dropped before the caller sees its end.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn start(mut input: Box<dyn Read + Send>, go_on: &'a dyn Fn() -> Result<()>) -> io::Result<Self> {
        let (sender, blocks) = sync_channel(QUEUE);
        let (used, spare) = sync_channel::<Vec<u8>>(QUEUE);
        let read = move || {
            let last = loop {
                let mut block = spare.try_recv().unwrap_or_default();
                block.resize(BLOCK_LEN, 0);
                match input.read(&mut block) {
                    Ok(0) => break Ok(Vec::new()),
                    Ok(got) => block.truncate(got),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => break Err(e),
                }
                // The caller has stopped.
                if sender.send(Ok(block)).is_err() {
                    return;
                }
            };
            // Dropped first, so that the caller can rely on the input being closed when it sees the end.
            drop(input);
            let _ = sender.send(last);
        };
        std::thread::Builder::new().name("pump".to_owned()).spawn(read)?;
        Ok(Pump { blocks, used, block: Vec::new(), at: 0, has_ended: false, go_on })
    }

    fn next_block(&self) -> io::Result<Vec<u8>> {
        loop {
            match self.blocks.recv_timeout(LOOK) {
                Ok(block) => return block,
                Err(RecvTimeoutError::Timeout) => (self.go_on)().map_err(io::Error::other)?,
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("reading it failed unexpectedly")),
            }
        }
    }
}

impl Read for Pump<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.block.len() && !self.has_ended {
            let next = self.next_block()?;
            // If the thread has enough blocks, this one is just dropped.
            let _ = self.used.try_send(std::mem::replace(&mut self.block, next));
            self.at = 0;
            self.has_ended = self.block.is_empty();
        }
        let got = self.block.get(self.at..).unwrap_or_default().read(buffer)?;
        self.at += got;
        Ok(got)
    }
}
