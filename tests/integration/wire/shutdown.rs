//! A shutdown of the server is never held up by an open, unread, unacknowledged stream.

use std::time::Duration;

use lockstep::wire::Tripwire;

use super::configured;
use super::streaming::{followed, stream};
use crate::harness::Mode;

/// A bound between "at once" and the 60 s of `wal_sender_timeout`.
const QUICK: Duration = Duration::from_secs(10);

async fn finishes(mode: Mode) {
    let server = followed().await;
    let mut tripwire = Tripwire::connect(&configured(&server.url())).await.unwrap();
    let stream = stream(&server).await;
    server.sql("INSERT INTO t SELECT n, repeat('z', 1000) FROM generate_series(1, 20000) n").await;
    assert_eq!(tripwire.query("SELECT 1").await.unwrap().len(), 1);
    let owner = async {
        let told = tripwire.tripped().await;
        stream.close().await;
        told
    };
    let both = tokio::time::timeout(QUICK, async { tokio::join!(server.stop(mode), owner) }).await;
    let (took, told) = both.expect("the server is down in time");
    assert!(told.is_transient() && told.to_string().contains("57P01"), "{told}");
    assert!(took < QUICK);
}

#[tokio::test]
async fn a_fast_shutdown_finishes() {
    finishes(Mode::Fast).await;
}

#[tokio::test]
async fn a_smart_shutdown_finishes() {
    finishes(Mode::Smart).await;
}
