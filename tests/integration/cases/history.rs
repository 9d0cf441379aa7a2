//! The database goes on with another history: a standby is promoted, or an older state is restored.

use crate::harness::{Lockstep, Mode, On, Postgres, Setup, World, eventually};

on_both!(a_promoted_standby_without_the_slot_is_followed, a_restored_older_state_is_followed);

const USERS: u32 = 30;

async fn insert_users(world: &World) {
    let users = format!("SELECT n, 'live', 1000 FROM generate_series(1, {USERS}) n");
    world.sql(&format!("INSERT INTO users (id, user_type, wallet_balance) {users}")).await;
}

async fn epoch(world: &World) -> u32 {
    world.store.get("lockstep:epoch").await.expect("an epoch").parse().expect("a number")
}

/// Changes that never reached the standby are only in Redis.
async fn a_promoted_standby_without_the_slot_is_followed(on: On) {
    let mut world = World::set_up(Setup::on(on)).await;
    world.lockstep.init().await;
    insert_users(&world).await;
    let mut standby = Postgres::standby_of(&world.postgres).await;
    let urls = format!(
        "postgresql://postgres@127.0.0.1:{},127.0.0.1:{}/postgres",
        world.postgres.port(),
        standby.port()
    );
    world.lockstep = Lockstep::new(&urls, &world.store.urls(), "");
    world.lockstep.run().await;
    let end = world.postgres.value("SELECT pg_current_wal_lsn()").await.expect("an LSN");
    standby.eventually_value(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t").await;
    let before = epoch(&world).await;
    // From here on the standby hears nothing more.
    standby.sql("ALTER SYSTEM SET primary_conninfo = ''").await;
    standby.sql("SELECT pg_reload_conf()").await;
    let senders = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'walreceiver'";
    world.postgres.eventually_value(senders, "0").await;
    world.credit(7, "1").await;
    world.user("live", 100, "5").await;
    world.caught_up().await;
    world.postgres.kill9();
    world.lockstep.is_not_ready_because("standby").await;
    standby.sql("SELECT pg_promote()").await;
    std::mem::swap(&mut world.postgres, &mut standby);
    eventually("all users are loaded", async || {
        world.lockstep.log().contains("another server").then_some(())
    })
    .await;
    world.lockstep.wait_ready().await;
    world.credit(9, "1").await;
    world.caught_up().await;
    world.eventually_equal().await;
    assert!(epoch(&world).await > before);
}

/// A volume is put back as it was: the same server and timeline, less WAL.
async fn a_restored_older_state_is_followed(on: On) {
    let world = World::running(on).await;
    insert_users(&world).await;
    world.caught_up().await;
    world.postgres.stop(Mode::Fast).await;
    world.postgres.keep_files();
    world.postgres.start_again().await;
    world.lockstep.wait_ready().await;
    world.credit(7, "1").await;
    world.user("live", 100, "5").await;
    world.caught_up().await;
    assert!(world.store.exists("user_balance:live:100").await);
    let before = epoch(&world).await;
    world.postgres.stop(Mode::Fast).await;
    world.postgres.restore_files();
    world.postgres.start_again().await;
    eventually("all users are loaded", async || {
        world.lockstep.log().contains("another server").then_some(())
    })
    .await;
    world.lockstep.wait_ready().await;
    world.credit(9, "1").await;
    world.caught_up().await;
    world.eventually_equal().await;
    assert!(!world.store.exists("user_balance:live:100").await, "nobody has it any more");
    assert!(epoch(&world).await > before);
}
