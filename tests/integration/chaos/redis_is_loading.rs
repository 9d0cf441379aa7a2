//! A master reads its data again from disk, and refuses everybody meanwhile.

use super::Trial;
use crate::harness::eventually;

/// Microseconds for each key: about a second for those of the watched users.
const KEY_LOAD_DELAY: &str = "10000";

pub async fn inject(trial: &mut Trial) {
    let node = trial.some_master().await;
    trial.progress(50).await;
    let redis = trial.redis(node);
    redis.call(&["CONFIG", "SET", "loading-process-events-interval-bytes", "1024"]).await;
    redis.call(&["CONFIG", "SET", "key-load-delay", KEY_LOAD_DELAY]).await;
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
