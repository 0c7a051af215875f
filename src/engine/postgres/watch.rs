//! How long a server is waited for, and how much is taken from it.
//!
//! A server may accept a connection and say nothing, say a little again and again, or send more than fits into memory, by mistake or by intent. All of that is
//! noticed where bytes are read and written, below TLS and PostgreSQL's protocol. A limit that was passed makes reading fail, and so ends the session.

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

/// How often the limits are looked at while nothing comes.
const LOOK: Duration = Duration::from_millis(100);
/// How long a server may say nothing when the user has asked to stop and something is still to be cleaned up.
const CLEANING_MAX: Duration = Duration::from_secs(60);

/// What holds while something is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How long all of it may take.
    pub(super) total: Option<Duration>,
    /// How long nothing may come.
    pub(super) silence: Option<Duration>,
    /// Bytes that may come.
    pub(super) bytes: u64,
    /// Whether the user's wish to stop ends it at once. What is begun after that, as cleaning up is, goes on.
    pub(super) stops_at_once: bool,
}

/// What one connection has still left of its limits.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Stop,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    began: Instant,
    heard: Instant,
    bytes: u64,
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

    /// Begins anew with these limits.
    pub(super) fn begin(&self, limits: Limits) {
        let (now, stops_at_once) = (Instant::now(), limits.stops_at_once && !self.stop.is_set());
        let mut state = self.state();
        (state.limits, state.began, state.heard, state.bytes) = (Limits { stops_at_once, ..limits }, now, now, 0);
    }

    /// Nothing more is taken from this server.
    pub(super) fn refuse(&self, why: &'static str) {
        self.state().refused = Some(why);
    }

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

    fn hear(&self, bytes: usize) {
        let mut state = self.state();
        state.heard = Instant::now();
        state.bytes = state.bytes.saturating_add(bytes as u64);
    }

    /// Waits for what no bytes are read for, within the limits.
    async fn within<T>(&self, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let (mut future, mut ticks) = (pin!(future), ticks());
        let wait = poll_fn(|context| {
            loop {
                if let Poll::Ready(done) = future.as_mut().poll(context) {
                    return Poll::Ready(done);
                }
                self.check()?;
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

/// A connection to a server, within the limits of its watch.
pub(super) struct Guarded {
    socket: Box<dyn Duplex>,
    watch: Arc<Watch>,
    ticks: Interval,
}

impl Guarded {
    /// Connects. Each address of a host has all of the time.
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

    /// Does something with the socket, again and again while the limits hold.
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
