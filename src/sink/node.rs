//! One ordered connection to one Redis server. The only file that names fred, with its children.
//!
//! fred runs as a *centralized* client without reconnects, retries or redirections of its own: its
//! cluster router dies on ASK and its retries reorder writes. Every reply and every error comes back
//! to the caller, who decides.

mod answer;
mod batch;
mod tls;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::interfaces::{ClientLike, TrackingInterface};
use fred::types::RespVersion;
use fred::types::config::{Config, ConnectionConfig, PerformanceConfig, ServerConfig, TcpConfig};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::AbortHandle;
use tracing::{Instrument, Span};

use super::carrier::{Carrier, Connection, Replies};
use super::reply::{NodeError, Reply};
use super::slots::Address;
use crate::config;
use crate::error::Error;

use answer::{classify, lost};
use batch::batch;
pub use tls::Trust;

/// Bound of one connection attempt, TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bound of each handshake command (HELLO, SELECT).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bound of one command, from the moment it is queued to its reply.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
/// Invalidations that may wait for the reader before the channel drops some and says so; Redis packs all
/// keys of one turn of its event loop into one. fred allocates nine channels of this size at once.
const INVALIDATION_BACKLOG: usize = 1_024;
/// The same on connections that track nothing: fred tells itself there how a connection attempt ended.
const NOTICE_BACKLOG: usize = 32;

/// The hash slot of a key: CRC16 of the hash tag, or of the whole key, modulo 16384.
pub fn keyslot(key: &[u8]) -> u16 {
    fred::util::redis_keyslot(key)
}

/// How to log in, the same on every node.
#[derive(Clone)]
pub struct Login {
    username: Option<String>,
    password: Option<config::Secret>,
    trust: Option<Trust>,
    /// Where it is no socket that is logged in over.
    carrier: Option<Arc<dyn Carrier>>,
}

impl Login {
    /// No login: whatever `carrier` connects to takes every command.
    pub fn over(carrier: Arc<dyn Carrier>) -> Login {
        Login { username: None, password: None, trust: None, carrier: Some(carrier) }
    }

    /// Reads the certificates that `redis` names.
    ///
    /// # Errors
    /// A root certificate file that cannot be read or holds no certificate.
    pub fn new(redis: &config::Redis) -> Result<Login, Error> {
        let trust = match redis.tls {
            true => Some(Trust::load(redis.root_cert.as_deref())?),
            false => None,
        };
        let (username, password) = (redis.username.clone(), redis.password.clone());
        Ok(Login { username, password, trust, carrier: None })
    }
}

/// One command: its name and its arguments.
#[derive(Debug, Clone, Default)]
pub struct Command {
    name: &'static str,
    args: Vec<Bytes>,
}

impl Command {
    /// A command of its parts.
    pub fn new(name: &'static str, args: Vec<Bytes>) -> Command {
        Command { name, args }
    }

    /// A command whose arguments are fixed text.
    pub fn fixed(name: &'static str, args: &[&'static str]) -> Command {
        Command { name, args: args.iter().map(|arg| Bytes::from_static(arg.as_bytes())).collect() }
    }

    /// Its name and its arguments.
    pub fn parts(&self) -> (&'static str, &[Bytes]) {
        (self.name, &self.args)
    }
}

/// A live connection. Dropping it closes the socket at once.
pub struct Node {
    address: Address,
    line: Line,
}

/// What carries the commands.
enum Line {
    Socket(Socket),
    Carried(Box<dyn Connection>),
}

struct Socket {
    client: Client,
    task: AbortHandle,
    /// Ends with the connection.
    alive: watch::Receiver<()>,
    /// Of this connection, from its login to its end: where it goes, never what it carries.
    span: Span,
}

impl Socket {
    async fn open(client: Client, span: Span) -> Result<Socket, NodeError> {
        let connection = client.init().instrument(span.clone()).await.map_err(|error| classify(&error))?;
        span.in_scope(|| tracing::debug!("connected"));
        let (end, alive) = watch::channel(());
        let task = connection.abort_handle();
        tokio::spawn(async move {
            let _ = connection.await;
            drop(end);
        });
        Ok(Socket { client, task, alive, span })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.span.in_scope(|| tracing::debug!("closed"));
        self.task.abort();
    }
}

impl Node {
    /// Connects, authenticates and selects `database`.
    ///
    /// # Errors
    /// What went wrong; nothing is left behind.
    pub async fn connect(address: &Address, login: &Login, database: u8) -> Result<Node, NodeError> {
        let span = tracing::debug_span!("redis", role = "commands", server = %address);
        Node::open(address, login, database, NOTICE_BACKLOG, span).await
    }

    /// Connects for `CLIENT TRACKING`: what is announced waits for [`Invalidations::next`].
    ///
    /// # Errors
    /// What went wrong; nothing is left behind.
    pub async fn connect_tracking(address: &Address, login: &Login, database: u8) -> Result<Node, NodeError> {
        let span = tracing::debug_span!("redis", role = "tracking", server = %address);
        Node::open(address, login, database, INVALIDATION_BACKLOG, span).await
    }

    async fn open(
        address: &Address,
        login: &Login,
        database: u8,
        backlog: usize,
        span: Span,
    ) -> Result<Node, NodeError> {
        if let Some(carrier) = &login.carrier {
            let line = Line::Carried(carrier.connect(address).await?);
            return Ok(Node { address: address.clone(), line });
        }
        let config = Config {
            server: ServerConfig::new_centralized(address.host.clone(), address.port),
            fail_fast: true,
            version: RespVersion::RESP3,
            // fred sends HELLO ... AUTH only with a password; a user without one logs in with "".
            password: login
                .password
                .as_ref()
                .map(|password| password.expose().to_owned())
                .or_else(|| login.username.as_ref().map(|_| String::new())),
            username: login.username.clone(),
            database: (database != 0).then_some(database),
            tls: login.trust.as_ref().map(Trust::config),
            ..Config::default()
        };
        let connection = ConnectionConfig {
            connection_timeout: CONNECT_TIMEOUT,
            internal_command_timeout: HANDSHAKE_TIMEOUT,
            max_command_attempts: 1,
            max_redirections: 0,
            tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
            ..ConnectionConfig::default()
        };
        let performance = PerformanceConfig {
            default_command_timeout: COMMAND_TIMEOUT,
            broadcast_channel_capacity: backlog,
            ..PerformanceConfig::default()
        };
        // Whoever stops waiting would leave fred's connection behind: it comes to its end in a task of its own.
        let socket =
            tokio::spawn(Socket::open(Client::new(config, Some(performance), Some(connection), None), span));
        let opened = tokio::time::timeout(CONNECT_TIMEOUT + HANDSHAKE_TIMEOUT, socket).await;
        let socket = opened.map_err(|_| NodeError::TimedOut)?.map_err(|_| lost())??;
        Ok(Node { address: address.clone(), line: Line::Socket(socket) })
    }

    /// Where it is connected to.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Writes all commands in order, then waits for every reply: one for each command.
    pub async fn send(&self, commands: Vec<Command>) -> Vec<Result<Reply, NodeError>> {
        self.start(commands).await.replies().await
    }

    /// Writes commands behind all that were started before them, and does not wait for the replies.
    ///
    /// Reads of hashes and strings share writes, and so do deletes.
    pub async fn start(&self, commands: Vec<Command>) -> Sent {
        let Socket { client, alive, .. } = match &self.line {
            Line::Socket(socket) => socket,
            Line::Carried(connection) => return Sent::carried(commands.len(), connection.start(commands)),
        };
        // The first poll puts the commands on the connection's queue.
        let mut batch = Box::pin(batch(client.clone(), alive.clone(), commands));
        match futures_util::poll!(batch.as_mut()) {
            Poll::Ready(replies) => Sent(Box::pin(std::future::ready(replies))),
            Poll::Pending => Sent(batch),
        }
    }

    /// Sends one command.
    ///
    /// # Errors
    /// Redis' error reply, or the connection's failure.
    pub async fn call(&self, command: Command) -> Result<Reply, NodeError> {
        self.send(vec![command]).await.pop().unwrap_or(Err(NodeError::TimedOut))
    }

    /// Waits until the connection ends.
    pub async fn closed(&self) {
        match &self.line {
            Line::Socket(socket) => {
                let mut alive = socket.alive.clone();
                while alive.changed().await.is_ok() {}
            }
            // Its end is the end of what it announces.
            Line::Carried(_) => std::future::pending().await,
        }
    }

    /// The keys that `CLIENT TRACKING` announces on this connection from now on.
    pub fn invalidations(&self) -> Invalidations {
        match &self.line {
            Line::Socket(socket) => Invalidations::Socket(socket.client.invalidation_rx()),
            Line::Carried(connection) => Invalidations::Carried(connection.announced()),
        }
    }
}

/// Commands that are on their way. Dropping it forgets the replies, not the commands.
pub struct Sent(Pin<Box<dyn Future<Output = Replies> + Send>>);

impl Sent {
    /// Where there is no connection to write commands to.
    pub fn unsent(commands: usize) -> Sent {
        Sent(Box::pin(std::future::ready(vec![Err(lost()); commands])))
    }

    fn carried(count: usize, replies: impl Future<Output = Replies> + Send + 'static) -> Sent {
        Sent(Box::pin(async move {
            let replies = tokio::time::timeout(COMMAND_TIMEOUT, replies).await;
            replies.unwrap_or_else(|_| vec![Err(NodeError::TimedOut); count])
        }))
    }

    /// Waits for the replies, one for each command: Redis' own, or the connection's failure.
    pub async fn replies(self) -> Replies {
        self.0.await
    }
}

/// Keys that somebody changed, as they are announced.
pub enum Invalidations {
    /// As fred tells them.
    Socket(broadcast::Receiver<fred::types::client::Invalidation>),
    /// As the carrier does.
    Carried(mpsc::UnboundedReceiver<Vec<Bytes>>),
}

impl Invalidations {
    /// The next announcement; `None` once announcements were dropped. fred says nothing of a connection that ended.
    ///
    /// fred swallows the null push of FLUSHALL: an index built on this is a superset afterwards.
    pub async fn next(&mut self) -> Option<Vec<Bytes>> {
        let announced = match self {
            Invalidations::Socket(announced) => announced.recv().await.ok()?,
            Invalidations::Carried(announced) => return announced.recv().await,
        };
        Some(announced.keys.into_iter().map(fred::types::Key::into_bytes).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_tag_decides_the_slot() {
        assert_eq!(keyslot(b"user:{live:12}:config"), keyslot(b"lockstep:fence:{live:12}"));
        assert_eq!(keyslot(b"123456789"), 12739, "CRC16/XMODEM of the specification");
    }
}
