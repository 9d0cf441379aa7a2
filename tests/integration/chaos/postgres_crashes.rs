//! The database is shut down without a checkpoint, or dies, and recovers.

use super::Trial;
use crate::harness::Mode;

pub async fn inject(trial: &mut Trial) {
    for round in 0..2 {
        trial.progress(50).await;
        if round == 0 {
            trial.world.postgres.stop(Mode::Immediate).await;
        } else {
            trial.world.postgres.kill9();
        }
        trial.world.postgres.start_again().await;
    }
    trial.progress(50).await;
}
