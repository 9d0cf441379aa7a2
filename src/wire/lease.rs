//! Ordinary connections for long work, none of them kept long.

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_postgres::Client;

use super::sql;
use crate::config::Postgres;
use crate::error::Result;

/// Longest time that one connection is kept. A smart shutdown of the server waits for every ordinary
/// connection and tells it nothing; only the next one learns of it (57P03).
const LEASE: Duration = Duration::from_secs(5);

/// A connection that is made when it is needed, and again when it is old.
pub struct Lease<'p> {
    pg: &'p Postgres,
    held: Option<(Client, Instant)>,
}

impl<'p> Lease<'p> {
    /// Connects to nothing yet.
    pub fn new(pg: &'p Postgres) -> Lease<'p> {
        Lease { pg, held: None }
    }

    /// A connection for the next statement.
    ///
    /// # Errors
    /// As [`sql::connect`].
    pub async fn client(&mut self) -> Result<&Client> {
        let fresh = self.held.take().filter(|(_, since)| since.elapsed() < LEASE);
        let held = match fresh {
            Some(held) => held,
            None => (sql::connect(self.pg).await?, Instant::now()),
        };
        Ok(&self.held.insert(held).0)
    }

    /// Waits for what needs no connection, however long that takes; an old one is closed meanwhile.
    pub async fn while_waiting<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        if let Some((_, since)) = &self.held {
            let left = LEASE.saturating_sub(since.elapsed());
            if let Ok(done) = timeout(left, &mut wait).await {
                return done;
            }
            self.held = None;
        }
        wait.await
    }
}
