//! How to reach the database: libpq's URL or keywords, its environment and its password file.

mod conninfo;
mod environment;
mod passfile;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::{Secret, Shard};

pub use environment::Lookup;

/// Slot and publication where none is named.
pub const DEFAULT_NAME: &str = "lockstep";

/// Bound of one connection attempt where `connect_timeout` is not given.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Default of `retained_wal_max`, in bytes.
pub const DEFAULT_RETAINED_WAL_MAX: u64 = 8 << 30;
/// Least and most of `retained_wal_max`, in bytes: a slot retains some segments of 16 MiB at any time, and what is
/// written in the 15 s between two moves of its `restart_lsn`.
pub const RETAINED_WAL_BOUNDS: RangeInclusive<u64> = 64 << 20..=1 << 50;

/// `[postgres]`
#[derive(Debug, Clone)]
pub struct Postgres {
    /// Servers to try in order; never empty.
    pub endpoints: Vec<Endpoint>,
    /// Role.
    pub user: String,
    /// Password, from the URL, `PGPASSWORD` or the password file.
    pub password: Option<Secret>,
    /// Database.
    pub database: String,
    /// TLS over TCP; never over a unix socket.
    pub tls: TlsMode,
    /// Root certificates (PEM) instead of the system's.
    pub root_cert: Option<PathBuf>,
    /// Client certificate and key (PEM).
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Bound of one connection attempt.
    pub connect_timeout: Duration,
    /// libpq's `options`: more settings of every connection.
    pub options: Option<String>,
    /// `application_name` of every connection.
    pub application_name: String,
    /// Name of the replication slot.
    pub slot: String,
    /// Name of the publication.
    pub publication: String,
    /// Which of the users are followed.
    pub shard: Shard,
    /// WAL that the slot may retain, in bytes; above it the position is given up.
    pub retained_wal_max: u64,
}

/// One server address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Host name or address, and port.
    Tcp(String, u16),
    /// libpq's `hostaddr`: what to connect to, the name that the certificate must have, and port.
    Address(IpAddr, String, u16),
    /// Path of the socket file, `/run/postgresql/.s.PGSQL.5432` for example.
    Unix(PathBuf),
}

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// If the server offers it; certificates are not checked.
    Prefer,
    /// Always; certificates are not checked, unless a root certificate is given (then as `VerifyCa`).
    Require,
    /// Always; the chain must lead to a root certificate.
    VerifyCa,
    /// Always; as `VerifyCa`, and the certificate must name the host.
    VerifyFull,
}

impl Postgres {
    /// Reads `text`, a URL or keywords as libpq takes them, and libpq's environment for what it leaves out.
    ///
    /// Slot and publication are [`DEFAULT_NAME`]; the caller replaces them. Beside the result stand warnings.
    ///
    /// # Errors
    /// Every mistake at once, each a fact and its cure.
    pub fn read(text: Option<&str>, env: &Lookup<'_>) -> Result<(Postgres, Vec<String>), Vec<String>> {
        let mut mistakes = Vec::new();
        let given = conninfo::parse(text.unwrap_or_default(), &mut mistakes);
        let read = environment::complete(given, env, &mut mistakes);
        match read {
            Some(read) if mistakes.is_empty() => Ok(read),
            _ => Err(mistakes),
        }
    }
}

/// Checks a slot name as PostgreSQL does (`ReplicationSlotValidateName`).
///
/// # Errors
/// The fact and the cure.
pub fn slot_name(name: &str) -> Result<String, String> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    match (1..=63).contains(&name.len()) && name.bytes().all(allowed) {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "postgres.slot {name:?} is no slot name: use 1 to 63 lowercase letters, digits and _"
        )),
    }
}

/// Checks that a publication name fits PostgreSQL's identifiers (`NAMEDATALEN`).
///
/// # Errors
/// The fact and the cure.
pub fn publication_name(name: &str) -> Result<String, String> {
    match (1..=63).contains(&name.len()) && !name.contains('\0') {
        true => Ok(name.to_owned()),
        false => Err(format!("postgres.publication {name:?} is no identifier: use 1 to 63 bytes")),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp(host, port) => write!(f, "{host}:{port}"),
            Endpoint::Address(address, _, port) => SocketAddr::new(*address, *port).fmt(f),
            Endpoint::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
