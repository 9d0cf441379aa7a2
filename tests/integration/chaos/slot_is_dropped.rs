//! Somebody drops the slot: what is committed until there is another one is in no stream. That one waits for whoever has a
//! transaction open.

use super::Trial;
use super::trial::QUIET;
use crate::harness::eventually;

pub async fn inject(trial: &mut Trial) {
    let made = async |trial: &Trial| trial.world.lockstep.metric("lockstep_slots_made_total").await;
    let unpublished = async |trial: &Trial| trial.world.lockstep.metric("lockstep_unpublished_total").await;
    let (before, unpublished_before) = (made(trial).await, unpublished(trial).await);
    trial.progress(50).await;
    trial.stream_has_a_gap();
    let open = trial.world.postgres.client().await;
    open.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("a transaction");
    trial.world.drop_the_slot().await;
    trial.world.lockstep.is_not_ready_because("the new slot waits for pid").await;
    trial.progress(50).await;
    // One whom no later event tells of.
    let quiet = QUIET.start();
    let change = format!("UPDATE users SET wallet_balance = wallet_balance + 1 WHERE id = {quiet}");
    trial.world.sql(&change).await;
    open.batch_execute("COMMIT").await.expect("its end");
    let is_made = async || (made(trial).await > before).then_some(());
    eventually("another is made", is_made).await;
    let is_counted = async || (unpublished(trial).await > unpublished_before).then_some(());
    eventually("what nobody was told of is counted", is_counted).await;
    trial.progress(50).await;
}
