//! The records about loads and resyncs, each written over the one that was there before and over no other: what an instance
//! had under way when it was frozen says nothing of what its successor has done.

use bytes::Bytes;

use super::Sink;
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
        let of = |text: Option<&str>| Bytes::copy_from_slice(text.unwrap_or_default().as_bytes());
        let before = of(self.marks.get(&mark).map(String::as_str));
        let topology = self.lanes.topology();
        let owner = topology.owner(topology.slot(&key)).cloned();
        let address = owner.ok_or_else(|| self.lanes.unowned())?;
        let keep = self.lanes.open(&address).await?.scripts.keep(key, before, of(value));
        if self.lanes.ask(&address, keep).await?.utf8() != Some("OK") {
            tracing::warn!(%address, ?mark, "redis holds another record of a load than was written there last");
            self.doubt();
            return Ok(false);
        }
        match value {
            Some(value) => drop(self.marks.insert(mark, value.to_owned())),
            None => drop(self.marks.remove(&mark)),
        }
        Ok(true)
    }

    pub(super) async fn read_mark(&mut self, mark: LoadMark) -> Result<Option<String>> {
        let text = self.read_text(mark.key(&self.slot)).await?;
        match &text {
            Some(text) => drop(self.marks.insert(mark, text.clone())),
            None => drop(self.marks.remove(&mark)),
        }
        Ok(text)
    }
}
