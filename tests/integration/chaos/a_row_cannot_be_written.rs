//! A balance that is no number: nobody reads one, it is kept in mind, and the stream goes on until it is put right.

use super::Trial;
use super::trial::QUIET;
use crate::harness::eventually;

pub async fn inject(trial: &mut Trial) {
    let id = QUIET.start();
    let open = async |trial: &Trial| trial.world.lockstep.metric("lockstep_quarantine_open").await;
    let before = open(trial).await;
    let balance = trial.world.postgres.value(&format!("SELECT wallet_balance FROM users WHERE id = {id}")).await;
    trial.world.sql(&format!("UPDATE users SET wallet_balance = 'NaN' WHERE id = {id}")).await;
    let is_open = async || (open(trial).await > before).then_some(());
    eventually("it is recorded", is_open).await;
    assert!(!trial.world.store.exists(&format!("user_balance:live:{id}")).await, "somebody reads a balance");
    trial.progress(100).await;
    // Another one than before: else it were no change of a balance to who heard the last.
    let right = format!("UPDATE users SET wallet_balance = {} + 1 WHERE id = {id}", balance.expect("a balance"));
    trial.world.sql(&right).await;
    let is_over = async || (open(trial).await <= before).then_some(());
    eventually("it is put right", is_over).await;
}
