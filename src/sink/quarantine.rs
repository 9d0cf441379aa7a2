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
        match self.lanes.keep(&key, before, record.clone()).await {
            Ok(reply) if reply.utf8() == Some("OK") => {
                self.quarantined = Some(record);
                Ok(true)
            }
            Ok(_) => {
                tracing::warn!("redis holds another quarantine than was written there last");
                self.doubt();
                Ok(false)
            }
            Err(Trouble { error: NodeError::OutOfMemory, .. }) => Ok(false),
            Err(Trouble { error: NodeError::WrongType, .. }) => {
                self.lanes.call(&key, Command::new("DEL", vec![key.clone()])).await?;
                self.quarantined = None;
                Ok(false)
            }
            Err(trouble) => Err(trouble.into()),
        }
    }

    /// The record; one of another type counts as absent.
    pub(super) async fn read_quarantine(&mut self) -> Result<Option<String>> {
        let record = self.read_record(key(&self.slot)).await?;
        let text = record.as_ref().and_then(|record| std::str::from_utf8(record).ok()).map(str::to_owned);
        self.quarantined = record;
        Ok(text)
    }
}

/// Where the record is kept.
pub(super) fn key(slot: &str) -> String {
    format!("lockstep:quarantine:{slot}")
}
