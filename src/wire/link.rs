//! An open byte stream to the server, however it is carried.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use crate::error::Error;

/// `AuthenticationCleartextPassword`: tag, length 8, code 3.
const CLEARTEXT_REQUEST: [u8; 9] = [b'R', 0, 0, 0, 8, 0, 0, 0, 3];

/// A connection before any PostgreSQL message but `SSLRequest`.
pub(super) enum Link {
    /// Unencrypted; a request for the bare password is an error, whoever authenticates on top.
    Tcp(TcpStream, Opening),
    /// The server's own machine.
    Unix(UnixStream),
    /// Encrypted, with what binds SCRAM to the server's certificate.
    Tls(Box<TlsStream<TcpStream>>, Option<Vec<u8>>),
    /// No socket at all: the simulator is at the other end.
    Memory(DuplexStream),
}

/// The first bytes that the server sent, as far as they ask for a bare password.
#[derive(Default)]
pub(super) struct Opening {
    matched: usize,
    over: bool,
}

impl Opening {
    fn look(&mut self, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            if self.over {
                break;
            }
            match CLEARTEXT_REQUEST.get(self.matched) == Some(byte) {
                true => self.matched += 1,
                false => self.over = true,
            }
            if self.matched == CLEARTEXT_REQUEST.len() {
                let fact = "the server asks for the password in clear text over an unencrypted connection";
                let cure = "use sslmode=require, or scram-sha-256 in pg_hba.conf";
                return Err(io::Error::other(Error::definite(fact, cure)));
            }
        }
        Ok(())
    }
}

impl Link {
    /// What SCRAM-SHA-256-PLUS binds to, where there is a certificate with a known hash.
    pub(super) fn binding(&self) -> Option<&[u8]> {
        match self {
            Link::Tls(_, binding) => binding.as_deref(),
            Link::Tcp(..) | Link::Unix(_) | Link::Memory(_) => None,
        }
    }

    /// Whether bytes are encrypted.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Link::Tls(..))
    }
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Link::Tcp(stream, opening) => {
                let before = buf.filled().len();
                let polled = Pin::new(stream).poll_read(cx, buf);
                if !opening.over {
                    opening.look(buf.filled().get(before..).unwrap_or_default())?;
                }
                polled
            }
            Link::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Link::Tls(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Link::Memory(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Link::Tcp(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Link::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Link::Tls(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Link::Memory(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Link::Tcp(stream, _) => Pin::new(stream).poll_flush(cx),
            Link::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Link::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
            Link::Memory(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Link::Tcp(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Link::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Link::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Link::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_for_the_bare_password_is_seen_however_it_is_cut() {
        for cut in 0..CLEARTEXT_REQUEST.len() {
            let mut opening = Opening::default();
            let (head, tail) = CLEARTEXT_REQUEST.split_at(cut);
            assert!(opening.look(head).and_then(|()| opening.look(tail)).is_err());
        }
        let mut opening = Opening::default();
        assert!(opening.look(b"R\0\0\0\x0c\0\0\0\x05salt").is_ok());
        assert!(opening.look(&CLEARTEXT_REQUEST).is_ok(), "only the first message is one");
    }
}
