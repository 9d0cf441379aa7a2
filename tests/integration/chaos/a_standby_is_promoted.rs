//! The primary dies and its standby takes over behind the same address, with all that was committed, and without the slot.

use super::Trial;
use crate::harness::Postgres;

pub async fn inject(trial: &mut Trial) {
    // Its files are copied as they are.
    trial.platform_rests().await;
    let standby = Postgres::standby_of(&trial.world.postgres).await;
    trial.platform_goes_on().await;
    trial.progress(50).await;
    trial.stream_has_a_gap();
    // What died with the primary would be in Redis, and nowhere else.
    trial.platform_rests().await;
    let end = trial.world.postgres.value("SELECT pg_current_wal_lsn()").await.expect("an LSN");
    standby.eventually_value(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t").await;
    trial.world.postgres.kill9();
    standby.sql("SELECT pg_promote()").await;
    trial.database_is(standby);
    trial.platform_goes_on().await;
    trial.progress(50).await;
}
