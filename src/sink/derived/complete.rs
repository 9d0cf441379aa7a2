//! How the index comes to be complete, and whether it still is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::{Derived, Scan, Shared};
use crate::sink::lanes::{Lanes, Trouble};
use crate::sink::reply::NodeError;
use crate::sink::tracking::{Tracker, Way};

/// What is known of the keys.
pub enum Watch {
    /// Nothing.
    Stale,
    /// All keys are being looked through, over connections of this generation.
    Building { generation: u64, build: JoinSet<Result<Tracker, Trouble>> },
    /// Everything, as long as the tracker misses nothing; `fits`: and all of it found room.
    Complete { generation: u64, tracker: Tracker, fits: bool },
}

/// What came of it; nothing, or an error, only where the task panicked.
type Built = Option<Result<Result<Tracker, Trouble>, JoinError>>;

impl Derived {
    /// Begins to look through all keys where that is to be done, and does not wait for it: where nothing was, where a
    /// connection or the topology is no longer the one it was, and where the set has outgrown its bound since.
    ///
    /// # Errors
    /// A node could not be tracked or scanned; the next call begins again.
    pub fn tend(&mut self, lanes: &Lanes) -> Result<(), Trouble> {
        if self.prefixes.is_empty() {
            return Ok(());
        }
        let now = lanes.generation();
        match &mut self.watch {
            Watch::Building { generation, build } if *generation == now => {
                return match build.try_join_next() {
                    None => Ok(()),
                    built => self.end_build(lanes, built),
                };
            }
            Watch::Complete { generation, tracker, fits } => {
                if *generation == now && tracker.is_whole() && *fits == self.shared.fits() {
                    return Ok(());
                }
            }
            Watch::Building { .. } | Watch::Stale => {}
        }
        // What is announced to the one before is of no more use.
        self.watch = Watch::Stale;
        self.shared = Shared::of(self.of.clone());
        let mut build = JoinSet::new();
        build.spawn(look_through(lanes.way(), self.prefixes.clone(), Arc::clone(&self.shared)));
        self.watch = Watch::Building { generation: now, build };
        Ok(())
    }

    /// As [`tend`](Self::tend), and waits until the index is complete. Cancel-safe.
    ///
    /// # Errors
    /// A node that cannot be tracked or scanned.
    pub async fn ready(&mut self, lanes: &Lanes) -> Result<(), Trouble> {
        self.tend(lanes)?;
        let Watch::Building { build, .. } = &mut self.watch else { return Ok(()) };
        self.shared.awaited.store(true, Ordering::Relaxed);
        let built = build.join_next().await;
        self.end_build(lanes, built)
    }

    fn end_build(&mut self, lanes: &Lanes, built: Built) -> Result<(), Trouble> {
        self.watch = Watch::Stale;
        let lost =
            |reason: &str| Trouble { error: NodeError::Disconnected(reason.to_owned()), ..lanes.unowned() };
        let Some(Ok(tracker)) = built else { return Err(lost("nobody looks through its keys any more")) };
        let mut tracker = tracker?;
        if !tracker.is_whole() {
            return Err(lost("the connection was lost while all keys were looked through"));
        }
        self.count();
        tracing::debug!(keys = self.shared.keys().len(), "index of derived keys is complete");
        let fits = self.shared.fits();
        self.watch = Watch::Complete { generation: lanes.generation(), tracker, fits };
        Ok(())
    }
}

/// Tracks first: what is written behind where the SCAN has been is announced. As long as no flight waits, Redis is left
/// to others for as long as each step took.
async fn look_through(way: Way, prefixes: Vec<Bytes>, shared: Arc<Shared>) -> Result<Tracker, Trouble> {
    let announced = {
        let shared = Arc::clone(&shared);
        move |keys: &[Bytes]| shared.add(keys)
    };
    let tracker = Tracker::track(&way, prefixes.clone(), announced).await?;
    for (address, node) in tracker.masters() {
        let trouble = |error| Trouble { address: address.clone(), error };
        let mut scan = Scan::new(&prefixes);
        loop {
            let began = Instant::now();
            let Some(keys) = scan.step(node).await.map_err(trouble)? else { break };
            shared.add(&keys);
            if !shared.awaited.load(Ordering::Relaxed) {
                tokio::time::sleep(began.elapsed()).await;
            }
        }
    }
    Ok(tracker)
}
