//! How the index comes to be complete, and whether it still is.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;
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
    Building { generation: u64, build: JoinSet<Result<Built, Trouble>> },
    /// Everything, as long as the tracker misses nothing.
    Complete { generation: u64, built: Built },
}

/// An index that was complete when all keys were looked through.
pub struct Built {
    tracker: Tracker,
    /// Whether one that has outgrown its bound since, by keys that are long gone, is worth building again.
    leaves_room: bool,
}

impl Built {
    /// Whether all that was written was announced.
    fn hears_all(&self, lanes: &Lanes) -> bool {
        let tracked = self.tracker.masters().map(|(address, _)| address);
        self.tracker.lost().is_none() && tracked.eq(lanes.topology().masters())
    }

    fn is_whole(&self, shared: &Shared) -> bool {
        self.tracker.lost().is_none() && (shared.fits() || !self.leaves_room)
    }
}

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
        if let Watch::Building { generation, build } = &mut self.watch
            && *generation == now
            && let Some(built) = build.try_join_next()
        {
            self.end_build(lanes, built.ok())?;
        }
        match &self.watch {
            Watch::Building { generation, .. } if *generation == now => return Ok(()),
            Watch::Complete { generation, built } if *generation == now && built.is_whole(&self.shared) => {
                self.count();
                return Ok(());
            }
            Watch::Complete { built, .. } => self.misheard |= !built.hears_all(lanes),
            Watch::Building { .. } | Watch::Stale => {}
        }
        // What is announced to the one before is of no more use.
        self.watch = Watch::Stale;
        self.shared = Shared::new(self.shared.of.clone(), self.shared.bound);
        let mut build = JoinSet::new();
        build.spawn(look_through(lanes.way(), self.prefixes.clone(), Arc::clone(&self.shared)));
        self.watch = Watch::Building { generation: now, build };
        self.behind = true;
        Ok(())
    }

    /// As [`tend`](Self::tend), and waits until the index is complete. Cancel-safe.
    ///
    /// # Errors
    /// A node that cannot be tracked or scanned.
    pub async fn ready(&mut self, lanes: &Lanes) -> Result<(), Trouble> {
        for is_last in [false, true] {
            self.complete(lanes).await?;
            let Watch::Complete { built, .. } = &self.watch else { break };
            if !self.behind {
                break;
            }
            // Nobody else deletes what was written before: who led until now was told of it, and deletes no more.
            match built.tracker.catch_up().await {
                Ok(()) => self.behind = false,
                Err(trouble) if is_last => return Err(trouble),
                Err(_) => (self.watch, self.misheard) = (Watch::Stale, true),
            }
        }
        Ok(())
    }

    async fn complete(&mut self, lanes: &Lanes) -> Result<(), Trouble> {
        self.tend(lanes)?;
        let Watch::Building { build, .. } = &mut self.watch else { return Ok(()) };
        self.shared.awaited.send_replace(true);
        let built = build.join_next().await.and_then(Result::ok);
        self.end_build(lanes, built)?;
        match &self.watch {
            Watch::Complete { built, .. } => built.tracker.lost().map_or(Ok(()), Err),
            Watch::Building { .. } | Watch::Stale => Ok(()),
        }
    }

    /// `None`: the task that built it came to no end.
    fn end_build(&mut self, lanes: &Lanes, built: Option<Result<Built, Trouble>>) -> Result<(), Trouble> {
        let Watch::Building { generation, .. } = std::mem::replace(&mut self.watch, Watch::Stale) else {
            return Ok(());
        };
        let panicked = || Trouble { error: NodeError::TryAgain, ..lanes.unowned() };
        let built = built.ok_or_else(panicked)??;
        self.count();
        tracing::debug!(keys = self.shared.keys().len(), "index of derived keys is complete");
        self.watch = Watch::Complete { generation, built };
        Ok(())
    }
}

/// Tracks first: what is written behind where the SCAN has been is announced. As long as no flight waits, Redis is left
/// to others for as long as each step took.
async fn look_through(way: Way, prefixes: Vec<Bytes>, shared: Arc<Shared>) -> Result<Built, Trouble> {
    let announced = {
        let shared = Arc::clone(&shared);
        move |keys: &[Bytes]| shared.add(keys)
    };
    let tracker = Tracker::track(&way, &prefixes, announced).await?;
    let mut awaited = shared.awaited.subscribe();
    for (address, node) in tracker.masters() {
        let trouble = |error| Trouble { address: address.clone(), error };
        let mut scan = Scan::new(&prefixes);
        loop {
            let began = Instant::now();
            let Some(keys) = scan.step(node).await.map_err(trouble)? else { break };
            shared.add(&keys);
            if let Some(lost) = tracker.lost() {
                return Err(lost);
            }
            // Whether it ends for the time or for a flight.
            let _ = tokio::time::timeout(began.elapsed(), awaited.wait_for(|awaited| *awaited)).await;
        }
    }
    let leaves_room = shared.fits() && shared.leaves_room(shared.keys().len());
    Ok(Built { tracker, leaves_room })
}
