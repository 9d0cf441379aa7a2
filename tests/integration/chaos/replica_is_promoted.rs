//! The only master dies, and a replica that lagged behind is promoted at its address.

use super::{Line, Trial};
use crate::harness::{Redis, RedisOptions, eventually};

pub async fn inject(trial: &mut Trial) {
    let replica = Redis::start(RedisOptions::default()).await;
    replica.follow(trial.redis(0)).await;
    trial.progress(50).await;
    replica.lag_behind().await;
    trial.progress(100).await;
    trial.redis_loses(0).await;
    // Nothing is published before the witness is there.
    trial.lines.redis.set(Line::Cut);
    trial.redis(0).kill9();
    replica.call(&["REPLICAOF", "NO", "ONE"]).await;
    replica.catch_up().await;
    trial.redis_is(replica);
    trial.redis_has_lost().await;
    trial.is_listened_to().await;
    let before = trial.heals().await;
    trial.lines.redis.set(Line::Open);
    eventually("it is noticed", async || (trial.heals().await > before).then_some(())).await;
    trial.progress(100).await;
}
