//! The records about loads and resyncs, each written over the one that was there before and over no other: what an instance
//! had under way when it was frozen says nothing of what its successor has done. Two of the same text are one to this, and
//! so are two that are not there; whoever depends on the difference has to leave another mark.

use bytes::Bytes;

use super::Sink;
use super::lanes::Trouble;
use super::node::Command;
use super::reply::NodeError;
use crate::error::Result;

/// The records about loads; values are the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoadMark {
    /// `lockstep:loaded:<slot>`: the load is finished.
    Loaded,
    /// `lockstep:load:<slot>`: how far it came.
    Progress,
    /// `lockstep:asked:<slot>`: the resyncs that were asked for.
    Asked,
    /// `lockstep:resync:<slot>`: how far the first of them came.
    Resync,
}

impl LoadMark {
    fn key(self, slot: &str) -> String {
        match self {
            LoadMark::Loaded => format!("lockstep:loaded:{slot}"),
            LoadMark::Progress => format!("lockstep:load:{slot}"),
            LoadMark::Asked => format!("lockstep:asked:{slot}"),
            LoadMark::Resync => format!("lockstep:resync:{slot}"),
        }
    }
}

impl Sink {
    /// Writes or, with `None`, removes a record, where it is still the one that was read or written last. Whether it is so
    /// now; where another one was found, the records are to be compared.
    ///
    /// # Errors
    /// The node's.
    pub async fn write_mark(&mut self, mark: LoadMark, value: Option<&str>) -> Result<bool> {
        let key = Bytes::from(mark.key(&self.slot));
        let before = self.marks.get(&mark).cloned().unwrap_or_default();
        let record = Bytes::copy_from_slice(value.unwrap_or_default().as_bytes());
        match self.lanes.keep(&key, before, record.clone()).await {
            Ok(reply) if reply.utf8() == Some("OK") => {
                drop(self.marks.insert(mark, record));
                return Ok(true);
            }
            Ok(_) => {
                tracing::warn!(?mark, "redis holds another record of a load than was written there last")
            }
            Err(Trouble { error: NodeError::WrongType, .. }) => {
                self.lanes.call(&key, Command::new("DEL", vec![key.clone()])).await?;
            }
            Err(trouble) => return Err(trouble.into()),
        }
        self.doubt();
        Ok(false)
    }

    pub(super) async fn read_mark(&mut self, mark: LoadMark) -> Result<Option<String>> {
        let record = self.read_record(mark.key(&self.slot)).await?.unwrap_or_default();
        let text = std::str::from_utf8(&record).ok().filter(|text| !text.is_empty()).map(str::to_owned);
        drop(self.marks.insert(mark, record));
        Ok(text)
    }
}
