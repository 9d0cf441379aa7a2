//! A replication connection in command mode: startup, then simple queries.

use std::future::poll_fn;

use bytes::BytesMut;
use postgres_protocol::message::backend::{DataRowBody, Message, ParameterStatusBody};
use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt;
use tokio_postgres::fallible_iterator::FallibleIterator;
use tracing::Instrument;

use super::framing::{Inbound, Incoming};
use super::link::Link;
use super::sqlstate::Peer;
use super::trace::Trace;
use super::{auth, socket};
use crate::config::{Endpoint, Postgres};
use crate::error::{Error, Result};

/// Settings of every connection, so that values are text of one form whatever the server's defaults are.
const SETTINGS: &str =
    "-c DateStyle=ISO -c TimeZone=UTC -c extra_float_digits=3 -c IntervalStyle=postgres -c bytea_output=hex";

/// The settings of a connection: ours stand last, so that they hold whatever the operator's say.
pub(super) fn options(pg: &Postgres, ours: &str) -> String {
    let theirs = pg.options.as_deref().unwrap_or_default();
    format!("{theirs} {SETTINGS} {ours}").trim().to_owned()
}

/// How long the server waits for a status before it ends the stream; it asks for one at half of it. Until then an
/// instance that is frozen or cut off keeps the slot from the one that waits: the two updates that are due in a third
/// of it are the margin against a late one.
const WAL_SENDER_TIMEOUT_MS: u32 = 6_000;

/// Rows that a query may answer; control queries answer a handful.
const MAX_ROWS: usize = 100_000;

/// Rows of text, as the simple query protocol sends them.
pub(super) type Rows = Vec<Vec<Option<String>>>;

/// A connection that waits for commands.
pub(super) struct Session {
    pub(super) link: Link,
    pub(super) inbound: Inbound,
    pub(super) out: BytesMut,
    pub(super) peer: Peer,
    /// The server's major version, 0 if it does not tell.
    pub(super) major: u32,
    /// A command was sent whose `ReadyForQuery` has not been read: its caller may have gone away.
    unfinished: bool,
    /// `None` until the login has succeeded.
    pub(super) trace: Option<Trace>,
}

impl Session {
    /// Connects to the first endpoint that can be reached; `role` is what the log calls the connection.
    pub(super) async fn connect(pg: &Postgres, role: &'static str) -> Result<Session> {
        let mut last = Error::definite("no postgres server is named", "set postgres.url");
        for endpoint in &pg.endpoints {
            let start = |link| Session::start(pg, endpoint, link);
            let span = Trace::span(role, endpoint);
            match socket::log_in(pg, endpoint, start).instrument(span.clone()).await {
                Err(error) if error.is_transient() => last = error,
                Err(error) => return Err(error),
                Ok(session) => return Ok(Session { trace: Some(Trace::connected(span)), ..session }),
            }
        }
        Err(last)
    }

    async fn start(pg: &Postgres, endpoint: &Endpoint, link: Link) -> Result<Session> {
        let (inbound, out, peer) = (Inbound::default(), BytesMut::new(), Peer::new(pg, Some(endpoint)));
        let mut session = Session { link, inbound, out, peer, major: 0, unfinished: false, trace: None };
        let options = options(pg, &format!("-c wal_sender_timeout={WAL_SENDER_TIMEOUT_MS}"));
        let parameters = [
            ("user", pg.user.as_str()),
            ("database", pg.database.as_str()),
            ("replication", "database"),
            ("application_name", pg.application_name.as_str()),
            ("client_encoding", "UTF8"),
            ("options", options.as_str()),
        ];
        frontend::startup_message(parameters, &mut session.out).map_err(|error| session.peer.lost(&error))?;
        session.send().await?;
        auth::authenticate(&mut session, pg).await?;
        session.until_ready(|_| {}).await?;
        Ok(session)
    }

    /// Sends what is in `out`; cancelled, the rest stays there.
    pub(super) async fn send(&mut self) -> Result<()> {
        let sent = async {
            self.link.write_all_buf(&mut self.out).await?;
            self.link.flush().await
        };
        sent.await.map_err(|error| self.peer.lost(&error))
    }

    /// The next message; an `ErrorResponse` too is a message here. Cancel-safe.
    pub(super) async fn receive(&mut self) -> Result<Incoming> {
        loop {
            match self.inbound.take().map_err(|error| self.peer.garbled(&error.to_string()))? {
                Some(Incoming::Other(Message::ParameterStatus(body))) => self.note(&body),
                Some(Incoming::Other(Message::NoticeResponse(_))) => {}
                Some(message) => return Ok(message),
                None => {
                    let fill = poll_fn(|cx| self.inbound.poll_fill(&mut self.link, cx)).await;
                    if fill.map_err(|error| self.peer.lost(&error))? == 0 {
                        return Err(self.peer.closed());
                    }
                }
            }
        }
    }

    fn note(&mut self, body: &ParameterStatusBody) {
        if let (Ok("server_version"), Ok(version)) = (body.name(), body.value()) {
            let digits = version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            self.major = digits.parse().unwrap_or(0);
        }
    }

    /// Runs `sql`; on an error of the server the session stays usable.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Rows> {
        self.begin(sql).await?;
        let mut rows = Vec::new();
        let mut garbled = false;
        self.until_ready(|row| match text_row(row) {
            Some(row) if rows.len() < MAX_ROWS => rows.push(row),
            _ => garbled = true,
        })
        .await?;
        match garbled {
            true => Err(self.peer.garbled("unreadable or too many rows")),
            false => Ok(rows),
        }
    }

    /// Sends a command, after the answer of one whose caller went away.
    pub(super) async fn begin(&mut self, sql: &str) -> Result<()> {
        if self.unfinished {
            // That command's error is nobody's any more; a broken connection shows in the send.
            let _ = self.until_ready(|_| {}).await;
        }
        frontend::query(sql, &mut self.out).map_err(|error| self.peer.lost(&error))?;
        self.unfinished = true;
        self.send().await
    }

    /// Reads until the server takes commands again.
    async fn until_ready(&mut self, mut each_row: impl FnMut(&DataRowBody)) -> Result<()> {
        let mut outcome = Ok(());
        loop {
            match self.receive().await.map_err(|lost| outcome.clone().err().unwrap_or(lost))? {
                Incoming::Other(Message::DataRow(row)) => each_row(&row),
                Incoming::Other(Message::ErrorResponse(body)) => outcome = Err(self.peer.refusal(&body)),
                Incoming::Other(Message::ReadyForQuery(_)) => {
                    self.unfinished = false;
                    return outcome;
                }
                _ => {}
            }
        }
    }
}

fn text_row(row: &DataRowBody) -> Option<Vec<Option<String>>> {
    let text = |range: Option<std::ops::Range<usize>>| match range {
        None => Some(None),
        Some(range) => String::from_utf8(row.buffer().get(range)?.to_vec()).ok().map(Some),
    };
    let ranges: Vec<_> = row.ranges().collect().ok()?;
    ranges.into_iter().map(text).collect()
}
