//! A balance that is no number: nobody reads one, it is kept in mind, and the stream goes on until it is put right.

use super::Trial;
use super::trial::QUIET;
use crate::harness::eventually;

pub async fn inject(trial: &mut Trial) {
    let id = QUIET.start();
    let open = async |trial: &Trial| trial.world.lockstep.metric("lockstep_quarantine_open").await;
    let before = open(trial).await;
    trial.world.sql(&format!("UPDATE users SET wallet_balance = 'NaN' WHERE id = {id}")).await;
    let is_open = async || (open(trial).await > before).then_some(());
    eventually("it is recorded", is_open).await;
    assert!(!trial.world.store.exists(&format!("user_balance:live:{id}")).await, "somebody reads a balance");
    trial.progress(100).await;
    trial.world.sql(&format!("UPDATE users SET wallet_balance = 7 WHERE id = {id}")).await;
    let is_over = async || (open(trial).await <= before).then_some(());
    eventually("it is put right", is_over).await;
}
