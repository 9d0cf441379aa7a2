//! A replication connection in command mode:
//! <https://www.postgresql.org/docs/current/protocol-replication.html>.

use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::message::backend::Message;

use super::framing::Incoming;
use super::session::Session;
use super::stream::Stream;
use crate::config::Postgres;
use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// `IDENTIFY_SYSTEM`: which database history this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's identifier, the same on its standbys.
    pub system_id: String,
    /// Grows with each promotion.
    pub timeline: u32,
    /// Flushed end of WAL.
    pub xlog_pos: Lsn,
}

/// A slot that was just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The stream's first possible position: every commit after it is in the stream.
    pub consistent_point: Lsn,
}

/// A logical walsender that waits for commands.
///
/// Commands may be dropped in mid-flight: the next one first reads what is left. None has a bound of its
/// own beside the kernel's on a dead peer; creating a slot waits for every older transaction.
pub struct Walsender {
    session: Session,
}

impl Walsender {
    /// Connects and authenticates, at the first endpoint that can be reached.
    ///
    /// # Errors
    /// With the cure where one is known; transient where waiting may help.
    pub async fn connect(pg: &Postgres) -> Result<Walsender> {
        Ok(Walsender { session: Session::connect(pg, "walsender").await? })
    }

    /// The server's major version.
    pub fn server_major(&self) -> u32 {
        self.session.major
    }

    /// Which database history the server is on.
    ///
    /// # Errors
    /// As every command.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let rows = self.session.query("IDENTIFY_SYSTEM").await?;
        let column = |at: usize| rows.first()?.get(at)?.as_deref();
        let read = || {
            let (timeline, xlog_pos) = (column(1)?.parse().ok()?, column(2)?.parse().ok()?);
            Some(SystemIdentity { system_id: column(0)?.to_owned(), timeline, xlog_pos })
        };
        read().ok_or_else(|| self.session.peer.garbled("IDENTIFY_SYSTEM"))
    }

    /// Runs SQL or a replication command by the simple query protocol; all rows, as text.
    ///
    /// # Errors
    /// The server's, mapped; the connection stays usable unless it broke.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.session.query(sql).await
    }

    /// Makes a permanent pgoutput slot, a failover slot where the server knows them (17).
    ///
    /// # Errors
    /// Definite if a slot of that name exists, or none is free.
    pub async fn create_slot(&mut self, slot: &str) -> Result<CreatedSlot> {
        let sql = create_slot_command(slot, self.session.major);
        let rows = self.session.query(&sql).await?;
        let point = rows.first().and_then(|row| row.get(1)?.as_deref()?.parse().ok());
        let consistent_point = point.ok_or_else(|| self.session.peer.garbled("CREATE_REPLICATION_SLOT"))?;
        Ok(CreatedSlot { consistent_point })
    }

    /// Starts the stream of `publication` at `lsn`, or at the slot's confirmed position if that is later.
    ///
    /// # Errors
    /// Definite if the slot is missing, lost, of another plugin or database; transient if it is in use.
    pub async fn start_replication(mut self, slot: &str, lsn: Lsn, publication: &str) -> Result<Stream> {
        // A list of quoted identifiers, as one literal; the replication grammar knows no E'' and no backslash.
        let publications = escape_identifier(publication).replace('\'', "''");
        let messages = if self.session.major >= 14 { ", messages 'true'" } else { "" };
        let sql = format!(
            "START_REPLICATION SLOT {} LOGICAL {lsn} \
             (proto_version '1', publication_names '{publications}'{messages})",
            escape_identifier(slot),
        );
        self.session.begin(&sql).await?;
        loop {
            match self.session.receive().await? {
                Incoming::CopyBoth => return Ok(Stream::new(self.session)),
                Incoming::Other(Message::ErrorResponse(body)) => {
                    let refused = self.session.peer.refusal(&body);
                    return Err(self.diagnose(slot, refused).await);
                }
                _ => {}
            }
        }
    }

    /// Says what is wrong with the slot from its row, which unlike the server's words has one language.
    async fn diagnose(&mut self, slot: &str, refused: Error) -> Error {
        let sql = format!(
            "SELECT slot_type, plugin, database = current_database(), wal_status, active_pid \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            escape_literal(slot)
        );
        let Ok(rows) = self.session.query(&sql).await else { return refused };
        let Some(row) = rows.first() else {
            return Error::definite(format!("slot {slot:?} does not exist"), "run \"lockstep init\"");
        };
        let column = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
        let other = "name another in postgres.slot, or drop it and run \"lockstep init\"";
        match (column(0), column(1), column(2), column(3)) {
            ("physical", ..) => Error::definite(format!("slot {slot:?} is physical"), other),
            (_, plugin, ..) if plugin != "pgoutput" => {
                Error::definite(format!("slot {slot:?} is of plugin {plugin:?}, not pgoutput"), other)
            }
            (_, _, "f", _) => Error::definite(format!("slot {slot:?} is of another database"), other),
            (_, _, _, "lost") => Error::definite(
                format!("slot {slot:?} is invalidated"),
                "run \"lockstep drop\", then \"lockstep init\": the next run loads all users",
            ),
            _ if !column(4).is_empty() => Error::transient(
                format!("slot {slot:?} is active for PID {}", column(4)),
                "wait, or stop the other lockstep that uses it",
            ),
            _ => refused,
        }
    }
}

/// The command that makes a slot, on a server of this major version.
fn create_slot_command(slot: &str, major: u32) -> String {
    let options = match major {
        17.. => "(SNAPSHOT 'nothing', FAILOVER true)",
        15.. => "(SNAPSHOT 'nothing')",
        _ => "NOEXPORT_SNAPSHOT",
    };
    format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {options}", escape_identifier(slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_outlives_a_promotion_where_the_server_knows_how() {
        let options = |major| {
            let command = create_slot_command("s", major);
            command.strip_prefix("CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput ").unwrap().to_owned()
        };
        assert_eq!(options(14), "NOEXPORT_SNAPSHOT");
        assert_eq!([options(15), options(16)], ["(SNAPSHOT 'nothing')"; 2]);
        assert_eq!([options(17), options(18)], ["(SNAPSHOT 'nothing', FAILOVER true)"; 2]);
    }
}
