//! The database is shut down, with and without a checkpoint, or dies, and recovers.

use super::Trial;
use crate::harness::Mode;

pub async fn inject(trial: &mut Trial) {
    for shutdown in [Some(Mode::Fast), Some(Mode::Immediate), None] {
        trial.progress(50).await;
        match shutdown {
            Some(mode) => drop(trial.world.postgres.stop(mode).await),
            None => trial.world.postgres.kill9(),
        }
        trial.world.postgres.start_again().await;
    }
    trial.progress(50).await;
}
