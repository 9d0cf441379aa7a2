//! Tells of a shutdown of the server, which a running stream would hold up.

use postgres_protocol::message::backend::Message;

use super::framing::Incoming;
use super::session::Session;
use crate::config::Postgres;
use crate::error::{Error, Result};

/// An idle walsender connection.
///
/// A shutdown waits until each *streaming* walsender's client has acknowledged everything, and tells that
/// client nothing. An *idle* walsender is ended at once with 57P01 (`HandleWalSndInitStopping`), and
/// unlike an ordinary backend it does not hold up a smart shutdown (`CountChildren`).
pub struct Tripwire {
    session: Session,
}

impl Tripwire {
    /// Connects to the same server as the stream.
    ///
    /// # Errors
    /// As [`Walsender::connect`](super::Walsender::connect).
    pub async fn connect(pg: &Postgres) -> Result<Tripwire> {
        Ok(Tripwire { session: Session::connect(pg, "tripwire").await? })
    }

    /// Returns once the server ends this connection: close the stream at once. Cancel-safe.
    pub async fn tripped(&mut self) -> Error {
        loop {
            match self.session.receive().await {
                Ok(Incoming::Other(Message::ErrorResponse(body))) => {
                    let refusal = self.session.peer.refusal(&body);
                    if refusal.is_transient() {
                        return refusal;
                    }
                }
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }

    /// Runs a control query; if the shutdown comes meanwhile, that is its error.
    ///
    /// # Errors
    /// As [`Walsender::query`](super::Walsender::query).
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.session.query(sql).await
    }
}
