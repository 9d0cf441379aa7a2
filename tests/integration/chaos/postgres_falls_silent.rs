//! Nothing is refused and nothing ends: the network to the database carries nothing.

use super::{Line, Trial};

pub async fn inject(trial: &mut Trial) {
    trial.progress(50).await;
    trial.lines.postgres.set(Line::Silent);
    trial.world.lockstep.is_not_ready_because("postgres").await;
    trial.progress(50).await;
    trial.lines.postgres.set(Line::Open);
}
