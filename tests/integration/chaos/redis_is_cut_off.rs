//! The network to a node ends every connection, and accepts none for a while.

use super::{Line, Trial};

const TIMES: u64 = 3;

pub async fn inject(trial: &mut Trial) {
    for _ in 0..TIMES {
        let (node, meanwhile) = (trial.some_master().await, trial.some(1, 100));
        trial.progress(50).await;
        trial.lines.redis.node(node).set(Line::Cut);
        trial.redis_is_missed().await;
        trial.progress(meanwhile).await;
        trial.lines.redis.node(node).set(Line::Open);
    }
}
