//! The record of what could not be applied as written: `lockstep:quarantine:SLOT`.

use bytes::Bytes;

use super::Sink;
use super::lanes::Trouble;
use super::node::Command;
use super::reply::NodeError;
use crate::error::Result;

impl Sink {
    /// Puts the record over the one that was read or written last, and over no other: it may be a successor's.
    /// Whether it is there now; not where memory has no room for it, nor where another one was found.
    ///
    /// # Errors
    /// The node's.
    pub async fn keep_quarantine(&mut self, record: &str) -> Result<bool> {
        let key = Bytes::from(key(&self.slot));
        let record = Bytes::copy_from_slice(record.as_bytes());
        let before = self.quarantined.clone().unwrap_or_default();
        let topology = self.lanes.topology();
        let owner = topology.owner(topology.slot(&key)).cloned();
        let address = owner.ok_or_else(|| self.lanes.unowned())?;
        let keep = self.lanes.open(&address).await?.scripts.keep(key.clone(), before, record.clone());
        match self.lanes.ask(&address, keep).await {
            Ok(reply) if reply.utf8() == Some("OK") => {
                self.quarantined = Some(record);
                Ok(true)
            }
            Ok(_) => {
                tracing::warn!(%address, "redis holds another quarantine than was written there last");
                self.doubt();
                Ok(false)
            }
            Err(Trouble { error: NodeError::OutOfMemory, .. }) => Ok(false),
            Err(Trouble { error: NodeError::WrongType, .. }) => {
                self.lanes.ask(&address, Command::new("DEL", vec![key.clone()])).await?;
                self.quarantined = None;
                Ok(false)
            }
            Err(trouble) => Err(trouble.into()),
        }
    }

    /// The record; one of another type counts as absent.
    pub(super) async fn read_quarantine(&mut self) -> Result<Option<String>> {
        let key = key(&self.slot);
        let command = Command::new("GET", vec![key.clone().into()]);
        let record = match self.lanes.call(key.as_bytes(), command).await {
            Ok(reply) => reply.text().cloned(),
            Err(Trouble { error: NodeError::WrongType, .. }) => None,
            Err(trouble) => return Err(trouble.into()),
        };
        let text = record.as_ref().and_then(|record| std::str::from_utf8(record).ok()).map(str::to_owned);
        self.quarantined = record;
        Ok(text)
    }
}

/// Where the record is kept.
pub(super) fn key(slot: &str) -> String {
    format!("lockstep:quarantine:{slot}")
}
