//! Bytes from the server -> messages, without copying them.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend::{COPY_DATA_TAG, Header, Message};
use tokio::io::AsyncReadExt;

use super::link::Link;
use crate::lsn::Lsn;

/// Bytes that one read takes at most.
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// Room below which the buffer is renewed before a read.
const MIN_READ_BYTES: usize = 64 * 1024;

/// No message is longer: PostgreSQL builds each in one allocation (`MaxAllocSize`).
const MAX_MESSAGE_BYTES: usize = 0x3fff_ffff;

/// Tag and length.
const HEADER_BYTES: usize = 5;

/// `CopyBothResponse`, which `postgres_protocol` does not know.
const COPY_BOTH_TAG: u8 = b'W';

/// One step of the replication stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A piece of the output plugin's stream: one pgoutput message.
    XLogData {
        /// Where the piece starts in the WAL; not monotonic, never acknowledge it.
        start: Lsn,
        /// End of WAL on the server as of sending.
        wal_end: Lsn,
        /// The message: a slice of the read buffer, which stays allocated as long as this is held.
        payload: Bytes,
    },
    /// The server is alive, and where it is.
    Keepalive {
        /// How far the server has sent.
        wal_end: Lsn,
        /// Whether it wants a status at once, lest it disconnect.
        reply_requested: bool,
    },
    /// The server ends the stream; nothing follows.
    CopyDone,
}

/// One message of the server.
pub(super) enum Incoming {
    CopyBoth,
    CopyData(Bytes),
    Other(Message),
}

/// What was read and not yet taken.
#[derive(Default)]
pub(super) struct Inbound {
    buf: BytesMut,
    outgrown: bool,
}

impl Inbound {
    /// Reads once, as much as is there. `Ready(0)` is the end. Keeps no state of its own between calls.
    pub(super) fn poll_fill(&mut self, link: &mut Link, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.make_room();
        pin!(link.read_buf(&mut self.buf)).poll(cx)
    }

    /// The buffer grows with what has arrived, never with what a header promises; where all slices are
    /// dropped, `reserve` takes the same allocation again.
    fn make_room(&mut self) {
        let held = self.buf.len();
        if self.outgrown && held == 0 {
            *self = Inbound::default();
        }
        self.outgrown |= held > READ_BUFFER_BYTES;
        if self.buf.capacity() - held < MIN_READ_BYTES {
            self.buf.reserve(READ_BUFFER_BYTES.saturating_sub(held).max(MIN_READ_BYTES));
        }
    }

    /// The next whole message, if it is here.
    pub(super) fn take(&mut self) -> io::Result<Option<Incoming>> {
        let Some(header) = Header::parse(&self.buf)? else { return Ok(None) };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX).saturating_add(1);
        if length > MAX_MESSAGE_BYTES {
            return Err(malformed("message too long"));
        }
        if self.buf.len() < length {
            return Ok(None);
        }
        match header.tag() {
            COPY_DATA_TAG => {
                let mut message = self.buf.split_to(length).freeze();
                message.advance(HEADER_BYTES);
                Ok(Some(Incoming::CopyData(message)))
            }
            COPY_BOTH_TAG => {
                self.buf.advance(length);
                Ok(Some(Incoming::CopyBoth))
            }
            _ => {
                let mut message = self.buf.split_to(length);
                Ok(Message::parse(&mut message)?.map(Incoming::Other))
            }
        }
    }
}

/// Reads what a walsender puts into `CopyData`:
/// <https://www.postgresql.org/docs/current/protocol-replication.html>.
pub(super) fn replication_frame(mut body: Bytes) -> io::Result<Frame> {
    let short = |_| malformed("replication message cut short");
    match body.try_get_u8().map_err(short)? {
        b'w' => {
            let start = Lsn(body.try_get_u64().map_err(short)?);
            let wal_end = Lsn(body.try_get_u64().map_err(short)?);
            body.try_get_u64().map_err(short)?;
            Ok(Frame::XLogData { start, wal_end, payload: body })
        }
        b'k' => {
            let wal_end = Lsn(body.try_get_u64().map_err(short)?);
            body.try_get_u64().map_err(short)?;
            let reply_requested = body.try_get_u8().map_err(short)? != 0;
            Ok(Frame::Keepalive { wal_end, reply_requested })
        }
        _ => Err(malformed("unknown replication message")),
    }
}

pub(super) fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use proptest::prelude::*;

    use super::*;

    fn copy_data(body: &[u8]) -> Vec<u8> {
        let mut message = vec![b'd'];
        message.put_i32(i32::try_from(body.len()).unwrap() + 4);
        message.extend(body);
        message
    }

    fn xlog_data(start: u64, payload: &[u8]) -> Vec<u8> {
        let mut body = vec![b'w'];
        body.put_u64(start);
        body.put_u64(start + 1);
        body.put_u64(0);
        body.extend(payload);
        copy_data(&body)
    }

    fn drain(inbound: &mut Inbound) -> io::Result<Vec<Frame>> {
        let mut frames = Vec::new();
        while let Some(message) = inbound.take()? {
            if let Incoming::CopyData(body) = message {
                frames.push(replication_frame(body)?);
            }
        }
        Ok(frames)
    }

    #[test]
    fn a_keepalive_says_where_the_server_is() {
        let mut body = vec![b'k'];
        body.put_u64(77);
        body.put_u64(0);
        body.put_u8(1);
        let frame = replication_frame(body.into()).unwrap();
        assert_eq!(frame, Frame::Keepalive { wal_end: Lsn(77), reply_requested: true });
    }

    #[test]
    fn hostile_lengths_are_errors_and_allocate_nothing() {
        for length in [i32::MIN, -1, 0, 3, i32::MAX] {
            let mut inbound = Inbound::default();
            inbound.buf.put_u8(b'd');
            inbound.buf.put_i32(length);
            assert!(inbound.take().is_err(), "{length}");
        }
        let mut inbound = Inbound::default();
        inbound.buf.put_u8(b'd');
        inbound.buf.put_i32(0x3fff_0000);
        assert!(inbound.take().unwrap().is_none(), "waits for a gigabyte");
        inbound.make_room();
        assert!(inbound.buf.capacity() <= 2 * READ_BUFFER_BYTES, "without having room for it");
    }

    #[test]
    fn the_buffer_is_taken_again_once_its_slices_are_gone() {
        let mut inbound = Inbound::default();
        inbound.make_room();
        let message = xlog_data(1, &[7; 1000]);
        let first = inbound.buf.as_ptr();
        for _ in 0..10_000 {
            inbound.make_room();
            inbound.buf.extend_from_slice(&message);
            assert_eq!(drain(&mut inbound).unwrap().len(), 1);
        }
        inbound.buf.clear();
        inbound.buf.reserve(READ_BUFFER_BYTES);
        assert_eq!(inbound.buf.as_ptr(), first, "the same allocation all the way");
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_the_bytes_are_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..20),
            piece in 1_usize..40,
        ) {
            let mut bytes = Vec::new();
            for (at, payload) in payloads.iter().enumerate() {
                bytes.extend(xlog_data(at as u64, payload));
            }
            let mut inbound = Inbound::default();
            let mut read = Vec::new();
            for part in bytes.chunks(piece) {
                inbound.make_room();
                inbound.buf.extend_from_slice(part);
                for frame in drain(&mut inbound).unwrap() {
                    let Frame::XLogData { payload, .. } = frame else { panic!("{frame:?}") };
                    read.push(payload.to_vec());
                }
            }
            prop_assert_eq!(read, payloads);
        }

        #[test]
        fn garbage_is_an_error_or_patience_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut inbound = Inbound::default();
            inbound.buf.extend_from_slice(&bytes);
            while let Ok(Some(_)) = inbound.take() {}
            let _ = replication_frame(bytes.into());
        }
    }
}
