//! Private servers and the platform's actors, for tests: real programs on free loopback ports, stopped
//! and removed whatever happens.
#![allow(dead_code, unused_imports, reason = "a toolbox: not every test file needs every tool")]

pub mod browser;
pub mod cluster;
pub mod lines;
pub mod lockstep;
mod names;
pub mod oracle;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod resp;
mod selftest;
pub mod store;
pub mod subscriber;
pub mod tls;
pub mod versions;
pub mod witness;
pub mod workload;
pub mod world;

pub use browser::Browser;
pub use cluster::Cluster;
pub use lines::RedisLines;
pub use lockstep::{Lockstep, program};
pub use postgres::{Mode, Postgres, PostgresOptions};
pub use proxy::{Line, Proxy};
pub use redis::{Redis, RedisOptions};
pub use resp::{Reply, Resp};
pub use store::{On, Store};
pub use subscriber::Subscriber;
pub use versions::{COLUMN_LISTS, PASSED_OVER, not_before, postgres_major};
pub use witness::Witness;
pub use world::{Setup, World};

use std::time::{Duration, Instant};

/// How long a condition may take to come true before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition; the only pause in all tests.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// For how long a test is to let a fault last that is over at once else: where its environment asks for that.
pub fn seconds_asked_for(variable: &str) -> Duration {
    let asked = std::env::var(variable).ok();
    Duration::from_secs(asked.map_or(0, |text| text.parse().expect("seconds")))
}

/// Waits until `condition` gives a value.
///
/// # Panics
/// When [`PATIENCE`] is over; `what` says what did not happen.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let explained = eventually_ok(async || condition().await.ok_or_else(String::new)).await;
    explained.unwrap_or_else(|_| panic!("not within {} s: {what}", PATIENCE.as_secs()))
}

/// Waits until `condition` is `Ok`; after [`PATIENCE`] its last `Err` is returned.
pub async fn eventually_ok<T, E>(condition: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
    eventually_within(PATIENCE, condition).await
}

/// As [`eventually_ok`] for what takes longer: a million rows.
pub async fn eventually_within<T, E>(
    patience: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let deadline = Instant::now() + patience;
    loop {
        match condition().await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
            outcome => return outcome,
        }
    }
}
