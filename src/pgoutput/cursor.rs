//! A checked reader that knows where it stands.

use bytes::Bytes;

use crate::error::Error;
use crate::lsn::Lsn;

/// A message that is not what the protocol says; it names the place, never the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("pgoutput message '{}' is malformed at byte {offset}: expected {expected}", kind.escape_ascii())]
pub struct DecodeError {
    /// First byte of the message; 0 for an empty one.
    pub kind: u8,
    /// Bytes from the start of the message to what could not be read.
    pub offset: usize,
    /// What should stand there.
    pub expected: &'static str,
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Error {
        Error::definite(
            error.to_string(),
            "check that the slot's plugin is pgoutput and that nothing between here and PostgreSQL alters \
             the stream",
        )
    }
}

/// Reads one message from front to back; numbers are in network byte order.
#[derive(Debug)]
pub(super) struct Cursor {
    message: Bytes,
    offset: usize,
}

impl Cursor {
    pub(super) fn new(message: Bytes) -> Cursor {
        Cursor { message, offset: 0 }
    }

    /// The error that what is read next is not `expected`.
    pub(super) fn fail(&self, expected: &'static str) -> DecodeError {
        self.fail_at(self.offset, expected)
    }

    /// The same for what stands `skipped` bytes further.
    pub(super) fn fail_behind(&self, skipped: usize, expected: &'static str) -> DecodeError {
        self.fail_at(self.offset + skipped, expected)
    }

    fn fail_at(&self, offset: usize, expected: &'static str) -> DecodeError {
        DecodeError { kind: self.message.first().copied().unwrap_or(0), offset, expected }
    }

    /// What has not been read yet.
    pub(super) fn rest(&self) -> &[u8] {
        self.message.get(self.offset..).unwrap_or_default()
    }

    /// The next `N` bytes.
    fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], DecodeError> {
        let bytes = *self.rest().first_chunk().ok_or_else(|| self.fail(expected))?;
        self.offset += N;
        Ok(bytes)
    }

    pub(super) fn u8(&mut self, expected: &'static str) -> Result<u8, DecodeError> {
        self.array(expected).map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self, expected: &'static str) -> Result<u16, DecodeError> {
        self.array(expected).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, expected: &'static str) -> Result<u32, DecodeError> {
        self.array(expected).map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self, expected: &'static str) -> Result<i32, DecodeError> {
        self.array(expected).map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self, expected: &'static str) -> Result<i64, DecodeError> {
        self.array(expected).map(i64::from_be_bytes)
    }

    pub(super) fn lsn(&mut self, expected: &'static str) -> Result<Lsn, DecodeError> {
        self.array(expected).map(u64::from_be_bytes).map(Lsn)
    }

    /// A flags byte in which only the bits of `known` may be set.
    pub(super) fn flags(&mut self, known: u8, expected: &'static str) -> Result<u8, DecodeError> {
        let start = self.offset;
        let flags = self.u8(expected)?;
        if flags & !known == 0 { Ok(flags) } else { Err(self.fail_at(start, expected)) }
    }

    /// A string that ends with a zero byte, in UTF-8.
    pub(super) fn string(&mut self, expected: &'static str) -> Result<&str, DecodeError> {
        let start = self.offset;
        let length = self.rest().iter().position(|&byte| byte == 0).ok_or_else(|| self.fail(expected))?;
        self.offset += length + 1;
        let text = self.message.get(start..start + length).unwrap_or_default();
        std::str::from_utf8(text).map_err(|_| self.fail_at(start, expected))
    }

    /// The next `length` bytes, shared with the message.
    pub(super) fn take(&mut self, length: usize, expected: &'static str) -> Result<Bytes, DecodeError> {
        if length > self.rest().len() {
            return Err(self.fail(expected));
        }
        let start = self.offset;
        self.offset += length;
        Ok(self.message.slice(start..self.offset))
    }

    /// How many items to reserve for: what was announced, or what the rest can hold if that is less.
    pub(super) fn reserve(&self, announced: usize, least_bytes_each: usize) -> usize {
        announced.min(self.rest().len() / least_bytes_each)
    }

    /// Nothing may follow.
    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.rest().is_empty() { Ok(()) } else { Err(self.fail("the end of the message")) }
    }
}
