//! Another way to the servers than a socket: the simulator hands one in, and everything above it stays as it is.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::node::Command;
use super::reply::{NodeError, Reply};
use super::slots::Address;

/// What comes later.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// One for each command.
pub type Replies = Vec<Result<Reply, NodeError>>;

/// Connects to servers.
pub trait Carrier: Send + Sync {
    /// A new connection to `address`.
    fn connect(&self, address: &Address) -> Later<Result<Box<dyn Connection>, NodeError>>;
}

/// A connection: commands are executed in the order in which they were started. Dropping it closes it.
pub trait Connection: Send + Sync {
    /// Writes the commands before it returns; the replies come later.
    fn start(&self, commands: Vec<Command>) -> Later<Replies>;

    /// The keys that `CLIENT TRACKING` announces from now on; it ends with the connection.
    fn announced(&self) -> mpsc::UnboundedReceiver<Vec<Bytes>>;
}
