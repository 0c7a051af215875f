//! Reading what may wait for long, so that whoever reads can stop at once.
//!
//! A read that waits for a program or a network cannot be taken back. So a thread of its own reads ahead, and the caller, who waits for that thread only for a
//! moment at a time, leaves it where it is: it ends with its read, which the end of the program or of this process brings about.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::error::Result;

/// Bytes that are read at once.
const BLOCK_LEN: usize = 256 << 10;
/// Blocks that may wait for the caller.
const QUEUE: usize = 2;
/// How often it is asked whether to go on waiting.
const LOOK: Duration = Duration::from_millis(50);

/// Reads from a thread that reads ahead.
pub(crate) struct Pump<'a> {
    /// An empty block is the end.
    blocks: Receiver<io::Result<Vec<u8>>>,
    used: SyncSender<Vec<u8>>,
    block: Vec<u8>,
    at: usize,
    has_ended: bool,
    go_on: &'a dyn Fn() -> Result<()>,
}

impl<'a> Pump<'a> {
    /// Begins to read. `go_on` is asked again and again while nothing comes: once it fails, so does reading. The input is dropped before its end is seen here.
    ///
    /// # Errors
    /// Those of starting a thread.
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
                if sender.send(Ok(block)).is_err() {
                    return;
                }
            };
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
            let _ = self.used.try_send(std::mem::replace(&mut self.block, next));
            self.at = 0;
            self.has_ended = self.block.is_empty();
        }
        let got = self.block.get(self.at..).unwrap_or_default().read(buffer)?;
        self.at += got;
        Ok(got)
    }
}
