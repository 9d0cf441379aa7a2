//! Who may write the lease.

use std::time::Instant;

use lockstep::sink::{Freshness, PROOF_LIMIT, Renewed};

use super::*;
use crate::harness::{On, RedisOptions, Store};

const LEASE: &str = "lockstep:lease";

async fn renew(sink: &mut Sink, position: u64) -> Renewed {
    sink.renew_lease(proven(position, Instant::now())).await.unwrap()
}

fn proven(position: u64, asked: Instant) -> Freshness {
    Freshness { position: Lsn(position), committed_at: None, as_of: "now".into(), asked }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_proven_before_redis_froze_is_no_lease_when_it_thaws() {
    let store = Store::start(On::Single, RedisOptions::default()).await;
    let mut sink = connect(&store.urls()).await;
    assert_eq!(renew(&mut sink, 1).await, Renewed::Yes);
    store.call("", &["DEL", LEASE]).await;
    store.single().pause();
    let asked = Instant::now();
    let (renewed, ()) = tokio::join!(sink.renew_lease(proven(2, asked)), async {
        tokio::time::sleep(PROOF_LIMIT).await;
        store.single().resume();
    });
    assert_eq!(renewed.unwrap(), Renewed::Late);
    assert!(!store.exists(LEASE).await);
    assert_eq!(sink.renew_lease(proven(3, asked)).await.unwrap(), Renewed::Late);
    assert_eq!(renew(&mut sink, 4).await, Renewed::Yes);
}

#[tokio::test]
async fn a_renewal_needs_the_permit_that_was_given_for_it() {
    let store = Store::start(On::Single, RedisOptions::default()).await;
    let mut sink = connect(&store.urls()).await;
    assert_eq!(renew(&mut sink, 1).await, Renewed::Yes);
    let ttl = store.call("", &["PTTL", "lockstep:permit:{lockstep:lease}"]).await.text().unwrap();
    let ttl: u128 = ttl.parse().expect("it goes by itself");
    assert!((1..=PROOF_LIMIT.as_millis()).contains(&ttl), "{ttl} ms");
}

#[tokio::test]
async fn only_who_took_the_term_last_renews_or_ends_the_lease() {
    for on in [On::Single, On::Cluster] {
        let store = Store::start(on, RedisOptions::default()).await;
        let (mut first, mut second) = (connect(&store.urls()).await, connect(&store.urls()).await);
        assert_eq!(renew(&mut first, 1).await, Renewed::Yes);
        assert_eq!(renew(&mut second, 2).await, Renewed::Yes);
        let of_second = store.get(LEASE).await;
        assert!(of_second.as_deref().is_some_and(|lease| lease.contains("\"term\":2")), "{of_second:?}");

        assert_eq!(renew(&mut first, 3).await, Renewed::Refused, "it was replaced");
        first.end_lease().await.unwrap();
        assert_eq!(store.get(LEASE).await, of_second);

        assert_eq!(renew(&mut second, 4).await, Renewed::Yes);
        second.end_lease().await.unwrap();
        assert!(!store.exists(LEASE).await);
    }
}

#[tokio::test]
async fn a_term_that_redis_forgot_is_nobodys() {
    let store = Store::start(On::Single, RedisOptions::default()).await;
    let (mut first, mut second) = (connect(&store.urls()).await, connect(&store.urls()).await);
    assert_eq!(renew(&mut first, 1).await, Renewed::Yes);
    store.call("", &["FLUSHALL"]).await;
    assert_eq!(renew(&mut second, 2).await, Renewed::Yes, "the first term again, of another");
    assert_eq!(renew(&mut first, 3).await, Renewed::Refused);
    store.call("", &["FLUSHALL"]).await;
    assert_eq!(renew(&mut second, 4).await, Renewed::Refused);
    second.begin_term();
    assert_eq!(renew(&mut second, 5).await, Renewed::Yes);
}
