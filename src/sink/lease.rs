//! The lease: a key with a short time to live, renewed while every node holds what the database held a moment ago.
//! Where it is gone, Redis may be frozen.
//!
//! Three keys of one slot: the term, which outlives every lease and counts who streamed, the lease, and the permit. Who took
//! the term last alone may write the lease: an instance that was frozen, replaced and woken cannot. And he has to write it
//! while the permit lasts, which he got when the proof was young: a server that was frozen and thaws does not do it then.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;

use super::lanes::Trouble;
use super::reply::Reply;
use super::{DEFAULT_SLOT, Sink};
use crate::error::Result;
use crate::lsn::Lsn;

/// How long a lease lives. With the age of what it says, a reader who sees one knows that Redis is at most that old.
pub const LEASE_TTL: Duration = Duration::from_secs(3);
/// Age of the proof from which on nothing is renewed.
pub const PROOF_LIMIT: Duration = Duration::from_secs(2);
/// Bytes of a [`nonce`].
const NONCE_BYTES: usize = 8;

/// What is true of every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freshness {
    /// Everything before it is in Redis.
    pub position: Lsn,
    /// When the last change that was written committed, ISO-8601; `None`: none was since the start.
    pub committed_at: Option<String>,
    /// Everything that was committed before this time of the database's clock is in Redis, ISO-8601.
    pub as_of: String,
    /// When the database was asked for that time.
    pub asked: Instant,
}

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// The lease is written.
    Yes,
    /// What it would say is too old by now.
    Late,
    /// Another instance took the term, or Redis forgot it: the nodes' records are to be compared again.
    Refused,
}

#[derive(Serialize)]
struct Lease<'a> {
    slot: &'a str,
    term: u64,
    epoch: u32,
    position: String,
    committed_at: Option<String>,
    as_of: String,
}

impl Sink {
    /// Begins a session: its term is taken with its first lease, and before it others may have had theirs.
    pub fn begin_term(&mut self) {
        self.token = None;
        self.derived.fall_behind();
    }

    /// Writes the lease, in the term that this session takes with the first.
    ///
    /// # Errors
    /// The node's; the lease is as it was, or gone.
    pub async fn renew_lease(&mut self, fresh: Freshness) -> Result<Renewed> {
        let token = match self.token.clone() {
            Some(token) => token,
            None => self.take_term().await?,
        };
        let Some(left) = PROOF_LIMIT.checked_sub(fresh.asked.elapsed()) else { return Ok(Renewed::Late) };
        let left = left.as_millis().max(1).to_string();
        if self.ask_lease(vec!["permit".into(), token.clone(), left.into()]).await? == Reply::Nil {
            return Ok(self.refused());
        }
        // The permit may have come late itself.
        if fresh.asked.elapsed() >= PROOF_LIMIT {
            return Ok(Renewed::Late);
        }
        let number = token.split(|byte| *byte == b'-').next().unwrap_or_default();
        let lease = Lease {
            slot: &self.slot,
            term: std::str::from_utf8(number).ok().and_then(|text| text.parse().ok()).unwrap_or(0),
            epoch: self.epoch(),
            position: fresh.position.to_string(),
            committed_at: fresh.committed_at,
            as_of: fresh.as_of,
        };
        let text = serde_json::to_vec(&lease).unwrap_or_default();
        let ttl = LEASE_TTL.as_millis().to_string();
        let reply = self.ask_lease(vec!["renew".into(), token, text.into(), ttl.into()]).await?;
        match reply {
            Reply::Nil => Ok(self.refused()),
            reply if reply.text().is_some_and(|text| text.as_ref() == b"late") => Ok(Renewed::Late),
            _ => Ok(Renewed::Yes),
        }
    }

    fn refused(&mut self) -> Renewed {
        tracing::warn!(
            "redis does not know this instance's term any more: another one took over, or it lost what it held"
        );
        self.doubt();
        Renewed::Refused
    }

    /// Takes the lease away, where it is this session's.
    ///
    /// # Errors
    /// The node's; then the lease ends by itself.
    pub async fn end_lease(&mut self) -> Result<()> {
        if let Some(token) = self.token.take() {
            self.ask_lease(vec!["end".into(), token]).await?;
        }
        Ok(())
    }

    async fn take_term(&mut self) -> Result<Bytes> {
        let reply = self.ask_lease(vec!["take".into(), nonce().into()]).await?;
        let token = reply.text().cloned().unwrap_or_default();
        self.token = Some(token.clone());
        Ok(token)
    }

    async fn ask_lease(&mut self, args: Vec<Bytes>) -> std::result::Result<Reply, Trouble> {
        let lease = lease_key(&self.slot);
        let keys = [beside(&lease, "term"), lease.clone(), beside(&lease, "permit")].map(Bytes::from);
        let topology = self.lanes.topology();
        let owner = topology.owner(topology.slot(lease.as_bytes())).cloned();
        let address = owner.ok_or_else(|| self.lanes.unowned())?;
        let scripts = &self.lanes.open(&address).await?.scripts;
        let command = scripts.lease(keys, args);
        self.lanes.ask(&address, command).await
    }
}

/// What tells apart what two instances have begun, each in a Redis that knew of nothing before.
pub fn nonce() -> String {
    let mut nonce = [0; NONCE_BYTES];
    match SystemRandom::new().fill(&mut nonce) {
        Ok(()) => format!("{:016x}", u64::from_be_bytes(nonce)),
        // Of two processes of one machine it tells as well.
        Err(_) => format!("{:016x}", std::process::id()),
    }
}

/// `lockstep:lease`, or `lockstep:lease:SLOT` for another slot than the default.
fn lease_key(slot: &str) -> String {
    match slot {
        DEFAULT_SLOT => "lockstep:lease".to_owned(),
        slot => format!("lockstep:lease:{slot}"),
    }
}

/// The names of what lies beside the lease, with its own as their hash tag.
fn beside(lease: &str, what: &str) -> String {
    format!("lockstep:{what}:{{{lease}}}")
}

#[cfg(test)]
mod tests {
    use super::super::node::keyslot;
    use super::*;

    #[test]
    fn term_and_permit_lie_beside_the_lease() {
        for (slot, lease) in [("lockstep", "lockstep:lease"), ("other", "lockstep:lease:other")] {
            assert_eq!(lease_key(slot), lease);
            for what in ["term", "permit"] {
                assert_eq!(keyslot(beside(lease, what).as_bytes()), keyslot(lease.as_bytes()));
            }
        }
    }
}
