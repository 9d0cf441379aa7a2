//! The network to Redis ends every connection, and accepts none for a while.

use super::{Line, Trial};

const TIMES: u64 = 3;

pub async fn inject(trial: &mut Trial) {
    for _ in 0..TIMES {
        let meanwhile = trial.some(1, 100);
        trial.progress(50).await;
        trial.redis_line().set(Line::Cut);
        trial.progress(meanwhile).await;
        trial.redis_line().set(Line::Open);
    }
}
