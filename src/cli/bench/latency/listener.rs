//! A subscriber that notes when it has read a message, and of which transaction it tells.

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::commands::encode;
use super::super::world::PATIENCE;
use super::tally::Heard;
use crate::error::{Error, Result};

/// How long the answer to the subscription may take.
const ANSWER: Duration = Duration::from_secs(10);
/// After so long without a message no more are to be expected.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes that one read takes at most.
const PIECE: usize = 64 * 1024;
/// Lines of a message, the last of which is its payload: neither JSON nor an id has a line's end in it.
const MESSAGE_LINES: u64 = 7;
/// What stands before the id in an event. In what the floor says nothing does.
const NAME: &str = "\"xid\":";

/// A subscription to one channel, on a thread of its own.
#[derive(Debug)]
pub struct Listener {
    listens: JoinHandle<Result<Vec<Heard>>>,
}

impl Listener {
    /// Returns when it is subscribed; it ends with the last of so many messages.
    pub async fn subscribe(port: u16, channel: &str, messages: u64) -> Result<Listener> {
        let stream = timeout(ANSWER, subscribed(port, channel)).await;
        let stream = stream.map_err(|_| unanswered())??;
        // Blocking: nothing stands between the kernel and the clock.
        let stream = stream.into_std().map_err(cut)?;
        stream.set_nonblocking(false).map_err(cut)?;
        stream.set_read_timeout(Some(SILENCE)).map_err(cut)?;
        Ok(Listener { listens: tokio::task::spawn_blocking(move || listen(stream, messages)) })
    }

    /// What came, once all has or no more is to be expected.
    pub async fn heard(self) -> Result<Vec<Heard>> {
        let heard = timeout(PATIENCE, self.listens).await;
        let heard = heard.map_err(|_| {
            Error::definite("the subscriber does not come to its last message", "choose fewer --events")
        })?;
        heard.map_err(|e| Error::definite(format!("the subscriber ended: {e}"), "report this as a bug"))?
    }
}

async fn subscribed(port: u16, channel: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(cut)?;
    let mut request = Vec::new();
    encode(&mut request, &[b"SUBSCRIBE", channel.as_bytes()]).map_err(cut)?;
    stream.write_all(&request).await.map_err(cut)?;
    let expected = format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:1\r\n", channel.len());
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).await.map_err(cut)?;
    if answer == expected.as_bytes() { Ok(stream) } else { Err(unanswered()) }
}

fn listen(mut stream: std::net::TcpStream, messages: u64) -> Result<Vec<Heard>> {
    let (mut lines, mut heard, mut buffer) = (Lines::default(), Vec::new(), vec![0; PIECE]);
    while (heard.len() as u64) < messages {
        let read = match stream.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // Silence, or Redis has cut it off: what did not come is counted.
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let at = Instant::now();
        lines.take(buffer.get(..read).unwrap_or_default(), |payload| {
            let xid = xid(payload)
                .ok_or_else(|| Error::definite("a message names no transaction", "report this as a bug"))?;
            heard.push(Heard { xid, at });
            Ok(())
        })?;
    }
    Ok(heard)
}

/// What Redis sends, cut into lines however it comes.
#[derive(Debug, Default)]
struct Lines {
    unfinished: Vec<u8>,
    finished: u64,
}

impl Lines {
    /// Hands on each payload that ends in these bytes.
    fn take(&mut self, bytes: &[u8], mut payload: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.unfinished.extend_from_slice(piece);
            if !piece.ends_with(b"\n") {
                continue;
            }
            self.finished += 1;
            if self.finished.is_multiple_of(MESSAGE_LINES) {
                payload(self.unfinished.trim_ascii_end())?;
            }
            self.unfinished.clear();
        }
        Ok(())
    }
}

fn xid(payload: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(payload).ok()?;
    let id = match text.rsplit_once(NAME) {
        Some((_, behind)) => behind.split(|next: char| !next.is_ascii_digit()).next()?,
        None => text,
    };
    id.parse().ok()
}

fn unanswered() -> Error {
    Error::definite("redis does not answer a subscription", "try again when less else runs")
}

fn cut(error: std::io::Error) -> Error {
    Error::definite(
        format!("the subscriber lost redis ({error})"),
        "see whether the machine is out of memory",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_found_however_they_are_cut() {
        let message = |payload: &str| {
            format!("*3\r\n$7\r\nmessage\r\n$11\r\nbench_floor\r\n${}\r\n{payload}\r\n", payload.len())
        };
        let bytes = [message("742"), message(r#"{"a":"b","xid":743,"c":1}"#)].concat().into_bytes();
        for cut in 0..bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            let (mut lines, mut heard) = (Lines::default(), Vec::new());
            for part in [head, tail] {
                let note = |payload: &[u8]| {
                    heard.push(xid(payload));
                    Ok(())
                };
                lines.take(part, note).unwrap();
            }
            assert_eq!(heard, [Some(742), Some(743)], "cut at {cut}");
        }
    }

    #[test]
    fn the_id_of_a_transaction_is_read_from_an_event_and_from_the_floor_alone() {
        let event =
            br#"{"updated_fields":{"email":"\"xid\":1"},"commit_lsn":"1/A0","xid":9,"operation_type":null}"#;
        assert_eq!((xid(event), xid(b"742")), (Some(9), Some(742)));
        assert_eq!([xid(b"{}"), xid(b""), xid(b"\"xid\":null"), xid(b"\xff")], [None; 4]);
    }
}
