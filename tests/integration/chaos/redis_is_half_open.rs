//! Redis accepts and never answers, until Lockstep has given up; what was under way then arrives late.

use super::{Line, Trial};
use crate::harness::eventually;

pub async fn inject(trial: &mut Trial) {
    trial.progress(50).await;
    trial.redis_line().set(Line::Silent);
    let connected = async || trial.world.lockstep.metric("lockstep_redis_connected").await;
    eventually("it is noticed", async || (connected().await == 0.0).then_some(())).await;
    trial.progress(100).await;
    trial.redis_line().set(Line::Open);
}
