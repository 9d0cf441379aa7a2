//! A node accepts and never answers, until Lockstep has given up; what was under way then arrives late.

use super::{Line, Trial};

pub async fn inject(trial: &mut Trial) {
    let node = trial.some_master().await;
    trial.progress(50).await;
    trial.lines.redis.node(node).set(Line::Silent);
    trial.redis_is_missed().await;
    trial.progress(100).await;
    trial.lines.redis.node(node).set(Line::Open);
}
