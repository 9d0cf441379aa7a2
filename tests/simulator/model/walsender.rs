//! A walsender: the bytes of the stream, and what the client acknowledges.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::pgoutput;
use super::postgres::Commit;

/// One standby status update.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    pub received: u64,
    pub flushed: u64,
}

/// What came from the client.
#[derive(Debug, Default)]
pub struct Heard {
    pub statuses: Vec<Status>,
    /// The connection has ended.
    pub over: bool,
}

/// A walsender that streams.
pub struct Walsender {
    pipe: DuplexStream,
    out: BytesMut,
    inbox: BytesMut,
    /// The commit that is sent, and the message of it that is next.
    next: usize,
    message: usize,
    described: Vec<u32>,
    /// The end of the last transaction that was sent whole.
    pub sent: u64,
    asked: bool,
    closing: bool,
}

impl Walsender {
    pub fn new(pipe: DuplexStream, next: usize, sent: u64) -> Walsender {
        Walsender {
            pipe,
            out: BytesMut::new(),
            inbox: BytesMut::new(),
            next,
            message: 0,
            described: Vec::new(),
            sent,
            asked: false,
            closing: false,
        }
    }

    /// Whether there is anything to send.
    pub fn is_behind(&self, commits: &[Commit]) -> bool {
        self.next < commits.len() || !self.out.is_empty()
    }

    /// The commits that were sent, the one under way included.
    pub fn begun(&self) -> usize {
        self.next + usize::from(self.message > 0)
    }

    /// Writes the next message, if what was written before has left.
    pub fn send_next(&mut self, commits: &[Commit], wal: u64, full: bool) {
        if !self.out.is_empty() || self.closing {
            return;
        }
        let Some(commit) = commits.get(self.next) else { return };
        match self.message {
            0 => {
                let begin = pgoutput::begin(commit.lsn, commit.time, commit.xid);
                pgoutput::xlog_data(&mut self.out, commit.lsn, wal, &begin);
            }
            number if number <= commit.ops.len() => {
                let (lsn, op) = &commit.ops[number - 1];
                let (relation, row) = pgoutput::change(op, full);
                if relation != 0 && !self.described.contains(&relation) {
                    self.described.push(relation);
                    pgoutput::xlog_data(&mut self.out, *lsn, wal, &pgoutput::relation(relation, full));
                }
                pgoutput::xlog_data(&mut self.out, *lsn, wal, &row);
            }
            _ => {
                let end = pgoutput::commit(commit.lsn, commit.end, commit.time);
                pgoutput::xlog_data(&mut self.out, commit.lsn, wal, &end);
                self.sent = commit.end;
                self.next += 1;
                self.message = 0;
                return;
            }
        }
        self.message += 1;
    }

    /// Says where it is: at the end of WAL when everything was sent.
    pub fn keepalive(&mut self, commits: &[Commit], wal: u64) {
        if self.closing {
            return;
        }
        let at = match commits.get(self.next) {
            None => wal,
            // In the middle of a transaction the position is that of the row.
            Some(commit) if self.message > 1 => commit.ops[(self.message - 2).min(commit.ops.len() - 1)].0,
            Some(_) => self.sent,
        };
        let asks = std::mem::take(&mut self.asked);
        pgoutput::keepalive(&mut self.out, at, !asks && at % 3 == 0);
    }

    /// Whether the client wants an answer.
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    /// Writes what fits into the pipe; whether the client is gone.
    pub fn pump_out(&mut self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        while !self.out.is_empty() {
            match Pin::new(&mut self.pipe).poll_write(cx, &self.out) {
                Poll::Ready(Ok(written)) if written > 0 => self.out.advance(written),
                Poll::Ready(_) => {
                    self.out.clear();
                    return true;
                }
                Poll::Pending => break,
            }
        }
        false
    }

    /// Moves bytes both ways.
    pub fn pump(&mut self) -> Heard {
        let mut heard = Heard { over: self.pump_out(), ..Heard::default() };
        let cx = &mut Context::from_waker(Waker::noop());
        loop {
            let mut room = [0; 256];
            let mut buffer = ReadBuf::new(&mut room);
            match Pin::new(&mut self.pipe).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    heard.over = true;
                    break;
                }
                Poll::Ready(Ok(())) => self.inbox.extend_from_slice(buffer.filled()),
                Poll::Ready(Err(_)) => {
                    heard.over = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        self.read_messages(&mut heard);
        heard
    }

    fn read_messages(&mut self, heard: &mut Heard) {
        while self.inbox.len() >= 5 {
            let length = u32::from_be_bytes([self.inbox[1], self.inbox[2], self.inbox[3], self.inbox[4]]);
            let length = length as usize + 1;
            if self.inbox.len() < length {
                return;
            }
            let message = self.inbox.split_to(length);
            match message[0] {
                b'd' => {
                    let mut body = &message[6..];
                    let (received, flushed) = (body.get_u64(), body.get_u64());
                    let _applied = body.get_u64();
                    let _clock = body.get_i64();
                    self.asked |= body.get_u8() != 0;
                    heard.statuses.push(Status { received, flushed });
                }
                b'c' => {
                    // What was sent before comes before the server's own.
                    self.closing = true;
                    self.out.extend_from_slice(b"c\0\0\0\x04");
                }
                _ => heard.over = true,
            }
        }
    }
}
