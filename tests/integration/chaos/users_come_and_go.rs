//! Users are made, move, change their type and are deleted, one after the other and all at once, while the program dies and
//! all are read again.

use super::Trial;

/// Of no other scenario.
const FIRST: u64 = 201;
const LAST: u64 = 210;

pub async fn inject(trial: &mut Trial) {
    let columns = "INSERT INTO users (id, user_type, wallet_balance)";
    for round in 0..6 {
        trial.world.sql(&format!("{columns} SELECT n, 'live', n FROM generate_series({FIRST}, {LAST}) n")).await;
        let chosen = trial.some(FIRST, LAST);
        trial.world.sql(&format!("UPDATE users SET wallet_balance = 5 WHERE id = {chosen}")).await;
        if round == 2 {
            trial.kill_9();
        }
        trial.world.sql(&format!("UPDATE users SET user_type = 'demo' WHERE id = {chosen}")).await;
        trial.progress(10).await;
        if round == 2 {
            trial.world.lockstep.run().await;
        }
        trial.world.sql(&format!("DELETE FROM users WHERE id = {chosen}")).await;
        if round == 4 {
            trial.world.lockstep.succeed(&["resync", "--wait"]).await;
        }
        trial.world.sql(&format!("DELETE FROM users WHERE id BETWEEN {FIRST} AND {LAST}")).await;
        trial.world.caught_up().await;
        for _ in 0..2 {
            assert!(are_gone(trial).await, "a key of a deleted user is there");
            trial.progress(20).await;
        }
    }
}

async fn are_gone(trial: &Trial) -> bool {
    for who in (FIRST..=LAST).flat_map(|id| [format!("live:{id}"), format!("demo:{id}")]) {
        for key in [format!("user:{{{who}}}:config"), format!("user_balance:{who}")] {
            if trial.world.store.exists(&key).await {
                return false;
            }
        }
    }
    true
}
