//! What the platform does to a balance, and what must come of it. Each test is a sentence about the
//! running binary between a real PostgreSQL and a real Redis.

/// The same sentence on one Redis and on a cluster.
macro_rules! on_both {
    ($($case:ident),+ $(,)?) => {$(
        mod $case {
            use crate::harness::On;

            #[tokio::test(flavor = "multi_thread")]
            async fn on_one_redis() {
                super::$case(On::Single).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn on_a_cluster() {
                super::$case(On::Cluster).await;
            }
        }
    )+};
}

mod away;
mod bad_input;
mod bench;
mod budget;
mod cost;
mod crash;
mod durability;
mod foreign_writers;
mod freshness;
mod gone;
mod history;
mod http;
mod keys;
mod large;
mod load;
mod money;
mod no_snapshot;
mod outage;
mod permissions;
mod postgres_faults;
mod publication;
mod quarantine;
mod redis_faults;
mod redis_forgets;
mod redis_pair;
mod resync;
mod schema;
mod shards;
mod shutdown;
mod slot;
mod status;
mod takeover;
mod tls;
mod together;
mod transactions;
mod users;
mod values;
mod verify;
mod visible;

/// `user:{live:7}:config`
fn config_of(user: &str) -> String {
    format!("user:{{{user}}}:config")
}
