//! Which epoch a fence is of.

use bytes::Bytes;

use super::Sink;
use super::lanes::Trouble;
use super::node::Command;
use super::proof::StoredCheckpoint;
use super::reply::{NodeError, Reply};
use crate::lsn::Lsn;

/// The epoch of each position of the stream.
///
/// What is before the fork of two histories is the same in both: an event there, sent again by the new server, has to
/// meet the fence that the old one's left, so it keeps the epoch before. One behind the fork passes every fence of the
/// old history, also those of changes that the new one never had, which may stand at a later position.
///
/// The epoch before is the one less by one: nothing else has to be remembered for a stream that begins before the fork
/// more than once. [`decide`](crate::supervise::start::decide) sees to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epochs {
    /// From the fork on.
    pub now: u32,
    /// The fork; zero where there is none within reach.
    pub fork: Lsn,
}

impl Epochs {
    /// Of an event or row at `lsn`.
    pub fn at(self, lsn: Lsn) -> u32 {
        self.now.saturating_sub(u32::from(lsn < self.fork))
    }
}

impl Sink {
    /// Whether Redis has lost the epoch that a fence is of, and the fences alone are left: then this process knows it from
    /// here on, and the records are to be compared. Else somebody has begun it, and what it stops is to be skipped.
    pub(super) async fn has_forgotten(&mut self, epoch: u32) -> Result<bool, Trouble> {
        let key = Bytes::from(self.epoch_key());
        let key = self.lanes.call(&key, Command::new("GET", vec![key.clone()])).await;
        let mut known = text_of(key)?.and_then(|reply| reply.utf8()?.parse().ok());
        for (address, key, _) in self.checkpoint_keys() {
            let held = self.lanes.ask(&address, Command::new("GET", vec![key])).await;
            let stored = text_of(held)?
                .and_then(|reply| serde_json::from_slice::<StoredCheckpoint>(reply.text()?).ok());
            known = known.max(stored.and_then(|stored| stored.epoch));
        }
        let has_forgotten = known < Some(epoch);
        if has_forgotten {
            tracing::warn!(epoch, "fences are of an epoch that redis has forgotten: it lost what it held");
            self.kept_epoch = self.kept_epoch.max(Some(epoch));
            self.doubt();
        } else {
            self.other_epoch = epoch;
        }
        Ok(has_forgotten)
    }
}

/// Nothing where the key is of another type.
fn text_of(answer: Result<Reply, Trouble>) -> Result<Option<Reply>, Trouble> {
    match answer {
        Err(Trouble { error: NodeError::WrongType, .. }) => Ok(None),
        answer => answer.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_before_the_fork_keeps_the_epoch_before() {
        let at = |fork, lsn| Epochs { now: 4, fork: Lsn(fork) }.at(Lsn(lsn));
        assert_eq!([at(10, 9), at(10, 10), at(10, 11), at(0, 0)], [3, 4, 4, 4]);
    }
}
