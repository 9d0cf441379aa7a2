//! Two instances are restarted one after the other.

use super::Trial;

const TIMES: u64 = 3;

pub async fn inject(trial: &mut Trial) {
    for _ in 0..TIMES {
        let second = trial.second().await;
        trial.progress(50).await;
        trial.sigterm().await;
        trial.takes_over(&second).await;
        trial.goes_on_with(second);
    }
}
