//! Every answer comes 50 ms later: a long way.

use std::time::Duration;

use super::{Line, Trial};

pub async fn inject(trial: &mut Trial) {
    for node in trial.masters().await {
        assert!(trial.lines.redis.node(node).is_in_use(), "node {node} is reached by another way");
    }
    trial.lines.redis.set(Line::Delayed(Duration::from_millis(25)));
    trial.progress(150).await;
    trial.lines.redis.set(Line::Open);
}
