//! Redis loses what it held: the end of it, to a replica that lagged or an older file; or all of it. What the slot still
//! has is sent again, what it has not is read from the database.

use std::collections::{BTreeMap, BTreeSet};

use super::config_of;
use crate::harness::resp::slot_of;
use crate::harness::subscriber::{BALANCE_UPDATES, USER_UPDATES, lsn};
use crate::harness::workload::Workload;
use crate::harness::{Mode, On, PATIENCE, Redis, Setup, Subscriber, World, eventually};

pub const USERS: u32 = 60;

pub async fn with_users(world: &World) {
    let users = format!("SELECT n, 'live', 1000 FROM generate_series(1, {USERS}) n");
    world.sql(&format!("INSERT INTO users (id, user_type, wallet_balance) {users}")).await;
    world.caught_up().await;
    world.eventually_equal().await;
}

/// More than a crowded machine takes from a loss to its notice.
pub fn with_a_wide_margin(world: &World) {
    with_a_margin(world, "5m");
}

pub fn with_a_margin(world: &World, margin: &str) {
    let configuration = world.lockstep.configuration();
    world
        .lockstep
        .configure(&configuration.replace("[redis]", &format!("[redis]\nreplay_margin = \"{margin}\"")));
}

async fn world_with_users(setup: Setup) -> World {
    let world = World::set_up(setup).await;
    with_a_wide_margin(&world);
    world.lockstep.init().await;
    world.lockstep.run().await;
    with_users(&world).await;
    world
}

/// Waits until every checkpoint on `node` says that all committed so far is there, so that its loss can be told.
pub async fn all_is_recorded_on(world: &World, node: &Redis) {
    // `local`: the mark must not wait for a synchronous standby that a test has made up.
    let mark = "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'lockstep-test', '')";
    let marked = world.postgres.value(mark).await.as_deref().and_then(lsn).expect("an LSN");
    eventually("the checkpoint is written", async || {
        let mut client = node.client().await;
        // A replica of a cluster answers; another server does not know the word.
        client.call(&["READONLY"]).await.ok()?;
        let keys = client.call(&["KEYS", "lockstep:checkpoint:*"]).await.ok()?.texts();
        for key in &keys {
            let text = client.call(&["GET", key]).await.ok()?.text()?;
            let checkpoint: serde_json::Value = serde_json::from_str(&text).ok()?;
            lsn(checkpoint["applied"].as_str()?).filter(|applied| *applied >= marked)?;
        }
        (!keys.is_empty()).then_some(())
    })
    .await;
}

pub async fn heals(world: &World, by: &str) -> f64 {
    world.lockstep.metric(&format!("lockstep_heals_total{{by=\"{by}\"}}")).await
}

/// It was brought back by replay alone; says how long that took.
pub async fn was_replayed(world: &World) {
    let healed = async || world.lockstep.log().contains("redis holds again what it lacked").then_some(());
    eventually("it is whole again", healed).await;
    assert_eq!((heals(world, "replay").await, heals(world, "load").await), (1.0, 0.0));
    says_how_long_it_took(world).await;
}

/// It was brought back by a load; says how long that took.
async fn was_loaded(world: &World) {
    let healed = async || world.lockstep.log().contains("redis holds again what it lacked").then_some(());
    eventually("it is whole again", healed).await;
    assert!(heals(world, "load").await >= 1.0);
    says_how_long_it_took(world).await;
}

async fn says_how_long_it_took(world: &World) {
    let seconds = world.lockstep.metric("lockstep_heal_seconds").await;
    println!("healed in {seconds} s");
    assert!(seconds > 0.0 && seconds < PATIENCE.as_secs_f64(), "{seconds} s");
}

/// How often more than once each event was heard on a channel, by user; nothing is missing there.
async fn doubled(world: &World, subscriber: &Subscriber) -> BTreeMap<String, usize> {
    let heard = world.heard_all(subscriber).await;
    for channel in [USER_UPDATES, BALANCE_UPDATES] {
        let told = subscriber.transactions_told(channel);
        let missing: Vec<_> =
            world.completed().await.into_iter().filter(|id| !told.contains_key(id)).collect();
        assert_eq!(missing, [] as [&str; 0], "on {channel}");
    }
    let mut times: BTreeMap<(String, String), usize> = BTreeMap::new();
    for event in heard.iter().filter(|heard| heard.channel == USER_UPDATES) {
        *times.entry((event.user(), event.text("event_id").to_owned())).or_default() += 1;
    }
    let mut doubled = BTreeMap::new();
    for ((user, _), times) in times {
        *doubled.entry(user).or_default() += times - 1;
    }
    doubled
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_failover_to_a_replica_that_lagged_is_replayed() {
    let world = world_with_users(Setup::on(On::Cluster)).await;
    let cluster = world.store.cluster();
    let lost = cluster.master_of(&config_of("live:7")).await;
    let replica = cluster.replica_of(lost).await;
    let of_the_shard = [lost, replica];
    let survivor = (0..6).find(|node| !of_the_shard.contains(node)).expect("a node of another shard");
    let subscriber = Subscriber::start(cluster.node(survivor)).await;
    all_is_recorded_on(&world, cluster.node(replica)).await;
    cluster.node(replica).lag_behind().await;
    for id in 1..=USERS {
        world.credit(id, "1").await;
    }
    all_is_recorded_on(&world, cluster.node(lost)).await;
    cluster.lose_master(lost).await;
    was_replayed(&world).await;
    world.credit(7, "1").await;
    world.caught_up().await;
    world.eventually_equal().await;
    world.lockstep.wait_ready().await;
    let doubled = doubled(&world, &subscriber).await;
    let mut again = 0;
    for (user, times) in doubled {
        let of_lost = cluster.master_of(&config_of(&user)).await == replica;
        assert_eq!(times, usize::from(of_lost), "{user}: only the lost fences let an event pass again");
        again += times;
    }
    assert!(again > 0);
    assert_eq!(world.lockstep.metric("lockstep_republished_total").await, again as f64);
}

/// So it looks where the slots of all of them moved to other nodes between two checkpoints. The fences are all there.
async fn checkpoints_that_are_gone_alone_make_nothing_go_back_or_be_told_again(on: On) {
    let world = world_with_users(Setup::on(on)).await;
    let subscriber = world.subscriber().await;
    for id in 1..=USERS {
        world.credit(id, "1").await;
    }
    world.caught_up().await;
    let fence = "lockstep:fence:{live:7}";
    let before = world.store.get(fence).await;
    for key in world.store.keys("lockstep:checkpoint:*").await {
        world.store.call(&key, &["DEL", &key]).await;
    }
    was_loaded(&world).await;
    nothing_was_told_again(&world, &subscriber).await;
    assert!(world.store.get(fence).await >= before);
}

async fn nothing_was_told_again(world: &World, subscriber: &Subscriber) {
    world.credit(8, "1").await;
    world.caught_up().await;
    world.eventually_equal().await;
    world.heard_all(subscriber).await;
    subscriber.assert_each_once();
    assert_eq!(world.lockstep.metric("lockstep_republished_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_that_all_moved_before_a_crash_make_nothing_go_back_or_be_told_again() {
    let world = world_with_users(Setup::on(On::Cluster)).await;
    let (subscriber, cluster) = (world.subscriber().await, world.store.cluster());
    for id in 1..=USERS {
        world.credit(id, "1").await;
    }
    world.caught_up().await;
    // It writes none under a new name.
    world.lockstep.kill9();
    let fence = "lockstep:fence:{live:7}";
    let before = world.store.get(fence).await;
    let keys = world.store.keys("lockstep:checkpoint:*").await;
    assert_eq!(keys.len(), 3);
    for key in &keys {
        let from = cluster.master_of(key).await;
        let masters = cluster.masters().await;
        let to =
            masters[(masters.iter().position(|master| *master == from).unwrap_or(0) + 1) % masters.len()];
        cluster.move_slot(slot_of(key), to).await;
    }
    cluster.eventually_whole().await;
    world.lockstep.run().await;
    nothing_was_told_again(&world, &subscriber).await;
    assert!(world.store.get(fence).await >= before);
}

/// A later change of the user reaches the new master first, and does not carry the column that was lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_change_leaves_out_comes_back_too() {
    let world = world_with_users(Setup::on(On::Cluster)).await;
    let cluster = world.store.cluster();
    let lost = cluster.master_of(&config_of("live:7")).await;
    let replica = cluster.replica_of(lost).await;
    all_is_recorded_on(&world, cluster.node(replica)).await;
    cluster.node(replica).lag_behind().await;
    let long = "SELECT string_agg(md5(n::text), '') FROM generate_series(1, 400) n";
    world.sql(&format!("UPDATE users SET email = ({long}) WHERE id = 7")).await;
    all_is_recorded_on(&world, cluster.node(lost)).await;
    let (_, ()) = tokio::join!(cluster.lose_master(lost), async {
        for _ in 0..200 {
            world.sql("UPDATE users SET wallet_balance = wallet_balance + 1 WHERE id = 7").await;
        }
    });
    world.caught_up().await;
    world.eventually_equal().await;
    assert_eq!(heals(&world, "load").await, 0.0);
}

/// Rows that were read beside the stream are in no stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lost_rows_of_a_resync_is_loaded_again() {
    let world = world_with_users(Setup::on(On::Cluster)).await;
    let cluster = world.store.cluster();
    let config = config_of("live:7");
    let lost = cluster.master_of(&config).await;
    let replica = cluster.replica_of(lost).await;
    world.store.hset(&config, "leverage", "66").await;
    all_is_recorded_on(&world, cluster.node(replica)).await;
    cluster.node(replica).lag_behind().await;
    world.lockstep.succeed(&["resync", "--wait", "--user", "live:7"]).await;
    world.assert_equal().await;
    all_is_recorded_on(&world, cluster.node(lost)).await;
    cluster.lose_master(lost).await;
    world.caught_up().await;
    world.eventually_equal().await;
    was_loaded(&world).await;
}

async fn one_of(world: &World) -> &Redis {
    match world.store {
        crate::harness::Store::Single(ref redis) => redis,
        crate::harness::Store::Cluster(ref cluster) => {
            cluster.node(cluster.master_of(&config_of("live:7")).await)
        }
    }
}

/// What a restart finds: the file of a while ago, nothing since.
async fn saved_before_more(world: &World, redis: &Redis) {
    all_is_recorded_on(world, redis).await;
    redis.call(&["SAVE"]).await;
    for id in 1..=USERS {
        world.credit(id, "1").await;
    }
    world.user("live", USERS + 1, "5").await;
    world.sql("DELETE FROM users WHERE id = 9").await;
    all_is_recorded_on(world, redis).await;
}

/// Neither asks the others of a cluster: these would make a replica the master, which holds what the file has not.
fn no_failover(on: On) -> Setup {
    let mut setup = Setup::on(on);
    setup.redis.config = vec!["cluster-node-timeout 60000".into()];
    setup
}

on_both!(
    checkpoints_that_are_gone_alone_make_nothing_go_back_or_be_told_again,
    an_older_dump_that_is_restored_is_replayed,
    an_older_dump_that_is_restored_while_nothing_runs_is_replayed,
    a_flushdb_is_noticed_and_healed,
    a_redis_that_is_restarted_empty_is_filled_again,
);

async fn an_older_dump_that_is_restored_is_replayed(on: On) {
    let world = world_with_users(no_failover(on)).await;
    let redis = one_of(&world).await;
    saved_before_more(&world, redis).await;
    redis.kill9();
    redis.start_again().await;
    was_replayed(&world).await;
    world.caught_up().await;
    world.eventually_equal().await;
    world.lockstep.wait_ready().await;
    assert!(world.lockstep.metric("lockstep_republished_total").await >= 1.0);
}

async fn an_older_dump_that_is_restored_while_nothing_runs_is_replayed(on: On) {
    let world = world_with_users(no_failover(on)).await;
    let redis = one_of(&world).await;
    saved_before_more(&world, redis).await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    redis.kill9();
    redis.start_again().await;
    world.lockstep.run().await;
    world.caught_up().await;
    world.eventually_equal().await;
    assert_eq!(heals(&world, "load").await, 0.0, "the slot had kept it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_is_older_than_the_slot_goes_back_is_loaded_over() {
    let mut setup = Setup::on(On::Single);
    setup.config = "[stream]\nstatus_interval = \"100ms\"".into();
    let world = world_with_users(setup).await;
    let configuration = world.lockstep.configuration().replace("= \"5m\"", "= \"0s\"");
    world.lockstep.sigterm().await;
    world.lockstep.configure(&configuration);
    world.lockstep.run().await;
    let redis = world.store.single();
    saved_before_more(&world, redis).await;
    redis.kill9();
    redis.start_again().await;
    was_loaded(&world).await;
    world.caught_up().await;
    world.eventually_equal().await;
    world.lockstep.wait_ready().await;
    assert_eq!(world.lockstep.metric("lockstep_unpublished_total").await, 0.0, "it had been published");
}

async fn a_flushdb_is_noticed_and_healed(on: On) {
    let world = world_with_users(Setup::on(on)).await;
    one_of(&world).await.call(&["FLUSHDB"]).await;
    was_loaded(&world).await;
    world.caught_up().await;
    world.eventually_equal().await;
    world.lockstep.wait_ready().await;
}

async fn a_redis_that_is_restarted_empty_is_filled_again(on: On) {
    let world = world_with_users(no_failover(on)).await;
    let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
    workload.progress(50).await;
    let redis = one_of(&world).await;
    redis.kill9();
    redis.start_again().await;
    workload.progress(50).await;
    workload.stop().await;
    was_loaded(&world).await;
    world.caught_up().await;
    world.eventually_equal().await;
    world.lockstep.wait_ready().await;
}

pub async fn confirmed_flush(world: &World) -> u64 {
    let confirmed = world.postgres.value("SELECT confirmed_flush_lsn FROM pg_replication_slots").await;
    confirmed.as_deref().and_then(lsn).expect("a position")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_holds_stays_in_the_slot_for_the_margin_and_no_longer() {
    let world = World::running(On::Single).await;
    with_users(&world).await;
    world.credit(7, "1").await;
    all_is_recorded_on(&world, world.store.single()).await;
    let end = world.postgres.value("SELECT pg_current_wal_lsn()").await.as_deref().and_then(lsn).unwrap();
    assert!(confirmed_flush(&world).await < end, "it is not yet forgotten");
    let forgotten = async || (confirmed_flush(&world).await >= end).then_some(());
    eventually("an idle stream's margin drains", forgotten).await;
}

/// A commit that waits for a standby is streamed, and what a load reads is older.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_not_visible_yet_survives_a_loss_though_the_margin_is_over() {
    let mut setup = Setup::on(On::Single);
    setup.config = "[stream]\nstatus_interval = \"100ms\"\n[audit]\nusers_per_second = 0".into();
    let world = World::set_up(setup).await;
    with_a_margin(&world, "0s");
    world.lockstep.init().await;
    world.lockstep.run().await;
    with_users(&world).await;
    let held = world.held_commit("UPDATE users SET wallet_balance = 250 WHERE id = 7").await;
    let balance = async |of: &str| world.store.get(&format!("user_balance:live:{of}")).await;
    eventually("the commit is in redis", async || (balance("7").await? == "250").then_some(())).await;
    world.sql("SET synchronous_commit = local; UPDATE users SET wallet_balance = 350 WHERE id = 8").await;
    eventually("a later one too", async || (balance("8").await? == "350").then_some(())).await;
    all_is_recorded_on(&world, world.store.single()).await;
    let mut replies = BTreeSet::new();
    eventually("three more status updates", async || {
        replies.extend(world.postgres.value("SELECT reply_time FROM pg_stat_replication").await);
        (replies.len() > 3).then_some(())
    })
    .await;

    world.store.single().call(&["FLUSHALL"]).await;
    eventually("all users are loaded", async || (balance("8").await? == "350").then_some(())).await;
    eventually("the commit is in redis again", async || (balance("7").await? == "250").then_some(())).await;
    world.release_commits().await;
    held.await.expect("the writer");
    world.caught_up().await;
    world.eventually_equal().await;
    let end = world.postgres.value("SELECT pg_current_wal_lsn()").await.as_deref().and_then(lsn).unwrap();
    let acknowledged = async || (confirmed_flush(&world).await >= end).then_some(());
    eventually("nothing is held back any more", acknowledged).await;
}

/// Redis was emptied, then a completed transaction came, and the instance died before it noticed the loss: what it left
/// stops the row that came before, and no load sees that.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_not_visible_yet_survives_a_fence_that_came_behind_a_loss() {
    let mut setup = Setup::on(On::Single);
    setup.config = "[audit]\nforeign_writes = \"off\"\nusers_per_second = 0".into();
    let world = World::set_up(setup).await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    with_users(&world).await;
    let insert = "INSERT INTO users (id, user_type, wallet_balance) VALUES (777, 'live', 250)";
    let held = world.held_commit(insert).await;
    let balance = async |of: &str| world.store.get(&format!("user_balance:live:{of}")).await;
    eventually("the commit is in redis", async || (balance("777").await? == "250").then_some(())).await;
    world.lockstep.kill9();
    let fence = world.store.get("lockstep:fence:{live:777}").await.expect("a fence");
    let (redis, end) = (world.store.single(), world.postgres.value("SELECT pg_current_wal_lsn()").await);
    redis.call(&["FLUSHALL"]).await;
    let end = end.as_deref().and_then(lsn).expect("an LSN");
    let left = format!("{}{end:016x}00000001{}t-:", &fence[..8], "-".repeat(16));
    assert!(left > fence);
    world.store.set("lockstep:fence:{live:777}", &left).await;

    // The epoch that the next one begins with is the first, as it was that of the one before. The one after it is sent
    // the commit again, and knows it for held.
    for _ in 0..2 {
        world.lockstep.run().await;
        eventually("all users are loaded", async || balance("8").await?.parse::<u32>().ok()).await;
        assert_eq!(balance("777").await, None, "nobody sees it");
        all_is_recorded_on(&world, redis).await;
        assert_eq!(world.lockstep.metric("lockstep_quarantine_open").await, 1.0);
        world.lockstep.kill9();
    }
    world.lockstep.run().await;
    world.release_commits().await;
    held.await.expect("the writer");
    eventually("the commit is in redis again", async || (balance("777").await? == "250").then_some(())).await;
    world.caught_up().await;
    world.eventually_equal().await;
    let open = async || world.lockstep.metric("lockstep_quarantine_open").await;
    eventually("nobody is in quarantine", async || (open().await < 1.0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_back_position_delays_no_shutdown_of_postgres() {
    let world = world_with_users(Setup::on(On::Single)).await;
    for mode in [Mode::Fast, Mode::Smart] {
        world.credit(7, "1").await;
        all_is_recorded_on(&world, world.store.single()).await;
        let took = world.postgres.stop(mode).await;
        assert!(took < std::time::Duration::from_secs(5), "{mode:?}: {took:?}");
        world.postgres.start_again().await;
        world.caught_up().await;
        world.eventually_equal().await;
    }
    assert_eq!(world.lockstep.metric("lockstep_republished_total").await, 0.0);
}

/// It lies within the margin, so that the stream brings it once more.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_that_was_done_is_not_done_again_after_a_restart() {
    let world = world_with_users(Setup::on(On::Single)).await;
    world.lockstep.succeed(&["resync", "--wait"]).await;
    all_is_recorded_on(&world, world.store.single()).await;
    world.store.hset(&config_of("live:7"), "leverage", "66").await;
    world.lockstep.kill9();
    world.lockstep.run().await;
    world.caught_up().await;
    assert_eq!(world.store.keys("lockstep:asked:*").await, [] as [&str; 0]);
    assert_eq!(world.store.hash(&config_of("live:7")).await["leverage"], "66", "nobody asked for it");
}
