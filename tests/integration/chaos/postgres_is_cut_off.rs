//! The network to the database ends every connection, and accepts none for a while.

use super::{Line, Trial};

const TIMES: u64 = 3;

pub async fn inject(trial: &mut Trial) {
    for _ in 0..TIMES {
        let meanwhile = trial.some(1, 100);
        trial.progress(50).await;
        trial.lines.postgres.set(Line::Cut);
        trial.progress(meanwhile).await;
        trial.lines.postgres.set(Line::Open);
    }
}
