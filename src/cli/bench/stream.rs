//! The bare reader: takes the stream from the walsender and decodes nothing.
//!
//! A walsender that wakes its reader for every message is twice as slow. So the reader has a thread and a runtime of
//! its own, and sleeps as a thread: a task that sleeps leaves some worker behind that every message wakes.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::apart::apart;
use super::backlog::SLOT;
use super::usage;
use super::world::PATIENCE;
use crate::config::Postgres;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::wire::{Frame, Walsender};

/// Bytes of one turn below which the next one waits.
const LARGE_READ: usize = 128 * 1024;
/// How long it waits then: twice as long after each small turn, half as long after a large one. What comes meanwhile fits
/// into the kernel's buffers, where many messages become one.
const SHORTEST_PAUSE: Duration = Duration::from_micros(250);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);
/// Tag of a commit, and where the end of its record stands in it.
const COMMIT: u8 = b'C';
const COMMIT_END: std::ops::Range<usize> = 10..18;
/// How often the server hears of the reader.
const STATUS: Duration = Duration::from_secs(1);

/// How a stream was read.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// From the command to the last commit.
    pub time: Duration,
    /// Processor time of the walsender.
    pub walsender: Duration,
}

/// Reads the second slot to `end` on a thread of its own, and does nothing with it.
pub async fn read_apart(pg: Postgres, end: Lsn) -> Result<Read> {
    apart(async move || read(&pg, end, |_| Ok(())).await).await
}

/// Reads the second slot from its beginning to `end`, and hands each message on.
pub async fn read(pg: &Postgres, end: Lsn, mut take: impl FnMut(Bytes) -> Result<()>) -> Result<Read> {
    let mut walsender = Walsender::connect(pg).await?;
    let rows = walsender.query("SELECT pg_backend_pid()").await?;
    let process = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
    let process = process.ok_or_else(|| Error::definite("the walsender has no process id", ""))?;
    let before = usage::cpu(process)?;
    let begun = Instant::now();
    let mut stream = walsender.start_replication(SLOT, Lsn::ZERO, &pg.publication).await?;
    let (mut told, mut pause) = (begun, SHORTEST_PAUSE);
    let mut done = false;
    while !done {
        let mut read = 0;
        let mut frame = Some(stream.next().await?);
        while let Some(taken) = frame {
            match taken {
                Frame::XLogData { payload, .. } => {
                    read += payload.len();
                    done |= commit_end(&payload).is_some_and(|at| at >= end);
                    take(payload)?;
                }
                Frame::Keepalive { .. } => {}
                Frame::CopyDone => return Err(Error::definite("postgresql ended the stream", "try again")),
            }
            frame = stream.buffered()?;
        }
        if told.elapsed() >= STATUS {
            told = Instant::now();
            // Nothing is flushed: the slot stays where it is.
            stream.queue_status(end, Lsn::ZERO, false);
        }
        if begun.elapsed() > PATIENCE {
            return Err(Error::definite("the stream does not come to its end", "choose fewer --events"));
        }
        if read >= LARGE_READ {
            pause = (pause / 2).max(SHORTEST_PAUSE);
        } else if !done {
            pause = (pause * 2).min(LONGEST_PAUSE);
            std::thread::sleep(pause);
        }
    }
    let (time, walsender) = (begun.elapsed(), usage::cpu(process)?.saturating_sub(before));
    stream.close().await;
    Ok(Read { time, walsender })
}

/// Where the record of a commit ends, if the message is one.
fn commit_end(message: &[u8]) -> Option<Lsn> {
    let end = message.get(COMMIT_END).filter(|_| message.first() == Some(&COMMIT))?;
    Some(Lsn(u64::from_be_bytes(end.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_commit_is_read_and_nothing_else_has_one() {
        let mut commit = vec![COMMIT, 0];
        commit.extend([7_u64, 0x1_0000_00A0, 0].map(u64::to_be_bytes).concat());
        assert_eq!(commit_end(&commit), Some(Lsn(0x1_0000_00A0)));
        assert_eq!(commit_end(&commit[..12]), None);
        commit[0] = b'U';
        assert_eq!(commit_end(&commit), None);
    }
}
