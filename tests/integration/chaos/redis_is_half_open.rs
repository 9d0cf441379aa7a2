//! A node accepts and never answers, until Lockstep has given up; what was under way then arrives late.

use super::{Line, Trial};
use crate::harness::eventually;

pub async fn inject(trial: &mut Trial) {
    let node = trial.some_master().await;
    trial.progress(50).await;
    trial.lines.redis.node(node).set(Line::Silent);
    let connected = async || trial.world.lockstep.metric("lockstep_redis_connected").await;
    eventually("it is noticed", async || (connected().await == 0.0).then_some(())).await;
    trial.progress(100).await;
    trial.lines.redis.node(node).set(Line::Open);
}
