//! Keys that other programs write: noticed, compared with the database after a grace, and written again.
//!
//! | file | what it does |
//! |---|---|
//! | `watch` | has Redis announce what is written, while that is wanted |
//! | `check` | compares suspects with what was written last, and then with the database |
//! | `walk` | compares all users, slowly, for ever |
//! | `clear` | deletes what others derived of anybody, where it is not known of whom it may be stale |
//!
//! Who is a suspect, and why no foreign write is taken for one of ours, is written in
//! [`Ledger`](crate::pipeline::ledger). Whoever differs goes the way of all rows that are read beside the stream, and is
//! compared once more there, with no flight of ours out: only what differs then is wrong.

mod check;
mod clear;
mod walk;
mod watch;

use std::sync::Arc;

use tokio::sync::watch as latest;

use crate::config::ForeignWrites;
use crate::error::Result;
use crate::metrics::AuditMetrics;
use crate::pipeline::{Clear, Errand, Ledger};
use crate::resync::Reader;
use crate::sink::{Clearing, TrackedReader, Way};

/// Where the way to read Redis is found while it is being watched.
type Tracked = latest::Receiver<Option<TrackedReader>>;

/// Looks after other writers.
#[derive(Clone)]
pub struct Auditor {
    reader: Reader,
    ledger: Arc<Ledger>,
    metrics: AuditMetrics,
}

impl Auditor {
    /// One that has not looked yet.
    pub fn new(reader: Reader, ledger: Arc<Ledger>, metrics: AuditMetrics) -> Auditor {
        Auditor { reader, ledger, metrics }
    }

    /// Has derived keys deleted once more; false where the session ended before they were.
    async fn clear(&self, clearing: Clearing) -> Result<bool> {
        match self.reader.errand(|done| Errand::Clear(Clear { clearing, done })).await {
            Err(forgotten) if forgotten.is_transient() => Ok(false),
            ended => ended.map(|()| true),
        }
    }

    /// Watches, compares and walks until a fault is definite.
    pub async fn run(self, way: Way) -> Result<()> {
        if self.ledger.mode() == ForeignWrites::Off {
            return Ok(());
        }
        let (told, tracked) = latest::channel(None);
        let templates = self.reader.key_map.templates();
        let prefixes = templates.iter().map(|template| template.literal_head().to_owned().into()).collect();
        let watcher = watch::Watcher { way, prefixes, ledger: Arc::clone(&self.ledger), told };
        let walker = walk::Walker::new(&self, tracked.clone());
        let clearer = clear::Clearer { parts: self.clone(), tracked: tracked.clone() };
        let checker = check::Checker::new(self, tracked);
        tokio::select! {
            () = watcher.run() => Ok(()),
            ended = walker.run() => ended,
            ended = clearer.run() => ended,
            ended = checker.run() => ended,
        }
    }
}

/// Not while there is no way to read Redis: it is busy then, or away.
async fn while_watched(tracked: &mut Tracked) {
    if tracked.wait_for(Option::is_some).await.is_err() {
        std::future::pending::<()>().await;
    }
}
