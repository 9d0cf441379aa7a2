//! The wall clock against commit times; a clock that is behind the server's reads as no time at all.

use std::time::{Duration, SystemTime};

use crate::pgoutput::PgTime;

/// 2000-01-01 00:00 UTC in seconds after 1970-01-01.
const POSTGRES_EPOCH_SECONDS: u64 = 946_684_800;

/// Time since 1970-01-01.
pub fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Time since a commit, by this machine's clock.
pub fn since(committed: PgTime) -> Duration {
    let epoch = Duration::from_secs(POSTGRES_EPOCH_SECONDS);
    let committed = Duration::from_micros(u64::try_from(committed.0).unwrap_or(0));
    now().saturating_sub(epoch).saturating_sub(committed)
}
