//! Somebody drops the slot: what is committed until there is another one is in no stream.

use super::Trial;
use crate::harness::eventually;

pub async fn inject(trial: &mut Trial) {
    let made = async |trial: &Trial| trial.world.lockstep.metric("lockstep_slots_made_total").await;
    let before = made(trial).await;
    trial.progress(50).await;
    trial.stream_has_a_gap();
    trial.world.drop_the_slot().await;
    let is_made = async || (made(trial).await > before).then_some(());
    eventually("another is made", is_made).await;
    trial.progress(50).await;
}
