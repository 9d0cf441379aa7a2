//! Redis answers something else than OK, is emptied, or moves slots and masters, while the program runs.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::resp::slot_of;
use crate::harness::workload::Workload;
use crate::harness::{On, Redis, RedisOptions, Resp, Setup, Store, Subscriber, World, eventually};

on_both!(
    redis_that_comes_back_empty_is_filled_again,
    a_flush_while_all_is_quiet_is_noticed_and_healed,
    a_flush_under_load_is_healed,
);

const USERS: u32 = 200;

async fn world_with_users(setup: Setup) -> World {
    let world = World::running_as(setup).await;
    let users = format!("SELECT n, 'live', 1000 FROM generate_series(1, {USERS}) n");
    world.sql(&format!("INSERT INTO users (id, user_type, wallet_balance) {users}")).await;
    world.eventually_equal().await;
    world
}

/// `/readyz` says that Redis is the reason, in one of these words.
async fn is_not_ready_because(world: &World, words: &[&str]) {
    eventually(&format!("/readyz names one of {words:?}"), async || {
        let (status, body) = world.lockstep.http("GET", "/readyz").await.ok()?;
        (status == 503 && words.iter().any(|word| body.contains(word))).then_some(())
    })
    .await;
}

/// All is well again: ready, every key equal, every event told once.
async fn is_whole_again(world: &World, subscriber: &Subscriber) {
    world.lockstep.wait_ready().await;
    world.caught_up().await;
    world.eventually_equal().await;
    subscriber.assert_each_once();
    subscriber.assert_commit_order();
}

async fn must(connection: &mut Resp, command: &[&str]) {
    connection.call(command).await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_out_of_memory_is_named_and_holds_nothing_stale() {
    let world = world_with_users(Setup::on(On::Single)).await;
    let subscriber = world.subscriber().await;
    world.store.call("", &["CONFIG", "SET", "maxmemory", "1"]).await;
    world.credit(7, "1").await;
    is_not_ready_because(&world, &["out of memory"]).await;
    eventually("the stale balance is gone", async || {
        (!world.store.exists("user_balance:live:7").await).then_some(())
    })
    .await;
    world.store.call("", &["CONFIG", "SET", "maxmemory", "0"]).await;
    is_whole_again(&world, &subscriber).await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("1001"));
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory_a_completed_row_takes_nothing_but_its_own_fields() {
    let world = world_with_users(Setup::on(On::Single)).await;
    let complete = async |id: &str| {
        let columns = "transaction_id, user_id, user_type, type, amount, status";
        let values = format!("('{id}', 7, 'live', 'swap', -0.5, 'completed')");
        world.sql(&format!("INSERT INTO user_transactions ({columns}) VALUES {values}")).await;
    };
    complete("S1").await;
    world.eventually_equal().await;
    let subscriber = world.subscriber().await;
    world.store.call("", &["CONFIG", "SET", "maxmemory", "1"]).await;
    complete("S2").await;
    eventually("the stale field is gone", async || {
        let config = world.store.hash("user:{live:7}:config").await;
        (!config.contains_key("last_transaction_id") && config.contains_key("balance")).then_some(())
    })
    .await;
    world.store.call("", &["CONFIG", "SET", "maxmemory", "0"]).await;
    is_whole_again(&world, &subscriber).await;
    let config = world.store.hash("user:{live:7}:config").await;
    assert_eq!((config["last_transaction_id"].as_str(), config["balance"].as_str()), ("S2", "1000"));
}

/// Out of line, and so not sent with a change of anything else.
#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory_a_change_takes_no_value_that_it_does_not_send() {
    let world = world_with_users(Setup::on(On::Single)).await;
    world.sql("ALTER TABLE users ALTER COLUMN email SET STORAGE EXTERNAL").await;
    world.sql("UPDATE users SET email = repeat('x', 3000) WHERE id = 7").await;
    world.eventually_equal().await;
    let subscriber = world.subscriber().await;
    world.store.call("", &["CONFIG", "SET", "maxmemory", "1"]).await;
    world.sql("UPDATE users SET wallet_balance = 1250 WHERE id = 7").await;
    eventually("the stale balance is gone", async || {
        let config = world.store.hash("user:{live:7}:config").await;
        (!config.contains_key("balance") && config.contains_key("email")).then_some(())
    })
    .await;
    assert!(!world.store.exists("user_balance:live:7").await);
    world.store.call("", &["CONFIG", "SET", "maxmemory", "0"]).await;
    is_whole_again(&world, &subscriber).await;
    assert_eq!(world.store.hash("user:{live:7}:config").await["balance"], "1250");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_became_a_replica_is_waited_for() {
    let world = world_with_users(Setup::on(On::Single)).await;
    // It holds the same data, so that following it takes nothing away.
    let other = Redis::start(RedisOptions::default()).await;
    let redis = world.store.single();
    other.follow(redis).await;
    other.call(&["REPLICAOF", "NO", "ONE"]).await;
    redis.follow(&other).await;
    world.credit(7, "1").await;
    // While it copied its master it may have been loading.
    eventually("a write is refused by the replica", async || {
        let refused = world.lockstep.metric("lockstep_redis_operations_total{outcome=\"readonly\"}").await;
        (refused >= 1.0).then_some(())
    })
    .await;
    is_not_ready_because(&world, &["replica"]).await;
    redis.call(&["REPLICAOF", "NO", "ONE"]).await;
    world.lockstep.wait_ready().await;
    world.eventually_equal().await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("1001"));
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_is_loading_is_waited_for() {
    let mut setup = Setup::on(On::Single);
    setup.redis.append_only = true;
    setup.redis.config =
        vec!["key-load-delay 1000".into(), "loading-process-events-interval-bytes 1024".into()];
    let world = world_with_users(setup).await;
    let redis = world.store.single();
    let says = async |line: &str| {
        eventually(line, async || redis.call(&["INFO"]).await.text()?.contains(line).then_some(())).await;
    };
    redis.call(&["DEBUG", "POPULATE", "2000"]).await;
    redis.call(&["BGREWRITEAOF"]).await;
    says("aof_rewrite_in_progress:0").await;
    let mut loader = redis.client().await;
    let loaded = tokio::spawn(async move { loader.call(&["DEBUG", "LOADAOF"]).await });
    says("\nloading:1").await;
    world.credit(7, "1").await;
    is_not_ready_because(&world, &["loading"]).await;
    loaded.await.unwrap().unwrap();
    world.lockstep.wait_ready().await;
    world.eventually_equal().await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("1001"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_changed_is_named_and_waited_for() {
    let mut setup = Setup::on(On::Single);
    setup.redis.password = Some("right".into());
    let world = world_with_users(setup).await;
    let subscriber = world.subscriber().await;
    let mut admin = world.store.single().client().await;
    must(&mut admin, &["CONFIG", "SET", "requirepass", "hunter2"]).await;
    must(&mut admin, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    world.credit(7, "1").await;
    is_not_ready_because(&world, &["password", "WRONGPASS", "NOAUTH"]).await;
    must(&mut admin, &["CONFIG", "SET", "requirepass", "right"]).await;
    is_whole_again(&world, &subscriber).await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("1001"));
    assert!(!world.lockstep.log().contains("hunter2") && !world.lockstep.log().contains("right@"));
}

async fn redis_that_comes_back_empty_is_filled_again(on: On) {
    let world = world_with_users(Setup::on(on)).await;
    let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
    workload.progress(50).await;
    let emptied = one_master(&world).await;
    emptied.kill9();
    workload.progress(20).await;
    emptied.start_again().await;
    workload.progress(50).await;
    workload.stop().await;
    world.caught_up().await;
    world.eventually_equal().await;
    world.lockstep.wait_ready().await;
}

/// The only Redis, or one of a cluster's.
async fn one_master(world: &World) -> &Redis {
    match &world.store {
        Store::Single(redis) => redis,
        Store::Cluster(cluster) => cluster.node(cluster.master_of("user_balance:live:7").await),
    }
}

/// Nothing is sent that would fail: only the checkpoint is missed.
async fn a_flush_while_all_is_quiet_is_noticed_and_healed(on: On) {
    let world = world_with_users(Setup::on(on)).await;
    world.caught_up().await;
    one_master(&world).await.call(&["FLUSHALL"]).await;
    world.eventually_equal().await;
    world.lockstep.wait_ready().await;
}

async fn a_flush_under_load_is_healed(on: On) {
    let world = world_with_users(Setup::on(on)).await;
    let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
    workload.progress(50).await;
    one_master(&world).await.call(&["FLUSHALL"]).await;
    workload.progress(50).await;
    workload.stop().await;
    world.caught_up().await;
    world.eventually_equal().await;
    world.lockstep.wait_ready().await;
}

/// With the epoch's own node: the others' fences must go on to stop what is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_of_one_master_doubles_no_event_of_the_others() {
    let world = world_with_users(Setup::on(On::Cluster)).await;
    let (subscriber, cluster) = (world.subscriber().await, world.store.cluster());
    let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
    workload.progress(50).await;
    let flushed = cluster.master_of("lockstep:epoch").await;
    cluster.node(flushed).call(&["FLUSHALL"]).await;
    workload.progress(50).await;
    eventually("the loss was noticed", async || {
        world.lockstep.log().contains("lost what it held").then_some(())
    })
    .await;
    workload.stop().await;
    world.caught_up().await;
    world.eventually_equal().await;
    let mut seen = BTreeSet::new();
    for heard in world.heard_all(&subscriber).await {
        if cluster.master_of(&format!("{{{}}}", heard.user())).await != flushed {
            let event = (heard.channel.clone(), heard.text("event_id").to_owned());
            assert!(seen.insert(event), "published twice: {}", heard.payload);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_epoch_begins_where_nobody_tells_of_which_history_the_fences_are() {
    let world = world_with_users(Setup::on(On::Single)).await;
    world.store.single().call(&["FLUSHALL"]).await;
    world.eventually_equal().await;
    world.lockstep.wait_ready().await;
    let epoch = async || world.store.get("lockstep:epoch").await;
    assert_eq!(epoch().await.as_deref(), Some("2"), "redis was emptied");
    let forget = async || {
        for key in world.store.keys("lockstep:checkpoint:*").await {
            world.store.call(&key, &["DEL", &key]).await;
        }
    };
    forget().await;
    eventually("it is noticed", async || {
        (super::redis_forgets::heals(&world, "load").await > 1.0).then_some(())
    })
    .await;
    world.eventually_equal().await;
    world.lockstep.wait_ready().await;
    assert_eq!(epoch().await.as_deref(), Some("2"), "who wrote the fences tells");
    world.lockstep.kill9();
    forget().await;
    world.lockstep.run().await;
    world.eventually_equal().await;
    assert_eq!(epoch().await.as_deref(), Some("3"), "who wrote them is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_whose_node_forgot_it_is_known_to_the_others() {
    let world = World::set_up(Setup::on(On::Cluster)).await;
    world.store.set("lockstep:epoch", "5").await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    let epoch = world.store.get("lockstep:epoch").await;
    let fence = "lockstep:fence:{live:7}";
    let before = world.store.get(fence).await.unwrap_or_default();
    assert_eq!(epoch.as_deref(), Some("6"), "no checkpoint told of which history 5 was");
    world.lockstep.kill9();
    let cluster = world.store.cluster();
    cluster.node(cluster.master_of("lockstep:epoch").await).call(&["FLUSHALL"]).await;
    world.lockstep.run().await;
    world.eventually_equal().await;
    assert_eq!(world.store.get("lockstep:epoch").await, epoch);
    let after = world.store.get(fence).await;
    assert!(after.as_deref().is_some_and(|after| after >= before.as_str()), "{after:?} after {before}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_redis_takes_no_checkpoint_asks_it_only_now_and_then() {
    let world = world_with_users(Setup::on(On::Single)).await;
    world.caught_up().await;
    world.store.call("", &["CONFIG", "SET", "maxmemory", "1"]).await;
    // Nothing that touches a key: only the position moves on.
    world.caught_up().await;
    world.store.call("", &["CONFIG", "RESETSTAT"]).await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    let asked = world.store.call("", &["INFO", "commandstats"]).await.text().unwrap_or_default();
    let refused = asked.lines().find(|line| line.starts_with("cmdstat_set:")).unwrap_or_default();
    let refused = refused.split("rejected_calls=").nth(1).and_then(|rest| rest.split(',').next());
    let refused: u32 = refused.and_then(|count| count.parse().ok()).unwrap_or(0);
    assert!((1..=100).contains(&refused), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_move_under_load_lose_and_double_nothing() {
    let world = world_with_users(Setup::on(On::Cluster)).await;
    let (subscriber, cluster) = (world.subscriber().await, world.store.cluster());
    let workload = Workload::start(&world.postgres, 3, 1, USERS).await;
    for key in ["user:{live:7}:config", "user_balance:live:7", "user:{live:8}:config"] {
        let from = cluster.master_of(key).await;
        let to = cluster.masters().await.into_iter().find(|master| *master != from).expect("another master");
        workload.progress(50).await;
        cluster.move_slot(slot_of(key), to).await;
    }
    workload.progress(50).await;
    workload.stop().await;
    is_whole_again(&world, &subscriber).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_failover_under_load_loses_and_doubles_nothing() {
    let world = world_with_users(Setup::on(On::Cluster)).await;
    let (subscriber, cluster) = (world.subscriber().await, world.store.cluster());
    let workload = Workload::start(&world.postgres, 3, 1, USERS).await;
    workload.progress(100).await;
    cluster.failover(cluster.master_of("user:{live:7}:config").await).await;
    workload.progress(100).await;
    workload.stop().await;
    is_whole_again(&world, &subscriber).await;
}

/// No replica takes over: the cluster serves nothing until the shard is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_lost_a_shard_is_waited_for() {
    let mut setup = Setup::on(On::Cluster);
    setup.redis.config = vec!["cluster-require-full-coverage yes".into()];
    setup.redis.append_only = true;
    setup.config = "[stream]\nstatus_interval = \"500ms\"".into();
    let world = world_with_users(setup).await;
    let (subscriber, cluster) = (world.subscriber().await, world.store.cluster());
    let master = cluster.master_of("user:{live:7}:config").await;
    let replica = cluster.replica_of(master).await;
    [replica, master].iter().for_each(|node| cluster.node(*node).kill9());
    let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
    workload.progress(100).await;
    eventually("the other shards serve nothing", async || {
        let other = cluster.nodes().iter().find(|node| node.is_running())?;
        let info = other.call(&["CLUSTER", "INFO"]).await.text()?;
        info.contains("cluster_state:fail").then_some(())
    })
    .await;
    workload.progress(50).await;
    workload.stop().await;
    is_not_ready_because(&world, &["refused", "clusterdown"]).await;
    is_heard_by_postgres(&world).await;
    for node in [master, replica] {
        cluster.node(node).start_again().await;
    }
    is_whole_again(&world, &subscriber).await;
}

/// Every connection stays open; only the answer is CLUSTERDOWN.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_says_it_is_down_is_waited_for() {
    let mut setup = Setup::on(On::Cluster);
    setup.redis.config = vec!["cluster-require-full-coverage yes".into()];
    setup.config = "[stream]\nstatus_interval = \"500ms\"".into();
    let world = world_with_users(setup).await;
    let (subscriber, cluster) = (world.subscriber().await, world.store.cluster());
    let slot = slot_of("nobody's").to_string();
    let owner = cluster.master_of("nobody's").await;
    for node in cluster.nodes() {
        node.call(&["CLUSTER", "DELSLOTS", &slot]).await;
    }
    world.credit(7, "1").await;
    is_not_ready_because(&world, &["clusterdown"]).await;
    is_heard_by_postgres(&world).await;
    cluster.node(owner).call(&["CLUSTER", "ADDSLOTS", &slot]).await;
    is_whole_again(&world, &subscriber).await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("1001"));
}

/// The same stream goes on telling the server that it lives, though nothing reaches Redis.
async fn is_heard_by_postgres(world: &World) {
    let query = "SELECT pid, reply_time FROM pg_stat_replication WHERE state = 'streaming'";
    let status = async || {
        let row = world.postgres.rows(query).await.pop()?;
        Some((row[0].clone()?, row[1].clone()?))
    };
    let (stream, mut heard) = status().await.expect("a stream");
    for _ in 0..3 {
        heard = eventually("the server hears of it", async || {
            let (pid, now) = status().await?;
            assert_eq!(pid, stream, "the same stream");
            (now > heard).then_some(now)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_dies_under_load_is_replaced_and_redis_equals_the_database() {
    let world = world_with_users(Setup::on(On::Cluster)).await;
    let cluster = world.store.cluster();
    let workload = Workload::start(&world.postgres, 3, 1, USERS).await;
    workload.progress(100).await;
    cluster.lose_master(cluster.master_of("user:{live:7}:config").await).await;
    workload.progress(100).await;
    workload.stop().await;
    // What the dead master had not yet replicated is lost with it, fences too: it comes again.
    world.lockstep.wait_ready_within(Duration::from_secs(90)).await;
    world.caught_up().await;
    world.eventually_equal().await;
}
