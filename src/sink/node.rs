//! One ordered connection to one Redis server. The only file that names fred, with its child `tls`.
//!
//! fred runs as a *centralized* client without reconnects, retries or redirections of its own: its
//! cluster router dies on ASK and its retries reorder writes. Every reply and every error comes back
//! to the caller, who decides.

mod tls;

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::ErrorKind;
use fred::interfaces::{ClientLike, Resp3Frame, TrackingInterface};
use fred::types::config::{Config, ConnectionConfig, PerformanceConfig, ServerConfig, TcpConfig};
use fred::types::{ClusterHash, CustomCommand, RespVersion, Value};
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

use super::reply::{NodeError, Reply};
use super::slots::Address;
use crate::config;
use crate::error::Error;

pub use tls::Trust;

/// Bound of one connection attempt, TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bound of each handshake command (HELLO, SELECT).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bound of one command, from the moment it is queued to its reply.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
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
}

impl Login {
    /// Reads the certificates that `redis` names.
    ///
    /// # Errors
    /// A root certificate file that cannot be read or holds no certificate.
    pub fn new(redis: &config::Redis) -> Result<Login, Error> {
        let trust = match redis.tls {
            true => Some(Trust::load(redis.root_cert.as_deref())?),
            false => None,
        };
        Ok(Login { username: redis.username.clone(), password: redis.password.clone(), trust })
    }
}

/// One command: its name and its arguments.
#[derive(Debug, Clone)]
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
}

/// A live connection. Dropping it closes the socket at once.
pub struct Node {
    address: Address,
    client: Client,
    task: AbortHandle,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    /// Connects, authenticates and selects `database`.
    ///
    /// # Errors
    /// What went wrong; nothing is left behind.
    pub async fn connect(address: &Address, login: &Login, database: u8) -> Result<Node, NodeError> {
        Node::open(address, login, database, NOTICE_BACKLOG).await
    }

    /// Connects for `CLIENT TRACKING`: what is announced waits for [`Invalidations::next`].
    ///
    /// # Errors
    /// What went wrong; nothing is left behind.
    pub async fn connect_tracking(address: &Address, login: &Login, database: u8) -> Result<Node, NodeError> {
        Node::open(address, login, database, INVALIDATION_BACKLOG).await
    }

    async fn open(address: &Address, login: &Login, database: u8, backlog: usize) -> Result<Node, NodeError> {
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
        let client = Client::new(config, Some(performance), Some(connection), None);
        match tokio::time::timeout(CONNECT_TIMEOUT + HANDSHAKE_TIMEOUT, client.init()).await {
            Ok(Ok(task)) => Ok(Node { address: address.clone(), client, task: task.abort_handle() }),
            Ok(Err(error)) => Err(classify(&error)),
            Err(_) => Err(NodeError::TimedOut),
        }
    }

    /// Where it is connected to.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Writes all commands in order, then waits for every reply.
    pub async fn send(&self, commands: Vec<Command>) -> Vec<Result<Reply, NodeError>> {
        let mut sent = Vec::with_capacity(commands.len());
        for command in commands {
            sent.push(self.start(command).await);
        }
        let mut replies = Vec::with_capacity(sent.len());
        for sent in sent {
            replies.push(sent.reply().await);
        }
        replies
    }

    /// Writes one command behind all that were started before it, and does not wait for the reply.
    pub async fn start(&self, command: Command) -> Sent {
        let mut call = Box::pin(call(self.client.clone(), command));
        // The first poll puts the command on the connection's queue.
        match futures_util::poll!(call.as_mut()) {
            Poll::Ready(reply) => Sent::Answered(reply),
            Poll::Pending => Sent::Waiting(call),
        }
    }

    /// Sends one command.
    ///
    /// # Errors
    /// Redis' error reply, or the connection's failure.
    pub async fn call(&self, command: Command) -> Result<Reply, NodeError> {
        call(self.client.clone(), command).await
    }

    /// The keys that `CLIENT TRACKING` announces on this connection from now on.
    pub fn invalidations(&self) -> Invalidations {
        Invalidations(self.client.invalidation_rx())
    }
}

/// A command that is on its way. Dropping it forgets the reply, not the command.
pub enum Sent {
    /// The reply, or why there is none, is already here.
    Answered(Result<Reply, NodeError>),
    /// The reply is to come.
    Waiting(Pin<Box<dyn Future<Output = Result<Reply, NodeError>> + Send>>),
}

impl Sent {
    /// Waits for the reply.
    ///
    /// # Errors
    /// Redis' error reply, or the connection's failure.
    pub async fn reply(self) -> Result<Reply, NodeError> {
        match self {
            Sent::Answered(reply) => reply,
            Sent::Waiting(call) => call.await,
        }
    }
}

async fn call(client: Client, command: Command) -> Result<Reply, NodeError> {
    let name = CustomCommand::new_static(command.name, ClusterHash::Random, false);
    let args: Vec<Value> = command.args.into_iter().map(Value::Bytes).collect();
    let frame = client.custom_raw(name, args).await.map_err(|error| classify(&error))?;
    reply(frame)
}

/// Keys that somebody changed, as they are announced.
pub struct Invalidations(broadcast::Receiver<fred::types::client::Invalidation>);

impl Invalidations {
    /// The next announcement; `None` once the connection is gone or announcements were dropped.
    ///
    /// fred swallows the null push of FLUSHALL: an index built on this is a superset afterwards.
    pub async fn next(&mut self) -> Option<Vec<Bytes>> {
        let announced = self.0.recv().await.ok()?;
        Some(announced.keys.into_iter().map(fred::types::Key::into_bytes).collect())
    }

    /// An announcement that is already here.
    pub fn ready(&mut self) -> Result<Vec<Bytes>, NothingReady> {
        match self.0.try_recv() {
            Ok(announced) => Ok(announced.keys.into_iter().map(fred::types::Key::into_bytes).collect()),
            Err(broadcast::error::TryRecvError::Empty) => Err(NothingReady::Empty),
            Err(_) => Err(NothingReady::Lost),
        }
    }
}

/// Why no announcement was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NothingReady {
    /// None has come.
    Empty,
    /// Some were dropped, or the connection is gone.
    Lost,
}

fn classify(error: &fred::error::Error) -> NodeError {
    match error.kind() {
        ErrorKind::Timeout => NodeError::TimedOut,
        ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Tls | ErrorKind::Protocol | ErrorKind::Routing => {
            NodeError::Disconnected(plain(error.details()))
        }
        // Redis' own words come as "unknown" too: an upper-case code tells them from fred's.
        _ => match error.details().split(' ').next() {
            Some(code) if code.len() > 2 && code.bytes().all(|b| b.is_ascii_uppercase()) => {
                NodeError::parse(error.details())
            }
            _ => NodeError::Disconnected(plain(error.details())),
        },
    }
}

/// fred prints system errors by `{:?}`: `Os { code: 111, kind: ConnectionRefused, message: "..." }`.
fn plain(details: &str) -> String {
    let quoted = details.split_once("message: \"").and_then(|(_, rest)| rest.split_once('"'));
    let custom = details.split_once("error: \"").and_then(|(_, rest)| rest.split_once('"'));
    match quoted.or(custom) {
        Some((message, _)) => message.to_lowercase(),
        None if details == "Canceled."
            || details.contains("oneshot")
            || details.contains("channel closed") =>
        {
            "the connection was lost".to_owned()
        }
        None => details.trim_end_matches('.').to_lowercase(),
    }
}

fn reply(frame: Resp3Frame) -> Result<Reply, NodeError> {
    Ok(match frame {
        Resp3Frame::SimpleError { data, .. } => return Err(NodeError::parse(&data)),
        Resp3Frame::BlobError { data, .. } => return Err(NodeError::parse(&String::from_utf8_lossy(&data))),
        Resp3Frame::BlobString { data, .. }
        | Resp3Frame::SimpleString { data, .. }
        | Resp3Frame::VerbatimString { data, .. }
        | Resp3Frame::BigNumber { data, .. } => Reply::Text(data),
        Resp3Frame::Number { data, .. } => Reply::Int(data),
        Resp3Frame::Boolean { data, .. } => Reply::Int(i64::from(data)),
        Resp3Frame::Double { data, .. } => Reply::Text(data.to_string().into()),
        Resp3Frame::Array { data, .. } | Resp3Frame::Push { data, .. } => list(data)?,
        Resp3Frame::Set { data, .. } => list(data)?,
        Resp3Frame::Map { data, .. } => list(data.into_iter().flat_map(|(key, value)| [key, value]))?,
        _ => Reply::Nil,
    })
}

fn list(frames: impl IntoIterator<Item = Resp3Frame>) -> Result<Reply, NodeError> {
    frames.into_iter().map(reply).collect::<Result<Vec<_>, _>>().map(Reply::List)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_lose_their_debug_print() {
        let text = "Os { code: 111, kind: ConnectionRefused, message: \"Connection refused\" }";
        assert_eq!(plain(text), "connection refused");
        assert_eq!(plain("Canceled."), "the connection was lost");
    }

    #[test]
    fn a_hash_tag_decides_the_slot() {
        assert_eq!(keyslot(b"user:{live:12}:config"), keyslot(b"lockstep:fence:{live:12}"));
        assert_eq!(keyslot(b"123456789"), 12739, "CRC16/XMODEM of the specification");
    }
}
