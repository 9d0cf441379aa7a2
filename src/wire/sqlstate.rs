//! PostgreSQL's errors -> ours: the class by SQLSTATE, the cure by what is known of it.
//!
//! Codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>. The server's primary message
//! is shown; its detail is not, since that may hold a row.

use std::io;

use postgres_protocol::message::backend::ErrorResponseBody;
use tokio_postgres::fallible_iterator::FallibleIterator;

use crate::config::{Endpoint, Postgres};
use crate::error::{Error, Fault};

/// Whom we speak with, for the words of an error.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    server: String,
    user: String,
    database: String,
    slot: String,
    publication: String,
}

impl Peer {
    pub(super) fn new(pg: &Postgres, endpoint: Option<&Endpoint>) -> Peer {
        Peer {
            server: endpoint.map_or_else(String::new, |endpoint| format!(" at {endpoint}")),
            user: pg.user.clone(),
            database: pg.database.clone(),
            slot: pg.slot.clone(),
            publication: pg.publication.clone(),
        }
    }

    /// An `ErrorResponse`.
    pub(super) fn refusal(&self, body: &ErrorResponseBody) -> Error {
        let (mut code, mut message) = (String::new(), String::new());
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            match field.type_() {
                b'C' => code = String::from_utf8_lossy(field.value_bytes()).into_owned(),
                b'M' => message = String::from_utf8_lossy(field.value_bytes()).into_owned(),
                _ => {}
            }
        }
        self.error(&code, &message)
    }

    /// A failed read or write; one that carries an [`Error`] is that error.
    pub(super) fn lost(&self, error: &io::Error) -> Error {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(ours) => ours.clone(),
            None if error.kind() == io::ErrorKind::UnexpectedEof => self.closed(),
            None => {
                Error::transient(format!("the connection to postgres{} broke ({error})", self.server), "")
            }
        }
    }

    /// The server ended the connection without a word.
    pub(super) fn closed(&self) -> Error {
        Error::transient(format!("postgres{} closed the connection", self.server), "")
    }

    /// Bytes that PostgreSQL does not send.
    pub(super) fn garbled(&self, what: &str) -> Error {
        let fact = format!("postgres{} broke the protocol ({what})", self.server);
        Error::transient(fact, "check that host and port are those of PostgreSQL")
    }

    /// A password is asked for and there is none.
    pub(super) fn no_password(&self) -> Error {
        let fact = format!("postgres{} wants a password for role {:?}", self.server, self.user);
        Error::definite(fact, "set PGPASSWORD, a password file, or the password in postgres.url")
    }

    /// An error of the server, from its SQLSTATE and primary message.
    pub(super) fn error(&self, code: &str, message: &str) -> Error {
        let fault = Fault { fact: self.fact(code, message), cure: self.cure(code, message) };
        match is_transient(code) {
            true => Error::Transient(fault),
            false => Error::Definite(fault),
        }
    }

    fn fact(&self, code: &str, message: &str) -> String {
        match code {
            "28P01" => format!("postgres{} refuses the password of role {:?}", self.server, self.user),
            "3D000" => format!("database {:?} does not exist", self.database),
            _ if quotes_values(code) => {
                format!("postgres{} reports a data error (SQLSTATE {code})", self.server)
            }
            _ => format!("postgres{} says: {message} (SQLSTATE {code})", self.server),
        }
    }

    fn cure(&self, code: &str, message: &str) -> String {
        let Peer { user, database, slot, publication, .. } = self;
        match code {
            "28P01" => "correct the password in postgres.url, PGPASSWORD or the password file".to_owned(),
            "28000" if message.contains("pg_hba.conf") => format!(
                "add a line for role {user:?} to pg_hba.conf (database {database:?}; replication=database uses it too) and reload"
            ),
            "28000" => format!("create role {user:?} with LOGIN and REPLICATION, or run \"lockstep init\""),
            "3D000" => "correct the database in postgres.url, or create it".to_owned(),
            "42501"
                if ["replication", "walsender", "WAL sender"].iter().any(|part| message.contains(part)) =>
            {
                format!("alter role {user:?} replication")
            }
            "42501" => format!("grant role {user:?} what \"lockstep check\" names"),
            "42704" if message.contains(&format!("publication \"{publication}\"")) => {
                "run \"lockstep init\"; a slot older than the publication must be made anew".to_owned()
            }
            "42704" if message.contains("replication slot") => "run \"lockstep init\"".to_owned(),
            "42710" if message.contains("replication slot") => {
                "drop it, or name another in postgres.slot".to_owned()
            }
            "55006" => format!("another lockstep uses slot {slot:?}; this one takes over when it ends"),
            "55000" if message.contains("wal_level") => {
                "set wal_level=logical and restart PostgreSQL".to_owned()
            }
            "53400" | "53300" if message.contains("wal_senders") || message.contains("WAL sender") => {
                "raise max_wal_senders and restart PostgreSQL".to_owned()
            }
            "53400" if message.contains("slots") => {
                "raise max_replication_slots and restart PostgreSQL".to_owned()
            }
            "53300" => "raise max_connections, or close other connections".to_owned(),
            _ => String::new(),
        }
    }
}

/// Whether `pg_hba.conf` has no line for a connection of this kind; the file's name is in every language.
pub(super) fn is_without_hba_line(error: &Error) -> bool {
    let fact = &error.fault().fact;
    fact.contains("pg_hba.conf") && fact.ends_with("(SQLSTATE 28000)")
}

/// Whether the server's words may quote values of a row: data (22) and constraint (23) errors.
pub fn quotes_values(code: &str) -> bool {
    code.starts_with("22") || code.starts_with("23")
}

/// Whether a stream ended because the publication does not exist: decoding looks it up as it was at the WAL position
/// at hand, so that the slot fails there for ever, also when the publication is made again.
pub fn is_publication_unknown(error: &Error) -> bool {
    let fact = &error.fault().fact;
    fact.contains("publication") && fact.ends_with("(SQLSTATE 42704)")
}

/// Whether waiting may help: connection (08), rollback (40), resources (53), operator (57P), in use (55006).
pub fn is_transient(code: &str) -> bool {
    match code {
        // Lock not available, and in use; the other 55 codes are states of objects that stay.
        "55006" | "55P03" => true,
        // A limit that only a restart changes.
        "53400" => false,
        _ => ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        let (pg, _) = Postgres::read(Some("postgres://ann@db/bank"), &|_| None).unwrap();
        Peer::new(&pg, pg.endpoints.first())
    }

    #[test]
    fn the_class_follows_the_sqlstate() {
        for code in ["08006", "57P01", "57P02", "57P03", "53300", "55006", "40001", "40P01"] {
            assert!(peer().error(code, "m").is_transient(), "{code}");
        }
        for code in ["28P01", "28000", "3D000", "42P01", "42501", "42704", "55000", "22023", "0A000", "XX000"]
        {
            assert!(!peer().error(code, "m").is_transient(), "{code}");
        }
    }

    #[test]
    fn well_known_errors_carry_their_cure() {
        let text = |code: &str, message: &str| peer().error(code, message).to_string();
        assert!(text("28P01", "").contains("refuses the password of role \"ann\""));
        assert!(text("28000", "no pg_hba.conf entry for host").contains("add a line"));
        assert!(text("3D000", "").contains("database \"bank\" does not exist"));
        assert!(
            text("55000", "logical decoding requires wal_level >= logical").contains("wal_level=logical")
        );
        assert!(text("42704", "publication \"lockstep\" does not exist").contains("lockstep init"));
        // In this order: up to PostgreSQL 15, and from 16 on.
        for refused in [
            "must be superuser or replication role to start walsender",
            "permission denied to start WAL sender",
        ] {
            assert!(text("42501", refused).contains("alter role \"ann\" replication"), "{refused}");
        }
        assert!(!text("22P02", "invalid input syntax: \"4111 secret\"").contains("secret"));
    }
}
