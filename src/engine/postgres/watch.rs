//! Limits for a connection: how long to wait for the server, and how many bytes to take from it.
//!
//! A server may accept a connection and send nothing, send a little again and again, or send more than fits into
//! memory, by mistake or on purpose. This is noticed where bytes are read and written, below TLS and PostgreSQL's
//! protocol, so no layer above can be made to wait. An exceeded limit makes reading fail, and so ends the session.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, UnixStream, lookup_host};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::conninfo::Target;
use super::stop::Stop;

/// How often the limits are checked while nothing arrives.
const LOOK: Duration = Duration::from_millis(100);
/// How long a server may be silent during the clean-up after the user has asked to stop.
const CLEANING_MAX: Duration = Duration::from_secs(60);

/// The limits of one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How long the whole call may take.
    pub(super) total: Option<Duration>,
    /// How long the server may send nothing.
    pub(super) silence: Option<Duration>,
    /// Bytes that the server may send.
    pub(super) bytes: u64,
    /// Whether a stop ends the call at once. A call that begins after the stop, such as one that cleans up, goes on.
    pub(super) stops_at_once: bool,
}

/// How much of its limits a connection has used.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Stop,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    /// When the call began.
    began: Instant,
    /// When the last bytes arrived.
    heard: Instant,
    /// Bytes that have arrived during the call.
    bytes: u64,
    /// Why nothing more is read from this server, if so.
    refused: Option<&'static str>,
}

impl Watch {
    pub(super) fn new(stop: Stop, limits: Limits) -> Self {
        let now = Instant::now();
        Watch { stop, state: Mutex::new(State { limits, began: now, heard: now, bytes: 0, refused: None }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new call with these limits.
    pub(super) fn begin(&self, limits: Limits) {
        // If the user has already asked to stop, this call is the clean-up.
        let (now, stops_at_once) = (Instant::now(), limits.stops_at_once && !self.stop.is_set());
        let mut state = self.state();
        (state.limits, state.began, state.heard, state.bytes) = (Limits { stops_at_once, ..limits }, now, now, 0);
    }

    /// Makes every further read fail.
    pub(super) fn refuse(&self, why: &'static str) {
        self.state().refused = Some(why);
    }

    /// Fails if a limit is exceeded.
    fn check(&self) -> io::Result<()> {
        let (state, is_stopped) = (self.state(), self.stop.is_set());
        let Limits { total, silence, bytes, stops_at_once } = state.limits;
        let silence = if is_stopped { Some(silence.unwrap_or(CLEANING_MAX).min(CLEANING_MAX)) } else { silence };
        let late = |kind: io::ErrorKind, text: String| Err(io::Error::new(kind, text));
        match () {
            () if is_stopped && stops_at_once => late(io::ErrorKind::Other, "interrupted".to_owned()),
            () if state.refused.is_some() => late(io::ErrorKind::InvalidData, state.refused.unwrap_or_default().to_owned()),
            () if state.bytes > bytes => late(io::ErrorKind::InvalidData, format!("the server has sent more than {bytes} bytes")),
            () if total.is_some_and(|most| state.began.elapsed() >= most) => {
                late(io::ErrorKind::TimedOut, format!("not done after {} s", total.unwrap_or_default().as_secs()))
            }
            () if silence.is_some_and(|most| state.heard.elapsed() >= most) => {
                late(io::ErrorKind::TimedOut, format!("the server has said nothing for {} s", silence.unwrap_or_default().as_secs()))
            }
            () => Ok(()),
        }
    }

    /// Records that bytes have arrived.
    fn hear(&self, bytes: usize) {
        let mut state = self.state();
        state.heard = Instant::now();
        state.bytes = state.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Waits within the limits for something that reads no bytes: looking a name up, or connecting.
    async fn within<T>(&self, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let (mut future, mut ticks) = (pin!(future), ticks());
        let wait = poll_fn(|context| {
            loop {
                if let Poll::Ready(done) = future.as_mut().poll(context) {
                    return Poll::Ready(done);
                }
                self.check()?;
                // A pending tick wakes this task again. One that is ready is used up, and the loop asks for the next.
                if ticks.poll_tick(context).is_pending() {
                    return Poll::Pending;
                }
            }
        });
        wait.await
    }
}

fn ticks() -> Interval {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection to a server that obeys the limits of its watch.
pub(super) struct Guarded {
    socket: Box<dyn Duplex>,
    watch: Arc<Watch>,
    ticks: Interval,
}

impl Guarded {
    /// Connects to the first address that answers. Each address of a host gets the full time.
    pub(super) async fn open(target: &Target, watch: &Arc<Watch>, limits: Limits) -> io::Result<Self> {
        watch.begin(limits);
        let of = |socket: Box<dyn Duplex>| Guarded { socket, watch: Arc::clone(watch), ticks: ticks() };
        if target.is_socket() {
            let path = format!("{}/.s.PGSQL.{}", target.host, target.port);
            return Ok(of(Box::new(watch.within(UnixStream::connect(path)).await?)));
        }
        let host = target.hostaddr.as_deref().unwrap_or(&target.host);
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in watch.within(lookup_host((host, target.port))).await? {
            watch.begin(limits);
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_keepalive(true)?;
            socket.set_nodelay(true)?;
            match watch.within(socket.connect(address)).await {
                Ok(stream) => return Ok(of(Box::new(stream))),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Polls the socket while the limits hold.
    fn attempt<T>(
        &mut self,
        context: &mut Context<'_>,
        mut act: impl FnMut(Pin<&mut (dyn Duplex + 'static)>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        loop {
            self.watch.check()?;
            if let Poll::Ready(done) = act(Pin::new(&mut *self.socket), context) {
                return Poll::Ready(done);
            }
            if self.ticks.poll_tick(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.attempt(context, |socket, context| socket.poll_read(context, buffer));
        if matches!(read, Poll::Ready(Ok(()))) {
            self.watch.hear(buffer.filled().len().saturating_sub(before));
        }
        read
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.attempt(context, |socket, context| socket.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.attempt(context, |socket, context| socket.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.attempt(context, |socket, context| socket.poll_shutdown(context))
    }
}
