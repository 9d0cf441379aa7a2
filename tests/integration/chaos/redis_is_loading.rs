//! A master reads its data again from disk, and refuses everybody meanwhile.

use super::Trial;
use crate::harness::{Reply, eventually};

/// How long it takes.
const MICROSECONDS: u64 = 2_000_000;

pub async fn inject(trial: &mut Trial) {
    let node = trial.some_master().await;
    trial.progress(50).await;
    let redis = trial.redis(node);
    redis.call(&["CONFIG", "SET", "loading-process-events-interval-bytes", "1024"]).await;
    let Reply::Integer(keys @ 1..) = redis.call(&["DBSIZE"]).await else { panic!("it holds no key") };
    let of_each = MICROSECONDS / keys.unsigned_abs();
    redis.call(&["CONFIG", "SET", "key-load-delay", &of_each.to_string()]).await;
    let refused = async || {
        let readiness = trial.world.lockstep.http("GET", "/readyz").await;
        readiness.is_ok_and(|(_, body)| body.contains("loading")).then_some(())
    };
    let mut asking = redis.client().await;
    let (reloaded, ()) =
        tokio::join!(asking.call(&["DEBUG", "RELOAD"]), eventually("it is noticed", refused));
    reloaded.expect("an answer");
    redis.call(&["CONFIG", "SET", "key-load-delay", "0"]).await;
    trial.progress(50).await;
}
