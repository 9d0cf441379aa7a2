//! Has Redis announce what is written to followed keys, while that is wanted; again after every interruption.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use crate::backoff::Outage;
use crate::pipeline::Ledger;
use crate::sink::{TrackedReader, Tracker, Way};

/// First delay before Redis is tracked again.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// Longest delay before Redis is tracked again.
const RETRY_LIMIT: Duration = Duration::from_secs(2);

/// Tracks, and tells who wants to read how.
pub(super) struct Watcher {
    pub(super) way: Way,
    pub(super) prefixes: Vec<Bytes>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) told: watch::Sender<Option<TrackedReader>>,
}

impl Watcher {
    /// Ends with the ledger.
    pub(super) async fn run(self) {
        let mut wanted = self.ledger.wanted();
        let mut outage = Outage::new(RETRY_FIRST, RETRY_LIMIT, 3);
        while wanted.wait_for(|wanted| *wanted).await.is_ok() {
            let ledger = Arc::clone(&self.ledger);
            let announced = move |keys: &[Bytes]| ledger.announced(keys, Instant::now());
            match Tracker::start(&self.way, self.prefixes.clone(), announced).await {
                Ok(mut tracker) => {
                    outage.end();
                    self.ledger.resume();
                    self.told.send_replace(Some(tracker.reader()));
                    tokio::select! {
                        () = tracker.interrupted() => tracing::debug!("watching redis was interrupted"),
                        _ = wanted.wait_for(|wanted| !*wanted) => {}
                    }
                    self.told.send_replace(None);
                    self.ledger.interrupt();
                    drop(tracker);
                    tokio::time::sleep(RETRY_FIRST).await;
                }
                Err(fault) => {
                    if outage.is_news(&fault) {
                        tracing::warn!(%fault, "redis cannot be watched for foreign writes; trying again");
                    }
                    tokio::time::sleep(outage.next_delay()).await;
                }
            }
        }
    }
}
