//! Who may write the lease.

use lockstep::sink::{Freshness, Renewed};

use super::*;
use crate::harness::{On, RedisOptions, Store};

const LEASE: &str = "lockstep:lease";

async fn renew(sink: &mut Sink, position: u64) -> Renewed {
    let fresh = Freshness { position: Lsn(position), committed_at: None, as_of: "now".into() };
    sink.renew_lease(fresh).await.unwrap()
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
