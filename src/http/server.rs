//! Accepts connections, so many and no more: whoever opens thousands holds up neither the stream nor the next request.
//!
//! A client has to say what it wants within seconds, and is sent away where all places are taken. The last places are
//! for those who say it at once, so that a crowd that says nothing keeps nobody out.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::config;
use crate::error::{Error, Result};
use crate::health::progress::MAX_WAITERS;

/// Most connections at the same time: all that may wait for a position, and as many again for the rest.
const MAX_CONNECTIONS: usize = MAX_WAITERS + 256;
/// Of the files that the process may open, one in so many may be a connection of a client.
const SHARE_OF_FILES: usize = 2;
/// Files that a process may open at least, where that is not known.
const LEAST_FILES: usize = 1024;
/// Places for those who say at once what they want.
const LAST_PLACES: usize = 64;
/// Most clients that are being told that there is no place.
const REFUSALS: usize = 64;

/// How long a client may take for a request's head, the next one of a connection too, and for a TLS handshake.
const HEAD: Duration = Duration::from_secs(10);
/// The same in the last places.
const HEAD_AT_ONCE: Duration = Duration::from_millis(500);
/// How long a connection is kept.
const LIFE: Duration = Duration::from_secs(600);
/// How long one may go on after that with the answer that is due, and how long one is kept in the last places.
const LAST_ANSWER: Duration = Duration::from_secs(45);
/// How long a client that is sent away may take to read it.
const GOODBYE: Duration = Duration::from_millis(500);
/// Pause after a connection that could not be accepted: the process may be out of files.
const PAUSE: Duration = Duration::from_millis(100);
/// Largest head of a request, in bytes.
const HEAD_BYTES: usize = 32 << 10;

const REFUSED: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\
    Connection: close\r\nContent-Length: 79\r\n\r\n\
    {\"success\":false,\"message\":\"too many connections: ask again later\",\"data\":{}}\r\n";

/// An address that is taken.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
}

/// Takes the address, so that a taken one is known before anything else starts.
pub async fn listen(http: &config::Http) -> Result<Listener> {
    let tcp = TcpListener::bind(http.listen).await.map_err(|error| {
        Error::definite(
            format!("cannot listen on {}: {error}", http.listen),
            "free the address or set http.listen",
        )
    })?;
    let tls = http.tls.as_ref().map(|tls| TlsAcceptor::from(Arc::clone(&tls.server)));
    Ok(Listener { tcp, tls })
}

/// How a connection is treated.
#[derive(Clone, Copy)]
struct Manners {
    head: Duration,
    life: Duration,
    keep_alive: bool,
}

impl Manners {
    const USUAL: Manners = Manners { head: HEAD, life: LIFE, keep_alive: true };
    const LAST_PLACE: Manners = Manners { head: HEAD_AT_ONCE, life: LAST_ANSWER, keep_alive: false };
}

/// Answers for ever.
pub(super) async fn serve(listener: Listener, router: Router) -> Result<()> {
    let places =
        Arc::new(Semaphore::new(places(std::fs::read_to_string("/proc/self/limits").ok().as_deref())));
    let last_places = Arc::new(Semaphore::new(LAST_PLACES));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let mut is_failing = false;
    loop {
        let stream = match listener.tcp.accept().await {
            Ok((stream, _)) => {
                is_failing = false;
                stream
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(%error, "an http connection cannot be accepted; trying again");
                }
                sleep(PAUSE).await;
                continue;
            }
        };
        let take = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        let usual = take(&places).map(|place| (place, Manners::USUAL));
        match usual.or_else(|| Some((take(&last_places)?, Manners::LAST_PLACE))) {
            Some((place, manners)) => {
                tokio::spawn(attend(stream, listener.tls.clone(), router.clone(), (place, manners)));
            }
            // Beyond so many, and where an answer would need a handshake, it is closed without a word.
            None => {
                if let (None, Some(refusal)) = (&listener.tls, take(&refusals)) {
                    tokio::spawn(refuse(stream, refusal));
                }
            }
        }
    }
}

/// How many connections the process has files for.
fn places(limits: Option<&str>) -> usize {
    let line = limits.and_then(|limits| limits.lines().find(|line| line.starts_with("Max open files")));
    let soft = line.and_then(|line| line.split_ascii_whitespace().nth(3));
    let files = match soft {
        Some("unlimited") => usize::MAX,
        Some(soft) => soft.parse().unwrap_or(LEAST_FILES),
        None => LEAST_FILES,
    };
    (files / SHARE_OF_FILES).min(MAX_CONNECTIONS)
}

async fn attend(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    (_place, manners): (OwnedSemaphorePermit, Manners),
) {
    // A connection that has it not is only slower.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return converse(stream, router, manners).await };
    // Whoever does not speak TLS is none of ours to be logged.
    if let Ok(Ok(stream)) = timeout(manners.head, tls.accept(stream)).await {
        converse(stream, router, manners).await;
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    manners: Manners,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(manners.head)
        .keep_alive(manners.keep_alive)
        .max_buf_size(HEAD_BYTES);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    // A client that breaks off, or speaks no HTTP, has nobody to be told.
    if timeout(manners.life, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_ANSWER, connection).await;
    }
}

/// Says that there is no place, and reads what the client says meanwhile: closing before would take back the answer.
async fn refuse(mut stream: TcpStream, _refusal: OwnedSemaphorePermit) {
    let goodbye = async {
        stream.write_all(REFUSED).await?;
        stream.shutdown().await?;
        let mut heard = [0; 1024];
        while stream.read(&mut heard).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = timeout(GOODBYE, goodbye).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_rest() {
        let limits = |soft: &str| {
            format!("Limit   Soft Limit  Hard Limit  Units\nMax open files   {soft}   524288   files\n")
        };
        assert_eq!(places(Some(&limits("1024"))), 512);
        assert_eq!(places(Some(&limits("20000"))), MAX_CONNECTIONS);
        assert_eq!(places(Some(&limits("unlimited"))), MAX_CONNECTIONS);
        for unknown in [None, Some(""), Some("Max open files")] {
            assert_eq!(places(unknown), 512);
        }
    }

    #[test]
    fn a_refusal_is_as_long_as_it_says() {
        let text = std::str::from_utf8(REFUSED).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{}", body.len());
        let envelope: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(envelope["success"], false);
    }
}
