//! The floor: less than this no consumer of the stream can do. It publishes each transaction's id when it is read, and
//! writes no key.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use super::super::apart::apart;
use super::super::backlog::SLOT;
use super::super::commands::encode;
use super::super::pipe;
use super::FLOOR;
use crate::config::Postgres;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::wire::{Frame, Stream, Walsender};

/// How often the server hears of the reader.
const STATUS: Duration = Duration::from_secs(1);
/// Bytes of replies that one read takes at most.
const PIECE: usize = 4 * 1024;
/// Tags of messages, and where the transaction's id stands in the first.
const BEGIN: u8 = b'B';
const INSERT: u8 = b'I';
const COMMIT: u8 = b'C';
const BEGIN_XID: std::ops::Range<usize> = 17..21;

/// Publishes what the second slot gives, on a thread of its own, until it is stopped.
pub async fn publish_apart(pg: Postgres, port: u16, stopped: oneshot::Receiver<()>) -> Result<()> {
    apart(async move || publish(&pg, port, stopped).await).await
}

async fn publish(pg: &Postgres, port: u16, mut stopped: oneshot::Receiver<()>) -> Result<()> {
    let walsender = Walsender::connect(pg).await?;
    let mut stream = walsender.start_replication(SLOT, Lsn::ZERO, &pg.publication).await?;
    let redis = TcpStream::connect(("127.0.0.1", port)).await.map_err(cut)?;
    redis.set_nodelay(true).map_err(cut)?;
    let (mut replies, mut requests) = redis.into_split();
    let (mut open, mut commands, mut buffer) = (Open::Nothing, Vec::new(), vec![0; PIECE]);
    let mut status = interval(STATUS);
    status.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            frame = stream.next() => {
                take(frame?, &mut stream, &mut open, &mut commands)?;
                requests.write_all(&commands).await.map_err(cut)?;
                commands.clear();
            }
            // Nobody waits for a reply, but none is an error.
            read = replies.read(&mut buffer) => {
                pipe::counted(buffer.get(..read.map_err(cut)?).unwrap_or_default())?;
            }
            // Nothing is flushed: the slot is made anew for the next rate.
            _ = status.tick() => stream.queue_status(Lsn::ZERO, Lsn::ZERO, false),
            _ = &mut stopped => break,
        }
    }
    stream.close().await;
    Ok(())
}

/// The commands of this frame and of all that came with it.
fn take(frame: Frame, stream: &mut Stream, open: &mut Open, commands: &mut Vec<u8>) -> Result<()> {
    let mut frame = Some(frame);
    while let Some(taken) = frame {
        match taken {
            Frame::XLogData { payload, .. } => {
                if let Some(xid) = open.push(&payload) {
                    let xid = xid.to_string();
                    encode(commands, &[b"PUBLISH", FLOOR.as_bytes(), xid.as_bytes()]).map_err(cut)?;
                }
            }
            Frame::Keepalive { .. } => {}
            Frame::CopyDone => return Err(Error::definite("postgresql ended the stream", "try again")),
        }
        frame = stream.buffered()?;
    }
    Ok(())
}

/// The transaction that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    /// None.
    Nothing,
    /// One that has told of no row so far: the server's own, before PostgreSQL 15, tell of none.
    Begun(u32),
    /// One with a row.
    Changed(u32),
}

impl Open {
    /// Takes a message; the id of the transaction that ends with it.
    fn push(&mut self, message: &[u8]) -> Option<u32> {
        let before = *self;
        *self = match (message.first().copied(), before) {
            (Some(BEGIN), _) => begun(message).map_or(Open::Nothing, Open::Begun),
            (Some(INSERT), Open::Begun(xid)) => Open::Changed(xid),
            (Some(COMMIT), _) => Open::Nothing,
            _ => before,
        };
        match (before, *self) {
            (Open::Changed(xid), Open::Nothing) => Some(xid),
            _ => None,
        }
    }
}

fn begun(message: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(message.get(BEGIN_XID)?.try_into().ok()?))
}

fn cut(error: std::io::Error) -> Error {
    Error::definite(
        format!("the bare reader lost redis ({error})"),
        "see whether the machine is out of memory",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_told_at_its_commit_by_the_id_of_its_begin() {
        let begin = |xid: u32| [&[BEGIN][..], &[7; 16], &xid.to_be_bytes()].concat();
        let mut open = Open::Nothing;
        let mut told = |message: &[u8]| open.push(message);
        assert_eq!([told(&begin(742)), told(b"R..."), told(b"U..."), told(b"I...")], [None; 4]);
        assert_eq!(told(b"C..."), Some(742));
        assert_eq!(told(b"C..."), None, "only once");
    }

    #[test]
    fn a_transaction_without_rows_or_without_an_id_is_not_told() {
        let mut open = Open::Nothing;
        let mut told = |message: &[u8]| open.push(message);
        assert_eq!([told(&[&[BEGIN][..], &[7; 20]].concat()), told(b"M..."), told(b"C...")], [None; 3]);
        assert_eq!([told(b"B cut short"), told(b"I..."), told(b"C..."), told(b"")], [None; 4]);
    }
}
