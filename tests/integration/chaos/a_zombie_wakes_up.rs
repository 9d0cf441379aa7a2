//! An instance is frozen, another takes over, and the frozen one wakes up with what it had under way.

use super::Trial;
use crate::harness::eventually;

pub async fn inject(trial: &mut Trial) {
    let second = trial.second().await;
    trial.progress(50).await;
    trial.world.lockstep.signal("STOP");
    trial.takes_over(&second).await;
    trial.progress(100).await;
    trial.world.lockstep.signal("CONT");
    let ended = async || trial.world.lockstep.log().contains("the stream ended").then_some(());
    eventually("the frozen one sees that its stream is gone", ended).await;
    trial.progress(50).await;
    trial.sigterm().await;
    trial.takes_over(&second).await;
    trial.goes_on_with(second);
}
