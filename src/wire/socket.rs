//! The one way a connection to PostgreSQL is opened.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::link::{Link, Opening};
use super::{binding, sqlstate, tls};
use crate::config::{Endpoint, Postgres, TlsMode};
use crate::error::{Error, Result};

/// Silence after which the kernel probes a peer, between probes, and probes: a dead peer is seen in a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Longest time that sent bytes may stay unacknowledged by the peer's kernel.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Opens `endpoint` and logs in, all bounded by `connect_timeout`.
///
/// As libpq does, `prefer` tries once more without TLS where `pg_hba.conf` has no line for a connection with it.
pub(super) async fn log_in<T, L>(pg: &Postgres, endpoint: &Endpoint, login: impl Fn(Link) -> L) -> Result<T>
where
    L: Future<Output = Result<T>>,
{
    within(pg, endpoint, async {
        let link = open(pg, endpoint, pg.tls).await?;
        let may_do_without = pg.tls == TlsMode::Prefer && link.is_tls();
        match login(link).await {
            Err(error) if may_do_without && sqlstate::is_without_hba_line(&error) => {
                login(open(pg, endpoint, TlsMode::Disable).await?).await
            }
            done => done,
        }
    })
    .await
}

async fn open(pg: &Postgres, endpoint: &Endpoint, mode: TlsMode) -> Result<Link> {
    match endpoint {
        Endpoint::Unix(path) => {
            let opened = UnixStream::connect(path).await;
            opened.map(Link::Unix).map_err(|error| unreachable_at(endpoint, &error))
        }
        Endpoint::Tcp(host, _) | Endpoint::Address(_, host, _) => {
            let socket = tcp(endpoint).await.map_err(|error| unreachable_at(endpoint, &error))?;
            match mode {
                TlsMode::Disable => Ok(Link::Tcp(socket, Opening::default())),
                _ => encrypted(pg, endpoint, host, socket).await,
            }
        }
    }
}

/// Bounds a whole connection attempt.
async fn within<T>(
    pg: &Postgres,
    endpoint: &Endpoint,
    attempt: impl Future<Output = Result<T>>,
) -> Result<T> {
    let seconds = pg.connect_timeout.as_secs_f32();
    timeout(pg.connect_timeout, attempt).await.unwrap_or_else(|_| {
        let fact = format!("postgres at {endpoint} did not answer within {seconds} s");
        Err(Error::transient(fact, "check host, port and firewall"))
    })
}

async fn tcp(endpoint: &Endpoint) -> io::Result<TcpStream> {
    // No SO_RCVBUF: setting it ends the kernel's own tuning, whose limit (tcp_rmem) is far above rmem_max.
    let socket = match endpoint {
        Endpoint::Tcp(host, port) => TcpStream::connect((host.as_str(), *port)).await?,
        Endpoint::Address(address, _, port) => TcpStream::connect((*address, *port)).await?,
        Endpoint::Unix(_) => return Err(io::ErrorKind::Unsupported.into()),
    };
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    let options = SockRef::from(&socket);
    options.set_tcp_keepalive(&keepalive)?;
    options.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(socket)
}

async fn encrypted(pg: &Postgres, endpoint: &Endpoint, host: &str, mut socket: TcpStream) -> Result<Link> {
    let asked = ask_for_tls(&mut socket).await.map_err(|error| cut(host, &error))?;
    match (asked, pg.tls) {
        (true, mode) => match tls::handshake(pg, host, socket).await {
            Ok(stream) => {
                let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let bound = certificate.and_then(|der| binding::tls_server_end_point(der));
                Ok(Link::Tls(Box::new(stream), bound))
            }
            // libpq too falls back to plain text here; who minds says `require`.
            Err(_) if mode == TlsMode::Prefer => {
                let socket = tcp(endpoint).await.map_err(|error| cut(host, &error))?;
                Ok(Link::Tcp(socket, Opening::default()))
            }
            Err(error) => Err(error),
        },
        (false, TlsMode::Prefer) => Ok(Link::Tcp(socket, Opening::default())),
        (false, _) => {
            let fact = format!("postgres at {host} offers no TLS but sslmode demands it");
            Err(Error::definite(fact, "set ssl=on in postgresql.conf, or sslmode=prefer"))
        }
    }
}

/// `SSLRequest`; exactly one byte is read, so that nothing slips in before the handshake (CVE-2021-23222).
async fn ask_for_tls(socket: &mut TcpStream) -> io::Result<bool> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    match socket.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no answer that PostgreSQL gives")),
    }
}

fn cut(host: &str, error: &io::Error) -> Error {
    let cure = "check that host and port are those of PostgreSQL";
    Error::transient(format!("postgres at {host} cut the connection off ({error})"), cure)
}

fn unreachable_at(endpoint: &Endpoint, error: &io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::NotFound => "no such socket".to_owned(),
        _ => error.to_string(),
    };
    let fact = format!("postgres at {endpoint} is unreachable ({why})");
    Error::transient(fact, "check that it runs, and host and port in postgres.url")
}
