//! A blocking session with a server: [`tokio_postgres`] driven to completion by each call, over a connection with
//! limits (`watch`).
//!
//! Guarantee: no call waits longer or takes more memory than the limits allow, whatever the server sends.

use std::future::{Future, poll_fn};
use std::io::{self, BufRead, Read, Write};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use postgres::error::SqlState;
use postgres::tls::MakeTlsConnect;
use postgres::types::ToSql;
use postgres::{Error, Row, SimpleQueryMessage};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{AsyncMessage, CancelToken, Config, CopyInSink, CopyOutStream};

use super::conninfo::{CONNECT_MAX, Target};
use super::messages::explain;
use super::stop::Stop;
use super::watch::{Guarded, Limits, Watch};

/// Most bytes from a server before a session has begun: some parameters and notices.
const GREETING_MAX: u64 = 1 << 20;
/// Most bytes in answer to one statement. They are kept in memory; this is enough for the names of some million tables.
const ANSWER_MAX: u64 = 256 << 20;
/// Most notices during one statement.
const NOTICES_MAX: u32 = 100_000;
/// How long a session may take to end.
const END_MAX: Duration = Duration::from_secs(1);
/// How long it may take to send a request to cancel.
const CANCEL_MAX: Duration = Duration::from_secs(5);
/// Bytes that are sent at once.
const BLOCK_LEN: usize = 64 << 10;

/// Polls the connection: this moves all messages, and returns notices and notifications, which belong to no statement.
type Messages = Box<dyn FnMut(&mut Context<'_>) -> Poll<Option<Result<AsyncMessage, Error>>> + Send>;

/// A session. Each call is subject to its limits.
pub struct Client {
    /// `None` only while it is being dropped.
    runtime: Option<Runtime>,
    client: tokio_postgres::Client,
    messages: Messages,
    watch: Arc<Watch>,
    limits: Limits,
}

/// Why no session could be opened.
pub(super) enum Refused {
    /// There is no connection.
    Connection(io::Error),
    /// The server refused it, or the protocol failed.
    Server(Error),
}

impl Refused {
    pub(super) fn code(&self) -> Option<&SqlState> {
        match self {
            Refused::Connection(_) => None,
            Refused::Server(error) => error.code(),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Refused::Connection(error) => format!("error connecting to server: {error}"),
            Refused::Server(error) => explain(error),
        }
    }
}

/// The limits of connecting within this time.
fn connecting(time: Option<Duration>) -> Limits {
    Limits { total: Some(time.unwrap_or(CONNECT_MAX)), silence: None, bytes: GREETING_MAX, stops_at_once: true }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

impl Client {
    /// Connects to one target. The limits of connecting hold until [`Client::settle`].
    pub(super) fn connect<T: MakeTlsConnect<Guarded>>(
        config: &Config,
        target: &Target,
        mut tls: T,
        (time, stop): (Option<Duration>, &Stop),
    ) -> Result<Self, Refused>
    where
        T::Stream: Send + 'static,
    {
        let limits = connecting(time);
        let watch = Arc::new(Watch::new(stop.clone(), limits));
        let runtime = runtime().map_err(Refused::Connection)?;
        let connect = async {
            let socket = Guarded::open(target, &watch, limits).await.map_err(Refused::Connection)?;
            let tls = tls.make_tls_connect(&target.host).map_err(|e| Refused::Connection(io::Error::other(e)))?;
            config.connect_raw(socket, tls).await.map_err(Refused::Server)
        };
        match runtime.block_on(connect) {
            Ok((client, mut connection)) => {
                let messages: Messages = Box::new(move |context| connection.poll_message(context));
                let limits = Limits { bytes: ANSWER_MAX, ..limits };
                Ok(Client { runtime: Some(runtime), client, messages, watch, limits })
            }
            Err(refused) => {
                // Does not wait for a name that is still being looked up in another thread.
                runtime.shutdown_background();
                Err(refused)
            }
        }
    }

    /// Ends the limits of connecting. From here on a statement may take any time.
    pub(super) fn settle(&mut self) {
        self.limits = Limits { total: None, silence: None, bytes: ANSWER_MAX, stops_at_once: false };
    }

    /// Limits the silence of the server, and lets a stop end the session at once. For sessions that only read, such as
    /// a capture's: a server that works answers soon, and nothing has to be cleaned up.
    pub(super) fn hurry(&mut self, silence: Duration) {
        self.limits = Limits { silence: Some(silence), stops_at_once: true, ..self.limits };
    }

    fn parts(&mut self) -> (&tokio_postgres::Client, Driver<'_>) {
        let driver = Driver { runtime: self.runtime.as_ref(), messages: &mut self.messages, watch: &self.watch, limits: self.limits };
        (&self.client, driver)
    }

    /// Runs statements.
    pub fn batch_execute(&mut self, statements: &str) -> Result<(), Error> {
        let (client, mut driver) = self.parts();
        driver.run(client.batch_execute(statements))
    }

    /// The rows of a query.
    pub fn query(&mut self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let (client, mut driver) = self.parts();
        driver.run(client.query(query, parameters))
    }

    /// The only row of a query.
    pub fn query_one(&mut self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        let (client, mut driver) = self.parts();
        driver.run(client.query_one(query, parameters))
    }

    /// Runs one statement and returns how many rows it changed.
    pub fn execute(&mut self, statement: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        let (client, mut driver) = self.parts();
        driver.run(client.execute(statement, parameters))
    }

    /// The results of statements, as text.
    pub fn simple_query(&mut self, statements: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        let (client, mut driver) = self.parts();
        driver.run(client.simple_query(statements))
    }

    /// Makes sure that a text is a single statement that the server understands.
    pub fn prepare(&mut self, statement: &str) -> Result<(), Error> {
        let (client, mut driver) = self.parts();
        driver.run(client.prepare(statement)).map(drop)
    }

    /// Begins to load rows.
    pub fn copy_in(&mut self, statement: &str) -> Result<CopyIn<'_>, Error> {
        let (client, mut driver) = self.parts();
        let sink = driver.run(client.copy_in(statement))?;
        Ok(CopyIn { driver, sink: Box::pin(sink), buffer: BytesMut::new() })
    }

    /// Begins to read rows.
    pub fn copy_out(&mut self, statement: &str) -> Result<CopyOut<'_>, Error> {
        let (client, mut driver) = self.parts();
        // No limit of bytes: rows are read one after the other and not kept, and one value can have a gigabyte.
        driver.limits.bytes = u64::MAX;
        let stream = driver.run(client.copy_out(statement))?;
        Ok(CopyOut { driver, stream: Box::pin(stream), block: Bytes::new() })
    }

    /// Whether the connection is lost.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    pub(super) fn cancel_token(&self) -> CancelToken {
        self.client.cancel_token()
    }
}

/// Asks the server to cancel the statement of the session with this token. The protocol gives no answer, so it is not
/// known whether the request arrives.
pub(super) fn cancel<T: MakeTlsConnect<Guarded>>(token: &CancelToken, target: &Target, mut tls: T) {
    let limits = Limits { stops_at_once: false, ..connecting(Some(CANCEL_MAX)) };
    let watch = Arc::new(Watch::new(Stop::default(), limits));
    let Ok(runtime) = runtime() else { return };
    runtime.block_on(async {
        let Ok(socket) = Guarded::open(target, &watch, limits).await else { return };
        let Ok(tls) = tls.make_tls_connect(&target.host) else { return };
        let _ = token.cancel_query_raw(socket, tls).await;
    });
    runtime.shutdown_background();
}

impl Drop for Client {
    /// Sends the message that ends a session, so that the server does not log a lost connection.
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        self.client.__private_api_close();
        self.watch.begin(Limits { total: Some(END_MAX), silence: None, bytes: ANSWER_MAX, stops_at_once: true });
        runtime.block_on(poll_fn(|context| {
            loop {
                match (self.messages)(context) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        }));
        runtime.shutdown_background();
    }
}

/// Drives a session while one call waits.
struct Driver<'c> {
    runtime: Option<&'c Runtime>,
    messages: &'c mut Messages,
    watch: &'c Watch,
    limits: Limits,
}

impl Driver<'_> {
    fn run<T>(&mut self, future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        // Only a client that is being dropped has no runtime.
        let Some(runtime) = self.runtime else { return Err(Error::__private_api_timeout()) };
        self.watch.begin(self.limits);
        let (mut future, mut notices) = (pin!(future), 0_u32);
        runtime.block_on(poll_fn(|context| {
            // First the connection, which brings the bytes; then the call, which takes its answer from them.
            loop {
                match (self.messages)(context) {
                    Poll::Ready(Some(Ok(_))) => {
                        notices += 1;
                        if notices == NOTICES_MAX {
                            self.watch.refuse("the server has sent more than 100000 notices during one statement");
                        }
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            future.as_mut().poll(context)
        }))
    }
}

/// Sends rows to the server.
pub struct CopyIn<'c> {
    driver: Driver<'c>,
    sink: Pin<Box<CopyInSink<Bytes>>>,
    buffer: BytesMut,
}

impl CopyIn<'_> {
    /// Ends the COPY and returns how many rows the server has loaded. Without this call it loads none.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.send()?;
        self.driver.run(self.sink.as_mut().finish())
    }

    fn send(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let block = self.buffer.split().freeze();
        self.driver.run(self.sink.send(block))
    }
}

impl Write for CopyIn<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() >= BLOCK_LEN {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send().map_err(io::Error::other)
    }
}

/// Reads rows from the server.
pub struct CopyOut<'c> {
    driver: Driver<'c>,
    stream: Pin<Box<CopyOutStream>>,
    block: Bytes,
}

impl BufRead for CopyOut<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while !self.block.has_remaining() {
            let next = async { self.stream.next().await.transpose() };
            match self.driver.run(next).map_err(io::Error::other)? {
                Some(block) => self.block = block,
                None => break,
            }
        }
        Ok(&self.block)
    }

    fn consume(&mut self, amount: usize) {
        self.block.advance(amount.min(self.block.len()));
    }
}

impl Read for CopyOut<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.fill_buf()?.read(buffer)?;
        self.consume(got);
        Ok(got)
    }
}
