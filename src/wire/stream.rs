//! The replication stream in copy mode. Every call is cancel-safe: all state is in [`Stream`].

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

pub use super::framing::Frame;
use super::framing::{Inbound, Incoming, replication_frame};
use super::link::Link;
use super::session::Session;
use super::sqlstate::Peer;
use super::trace::Trace;
use crate::config::Postgres;
use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// How long [`Stream::close`] waits for the server's `CopyDone`, which comes behind all it has sent.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Seconds from 1970 to 2000, PostgreSQL's epoch.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

/// Body of a standby status update: `r`, three positions, a clock, a flag.
const STATUS_BYTES: i32 = 34;

#[derive(Debug, Clone, Copy)]
struct Status {
    received: Lsn,
    flushed: Lsn,
    reply_requested: bool,
}

/// A running logical replication stream.
pub struct Stream {
    link: Link,
    inbound: Inbound,
    /// Bytes of messages that are being sent.
    out: BytesMut,
    /// The status that is sent next; a newer one takes its place.
    queued: Option<Status>,
    peer: Peer,
    unflushed: bool,
    trace: Option<Trace>,
}

impl Stream {
    pub(super) fn new(session: Session) -> Stream {
        let Session { link, inbound, out, peer, trace, .. } = session;
        Stream { link, inbound, out, queued: None, peer, unflushed: false, trace }
    }

    /// A stream that is copied already, over memory: the simulator is at the other end.
    #[doc(hidden)]
    pub fn over(memory: DuplexStream, pg: &Postgres) -> Stream {
        let (link, peer) = (Link::Memory(memory), Peer::new(pg, None));
        Stream {
            link,
            inbound: Inbound::default(),
            out: BytesMut::new(),
            queued: None,
            peer,
            unflushed: false,
            trace: None,
        }
    }

    /// The next frame; sends queued status meanwhile. Cancel-safe.
    ///
    /// # Errors
    /// The server's last word, or transient where the connection ended. Then the stream is over.
    pub async fn next(&mut self) -> Result<Frame> {
        poll_fn(|cx| {
            // A failed send is told by the read: the server's last word may still be there.
            if let Poll::Ready(Err(_)) = self.poll_send(cx) {
                self.out.clear();
                self.queued = None;
            }
            loop {
                if let Some(frame) = self.buffered()? {
                    return Poll::Ready(Ok(frame));
                }
                match ready!(self.inbound.poll_fill(&mut self.link, cx)) {
                    Ok(0) => return Poll::Ready(Err(self.peer.closed())),
                    Ok(_) => {}
                    Err(error) => return Poll::Ready(Err(self.peer.lost(&error))),
                }
            }
        })
        .await
    }

    /// The next frame if it is in memory already; does no IO.
    ///
    /// # Errors
    /// The server's last word, or bytes that are no frame.
    pub fn buffered(&mut self) -> Result<Option<Frame>> {
        loop {
            let garbled = |error: io::Error, peer: &Peer| peer.garbled(&error.to_string());
            match self.inbound.take().map_err(|error| garbled(error, &self.peer))? {
                None => return Ok(None),
                Some(Incoming::CopyData(body)) => {
                    return replication_frame(body).map(Some).map_err(|error| garbled(error, &self.peer));
                }
                Some(Incoming::Other(Message::CopyDone)) => return Ok(Some(Frame::CopyDone)),
                Some(Incoming::Other(Message::ErrorResponse(body))) => return Err(self.peer.refusal(&body)),
                // Notices, parameter changes, and what follows CopyDone.
                Some(Incoming::Other(_) | Incoming::CopyBoth) => {}
            }
        }
    }

    /// Queues a standby status update: `received` is written, `flushed` is what PostgreSQL may forget.
    ///
    /// Sent by [`next`](Stream::next) and [`flush`](Stream::flush); replaces one that is still queued.
    pub fn queue_status(&mut self, received: Lsn, flushed: Lsn, reply_requested: bool) {
        let reply_requested = reply_requested || self.queued.is_some_and(|queued| queued.reply_requested);
        self.queued = Some(Status { received, flushed, reply_requested });
    }

    /// Whether anything waits to be sent: [`flush`](Stream::flush) has nothing to do otherwise.
    pub fn has_unsent(&self) -> bool {
        self.unflushed || self.queued.is_some() || !self.out.is_empty()
    }

    /// Sends what is queued without reading. Cancel-safe.
    ///
    /// # Errors
    /// Transient: the connection ended.
    pub async fn flush(&mut self) -> Result<()> {
        poll_fn(|cx| self.poll_send(cx)).await.map_err(|error| self.peer.lost(&error))
    }

    /// Sends the last status and ends the stream, discarding what the server has sent; takes at most about
    /// a second. What fails here is nobody's loss: the server sees the closed socket.
    pub async fn close(mut self) {
        self.encode_queued();
        frontend::copy_done(&mut self.out);
        let goodbye = async {
            while self.next().await? != Frame::CopyDone {}
            frontend::terminate(&mut self.out);
            self.flush().await?;
            self.link.shutdown().await.map_err(|error| self.peer.lost(&error))
        };
        let ended: Result<Result<(), Error>, _> = timeout(CLOSE_TIMEOUT, goodbye).await;
        let clean = matches!(ended, Ok(Ok(())));
        if let Some(trace) = &self.trace {
            trace.within(|| tracing::debug!(clean, "the stream was ended"));
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.out.is_empty() {
                self.encode_queued();
            }
            if self.out.is_empty() {
                if self.unflushed {
                    ready!(Pin::new(&mut self.link).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Ready(Ok(()));
            }
            if ready!(pin!(self.link.write_buf(&mut self.out)).poll(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
        }
    }

    fn encode_queued(&mut self) {
        let Some(status) = self.queued.take() else { return };
        let since = SystemTime::UNIX_EPOCH + POSTGRES_EPOCH;
        let clock = SystemTime::now().duration_since(since).unwrap_or_default().as_micros();
        self.out.put_u8(b'd');
        self.out.put_i32(STATUS_BYTES + 4);
        self.out.put_u8(b'r');
        self.out.put_u64(status.received.0);
        self.out.put_u64(status.flushed.0);
        self.out.put_u64(status.flushed.0);
        self.out.put_i64(i64::try_from(clock).unwrap_or_default());
        self.out.put_u8(status.reply_requested.into());
    }
}
