//! Standard output as a pipe. If its reader stalls, the user can still stop the program.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use icecore::progress::Monitor;

/// Blocks that may wait for the reader.
const QUEUE: usize = 4;
/// The longest time between two looks whether the user has stopped the program.
const LOOK: Duration = Duration::from_millis(50);

/// Writes in a thread of its own, because a blocked write cannot be interrupted. The thread ends with the process.
pub(crate) struct Outlet<'a> {
    blocks: SyncSender<Vec<u8>>,
    ended: Receiver<io::Result<()>>,
    monitor: &'a dyn Monitor,
}

impl<'a> Outlet<'a> {
    pub(crate) fn start(mut file: File, monitor: &'a dyn Monitor) -> io::Result<Self> {
        let (blocks, waiting) = sync_channel::<Vec<u8>>(QUEUE);
        let (end, ended) = sync_channel(1);
        let write = move || {
            let written = waiting.iter().try_for_each(|block| file.write_all(&block));
            drop(end.send(written));
        };
        std::thread::Builder::new().name("output".to_owned()).spawn(write)?;
        Ok(Outlet { blocks, ended, monitor })
    }

    /// Waits until all is written.
    pub(crate) fn finish(self) -> io::Result<()> {
        let Outlet { blocks, ended, monitor } = self;
        drop(blocks);
        loop {
            match ended.recv_timeout(LOOK) {
                Ok(written) => return written,
                Err(RecvTimeoutError::Timeout) if !monitor.cancelled() => {}
                Err(_) => return Err(stopped()),
            }
        }
    }
}

fn stopped() -> io::Error {
    io::Error::other("stopped")
}

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut block = bytes.to_vec();
        let mut pause = Duration::from_micros(50);
        loop {
            block = match self.blocks.try_send(block) {
                Ok(()) => return Ok(bytes.len()),
                Err(TrySendError::Full(block)) => block,
                Err(TrySendError::Disconnected(_)) => {
                    let why = self.ended.recv().unwrap_or_else(|_| Err(stopped()));
                    return why.and(Err(stopped()));
                }
            };
            if self.monitor.cancelled() {
                return Err(stopped());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOK);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
