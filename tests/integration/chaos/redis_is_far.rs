//! Every answer comes 50 ms later: a long way.

use std::time::Duration;

use super::{Line, Trial};

pub async fn inject(trial: &mut Trial) {
    trial.lines.redis.set(Line::Delayed(Duration::from_millis(25)));
    trial.progress(150).await;
    trial.lines.redis.set(Line::Open);
}
