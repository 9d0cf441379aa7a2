//! An administrator takes the table out of the publication; the program says what to do, and that is done.

use super::Trial;

pub async fn inject(trial: &mut Trial) {
    trial.progress(50).await;
    trial.stream_has_a_gap();
    trial.world.sql("ALTER PUBLICATION lockstep DROP TABLE users").await;
    trial.progress(50).await;
    trial.world.lockstep.is_not_ready_because("does not carry public.users: run").await;
    trial.world.lockstep.init().await;
    trial.progress(50).await;
}
