//! The line to the database carries less than the platform writes.

use super::{Line, Trial};

const BYTES_A_SECOND: u32 = 20_000;

pub async fn inject(trial: &mut Trial) {
    trial.progress(50).await;
    trial.lines.postgres.set(Line::Throttled(BYTES_A_SECOND));
    trial.progress(300).await;
    trial.lines.postgres.set(Line::Open);
}
