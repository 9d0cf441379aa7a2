//! The database goes on with another history: a standby is promoted, or an older state is restored.

use std::collections::BTreeSet;

use crate::harness::subscriber::USER_UPDATES;
use crate::harness::{Lockstep, Mode, On, Postgres, Setup, World, eventually, postgres_major};

on_both!(
    a_promoted_standby_without_the_slot_is_followed,
    a_promoted_standby_with_the_slot_publishes_nothing_again,
    an_instance_of_the_old_history_that_wakes_up_changes_nothing,
    a_restore_to_a_point_in_time_is_followed,
    another_server_with_other_users_is_followed,
    a_restored_older_state_is_followed,
    a_restored_older_state_that_was_written_to_since_is_followed,
    a_restored_older_state_whose_wal_others_filled_is_followed
);

const USERS: u32 = 30;
/// Since this version a standby keeps up with slots by itself.
const FAILOVER_SLOTS: u32 = 17;

async fn insert_users(world: &World) {
    let users = format!("SELECT n, 'live', 1000 FROM generate_series(1, {USERS}) n");
    world.sql(&format!("INSERT INTO users (id, user_type, wallet_balance) {users}")).await;
}

async fn epoch(world: &World) -> u32 {
    world.store.get("lockstep:epoch").await.expect("an epoch").parse().expect("a number")
}

/// Follows the primary, or the standby once that is promoted.
async fn run_on_both(world: &mut World, standby: &Postgres) {
    world.lockstep = instance_on_both(world, standby);
    world.lockstep.run().await;
}

fn instance_on_both(world: &World, standby: &Postgres) -> Lockstep {
    let urls = format!(
        "postgresql://postgres@127.0.0.1:{},127.0.0.1:{}/postgres",
        world.postgres.port(),
        standby.port()
    );
    Lockstep::new(&urls, &world.store.urls(), "")
}

/// The standby has all that is committed so far.
async fn is_replicated(world: &World, standby: &Postgres) {
    let end = world.postgres.value("SELECT pg_current_wal_lsn()").await.expect("an LSN");
    standby.eventually_value(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t").await;
}

async fn the_other_history_is_loaded(world: &World) {
    eventually("all users are loaded", async || {
        world.lockstep.log().contains("another server").then_some(())
    })
    .await;
    world.lockstep.wait_ready().await;
    world.credit(9, "1").await;
    world.caught_up().await;
}

/// What is committed from now on never reaches the standby.
async fn is_cut_off(world: &World, standby: &Postgres) {
    standby.sql("ALTER SYSTEM SET primary_conninfo = ''").await;
    standby.sql("SELECT pg_reload_conf()").await;
    let senders = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'walreceiver'";
    world.postgres.eventually_value(senders, "0").await;
}

/// Promotes the standby after changes that never reached it, which are only in Redis.
async fn fail_over(world: &mut World, standby: &mut Postgres) {
    is_cut_off(world, standby).await;
    world.credit(7, "1").await;
    world.user("live", 100, "5").await;
    world.caught_up().await;
    world.postgres.kill9();
    world.lockstep.is_not_ready_because("standby").await;
    standby.sql("SELECT pg_promote()").await;
    std::mem::swap(&mut world.postgres, standby);
    the_other_history_is_loaded(world).await;
}

/// Lockstep follows the primary, and a standby without the slot has all that is there.
async fn with_a_standby(on: On) -> (World, Postgres) {
    let mut world = World::set_up(Setup::on(on)).await;
    world.lockstep.init().await;
    insert_users(&world).await;
    let standby = Postgres::standby_of(&world.postgres).await;
    run_on_both(&mut world, &standby).await;
    is_replicated(&world, &standby).await;
    (world, standby)
}

async fn a_promoted_standby_without_the_slot_is_followed(on: On) {
    let (mut world, mut standby) = with_a_standby(on).await;
    let before = epoch(&world).await;
    fail_over(&mut world, &mut standby).await;
    world.eventually_equal().await;
    assert!(epoch(&world).await > before);
}

/// The slot there stands before the promotion, as one that is kept on standbys does: its stream sends again what Redis
/// holds from the old primary.
async fn a_promoted_standby_with_the_slot_publishes_nothing_again(on: On) {
    let mut world = World::set_up(Setup::on(on)).await;
    let mut standby = Postgres::standby_of(&world.postgres).await;
    world.lockstep.init().await;
    standby.keeps_slot(&world.postgres, "lockstep").await;
    run_on_both(&mut world, &standby).await;
    let subscriber = world.subscriber().await;
    insert_users(&world).await;
    for id in 1..=USERS {
        world.credit(id, "1").await;
    }
    world.caught_up().await;
    is_replicated(&world, &standby).await;
    let kept = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'lockstep' AND NOT temporary";
    standby.eventually_value(kept, "1").await;
    if postgres_major() >= FAILOVER_SLOTS {
        let synced = "SELECT failover AND synced FROM pg_replication_slots WHERE slot_name = 'lockstep'";
        standby.eventually_value(synced, "t").await;
    }
    let before = epoch(&world).await;
    fail_over(&mut world, &mut standby).await;
    world.eventually_equal().await;
    assert_eq!(epoch(&world).await, before + 1);
    world.lockstep.kill9();
    world.lockstep.run().await;
    let heard = world.heard_all(&subscriber).await;
    let told: BTreeSet<_> = heard.iter().map(|heard| (&heard.channel, &heard.payload)).collect();
    assert_eq!(heard.len(), told.len(), "events were published again");
    let of = |user: &str| heard.iter().filter(|heard| heard.user() == user).count();
    assert_eq!([of("live:9"), of("live:8")], [6, 4], "the row and its credits, on two channels");
}

/// It was frozen with changes in its socket that the new primary never had.
async fn an_instance_of_the_old_history_that_wakes_up_changes_nothing(on: On) {
    let (mut world, mut standby) = with_a_standby(on).await;
    world.caught_up().await;
    let subscriber = world.subscriber().await;
    let second = instance_on_both(&world, &standby);
    second.spawn(&["run"]);
    second.is_not_ready_because("another instance holds the slot").await;
    is_cut_off(&world, &standby).await;
    world.lockstep.signal("STOP");
    world.sql("UPDATE users SET wallet_balance = 66").await;
    world.user("live", 100, "66").await;
    let end = world.postgres.value("SELECT pg_current_wal_lsn()").await.expect("an LSN");
    let sent = format!("SELECT bool_and(sent_lsn >= '{end}') FROM pg_stat_replication");
    world.postgres.eventually_value(&sent, "t").await;
    world.postgres.kill9();
    standby.sql("SELECT pg_promote()").await;
    std::mem::swap(&mut world.postgres, &mut standby);
    let frozen = std::mem::replace(&mut world.lockstep, second);
    the_other_history_is_loaded(&world).await;
    world.eventually_equal().await;
    frozen.signal("CONT");
    let ended = async || frozen.log().contains("the stream ended").then_some(());
    eventually("the frozen one sees that its stream is gone", ended).await;
    world.credit(8, "1").await;
    world.caught_up().await;
    world.assert_equal().await;
    let heard = world.heard_all(&subscriber).await;
    let of_the_old: Vec<_> = heard.iter().filter(|heard| heard.payload.contains("\"balance\":66,")).collect();
    assert!(of_the_old.is_empty(), "{of_the_old:#?}");
    assert_eq!(subscriber.of(USER_UPDATES, "live:8").len(), 1);
}

/// A world whose database was copied, and has changed since.
async fn moved_on_from_a_copy(on: On) -> World {
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
    world
}

async fn the_copy_is_put_back(world: &World) {
    world.postgres.stop(Mode::Fast).await;
    world.postgres.restore_files();
    world.postgres.start_again().await;
}

/// A volume is put back as it was: the same server and timeline, less WAL.
async fn a_restored_older_state_is_followed(on: On) {
    let world = moved_on_from_a_copy(on).await;
    assert!(world.store.exists("user_balance:live:100").await);
    let before = epoch(&world).await;
    the_copy_is_put_back(&world).await;
    the_other_history_is_loaded(&world).await;
    world.eventually_equal().await;
    assert!(!world.store.exists("user_balance:live:100").await, "nobody has it any more");
    assert!(epoch(&world).await > before);
}

/// A copy and the archived WAL, up to a point: a new timeline, which begins before what Redis holds. The slot is in the
/// copy, so that its stream sends again what both histories have.
async fn a_restore_to_a_point_in_time_is_followed(on: On) {
    let world = moved_on_from_a_copy(on).await;
    world.sql("SELECT pg_create_restore_point('before_the_mistake')").await;
    world.sql("UPDATE users SET wallet_balance = 0; DELETE FROM users WHERE id = 3").await;
    world.user("live", 101, "5").await;
    world.caught_up().await;
    assert!(world.store.exists("user_balance:live:101").await);
    let before = epoch(&world).await;
    world.postgres.stop(Mode::Fast).await;
    world.postgres.restore_files_up_to("before_the_mistake");
    world.postgres.start_again().await;
    world.postgres.eventually_value("SELECT pg_is_in_recovery()", "f").await;
    the_other_history_is_loaded(&world).await;
    world.eventually_equal().await;
    assert!(!world.store.exists("user_balance:live:101").await, "nobody has it any more");
    assert!(
        world.store.exists("user_balance:live:3").await && world.store.exists("user_balance:live:100").await
    );
    assert!(epoch(&world).await > before);
}

/// A dump was restored into a new server: another system identifier, and positions that mean nothing to Redis.
async fn another_server_with_other_users_is_followed(on: On) {
    let mut world = World::running(on).await;
    insert_users(&world).await;
    world.user("live", 100, "5").await;
    world.caught_up().await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    let before = epoch(&world).await;
    world.moves_to_another_server().await;
    insert_users(&world).await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    the_other_history_is_loaded(&world).await;
    world.eventually_equal().await;
    assert!(!world.store.exists("user_balance:live:100").await, "nobody has it any more");
    assert!(epoch(&world).await > before);
}

/// The same, but the program comes back late: by then the restored server has as much WAL as the checkpoints say, and other
/// transactions in it.
async fn a_restored_older_state_that_was_written_to_since_is_followed(on: On) {
    a_restored_older_state_is_found_late(on, async |world| world.credit(9, "1").await.truncate(0)).await;
}

/// The same, but none of these transactions is of a followed table: the stream has nothing to say.
async fn a_restored_older_state_whose_wal_others_filled_is_followed(on: On) {
    a_restored_older_state_is_found_late(on, async |world| {
        world.sql("CREATE TABLE IF NOT EXISTS others (n int); INSERT INTO others VALUES (1)").await;
    })
    .await;
}

async fn a_restored_older_state_is_found_late(on: On, writes: impl AsyncFn(&World)) {
    let world = moved_on_from_a_copy(on).await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    assert!(world.store.exists("user_balance:live:100").await);
    let end = world.postgres.value("SELECT pg_current_wal_lsn()").await.expect("an LSN");
    let before = epoch(&world).await;
    the_copy_is_put_back(&world).await;
    let passed = format!("SELECT pg_current_wal_lsn() > '{end}'");
    writes(&world).await;
    while world.postgres.value(&passed).await.as_deref() != Some("t") {
        writes(&world).await;
    }
    world.lockstep.run().await;
    let noticed = async || world.lockstep.log().contains("an older state of it was restored").then_some(());
    eventually("it is noticed", noticed).await;
    the_other_history_is_loaded(&world).await;
    world.eventually_equal().await;
    assert!(!world.store.exists("user_balance:live:100").await, "nobody has it any more");
    let raised = epoch(&world).await;
    assert!(raised > before);
    // It is noticed once.
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.lockstep.run().await;
    world.credit(7, "1").await;
    world.caught_up().await;
    world.eventually_equal().await;
    assert_eq!(epoch(&world).await, raised);
}
