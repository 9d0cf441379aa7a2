//! The migration guide, step by step, beside code that writes by hand.

use std::process::Command;

use serde_json::Value;

use super::read;
use crate::harness::subscriber::{Heard, USER_UPDATES, lsn};
use crate::harness::{On, Redis, RedisOptions, Setup, World, eventually};

const GUIDE: &str = "deploy/MIGRATION.md";
const OBSERVE: &str = "[audit]\nforeign_writes = \"observe\"\nusers_per_second = 0\n";
const HASH: &str = "user:{live:7}:config";

async fn verdicts(world: &World, verdict: &str) -> f64 {
    world.lockstep.metric(&format!("lockstep_foreign_writes_total{{verdict=\"{verdict}\"}}")).await
}

async fn is_watched(world: &World) {
    let watched =
        async || (world.lockstep.metric("lockstep_foreign_writes_watched").await == 1.0).then_some(());
    eventually("foreign writes are watched", watched).await;
}

/// The lines that the guide has people type which begin so, without the prompt and without what is said of them.
fn typed(beginning: &str) -> Vec<String> {
    let lines = read(GUIDE);
    let lines = lines.lines().filter_map(|line| line.strip_prefix("$ "));
    let lines: Vec<String> = lines
        .filter(|line| line.starts_with(beginning))
        .map(|line| line.split("  #").next().unwrap_or(line).trim().to_owned())
        .collect();
    assert!(!lines.is_empty(), "{GUIDE} has nobody type {beginning}");
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_old_code_left_is_seen_before_anything_is_set_up_observed_and_healed() {
    let world = World::set_up(Setup { config: OBSERVE.to_owned(), ..Setup::on(On::Single) }).await;
    world.user("live", 7, "100.5").await;
    world.store.hset(HASH, "wallet_balance", "66").await;
    // 1. Nothing is there yet, and nothing is written.
    let before = world.lockstep.finish(&["verify", "--users-per-second", "2000"]).await;
    assert_eq!(before.code, Some(3), "{before:?}");
    assert!(before.stdout.contains("not confirmed"), "{before:?}");
    assert_eq!(world.store.keys("*").await, [HASH]);
    // 2. and 3. The first start writes every key, and the old code goes on.
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.assert_equal().await;
    is_watched(&world).await;
    world.store.hset(HASH, "wallet_balance", "100.5").await;
    eventually("it is harmless", async || (verdicts(&world, "harmless").await > 0.0).then_some(())).await;
    world.store.hset(HASH, "wallet_balance", "77").await;
    eventually("it is observed", async || (verdicts(&world, "observed").await > 0.0).then_some(())).await;
    let observed = world.lockstep.finish(&["verify"]).await;
    assert_eq!(observed.code, Some(3), "{observed:?}");
    assert_eq!(world.store.hash(HASH).await["wallet_balance"], "77");
    // 4. The default heals.
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.lockstep.configure(&world.lockstep.configuration().replace("\"observe\"", "\"heal\""));
    world.lockstep.run().await;
    world.lockstep.succeed(&["verify", "--repair"]).await;
    world.lockstep.succeed(&["verify"]).await;
    is_watched(&world).await;
    world.store.hset(HASH, "wallet_balance", "77").await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_hsets_what_it_hears_changes_nothing_and_one_that_is_late_is_healed() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    is_watched(&world).await;
    let subscriber = world.subscriber().await;
    world.credit(7, "5").await;
    world.credit(7, "6").await;
    world.heard_all(&subscriber).await;
    let heard = subscriber.of(USER_UPDATES, "live:7");
    assert_eq!(heard.len(), 2, "{heard:#?}");
    let hset = async |event: &Heard| {
        let fields = event.json["updated_fields"].as_object().expect("fields").clone();
        for (name, value) in fields {
            assert!(!value.is_null() && !value.is_object() && !value.is_array(), "{name} {value}");
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            world.store.hset(HASH, &name, &text).await;
        }
    };
    let before = world.store.hash(HASH).await;
    hset(&heard[1]).await;
    assert_eq!(world.store.hash(HASH).await, before);
    assert!(heard[0].commit_lsn() < heard[1].commit_lsn());
    hset(&heard[0]).await;
    eventually("it is healed", async || (verdicts(&world, "healed").await > 0.0).then_some(())).await;
    world.eventually_equal().await;
    assert_eq!(world.store.hash(HASH).await["balance"], "111");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_shows_the_lease_only_while_it_holds_what_the_lease_speaks_of() {
    const LEASE: &str = "lockstep:lease";
    const BALANCE: &str = "user_balance:live:7";
    let world = World::running(On::Single).await;
    let replica = Redis::start(RedisOptions::default()).await;
    replica.follow(world.store.single()).await;
    world.user("live", 7, "100").await;
    let committed = world.postgres.value("SELECT pg_current_wal_lsn()").await.unwrap();
    eventually("the replica's lease speaks of the commit", async || {
        let lease: Value = serde_json::from_str(&replica.get(LEASE).await?).unwrap();
        (lsn(lease["position"].as_str()?) >= lsn(&committed)).then_some(())
    })
    .await;
    assert_eq!(replica.get(BALANCE).await.as_deref(), Some("100"));
    replica.lag_behind().await;
    world.credit(7, "5").await;
    world.caught_up().await;
    eventually("its lease runs out", async || (!replica.exists(LEASE).await).then_some(())).await;
    assert_eq!(replica.get(BALANCE).await.as_deref(), Some("100"));
    eventually("the master's is renewed", async || world.store.exists(LEASE).await.then_some(())).await;
    assert_eq!(world.store.get(BALANCE).await.as_deref(), Some("105"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_leaves_nothing_of_lockstep_in_either_server() {
    for on in [On::Single, On::Cluster] {
        let world = World::set_up(Setup::on(on)).await;
        world.user("live", 7, "100.5").await;
        world.user("demo", 8, "1").await;
        world.lockstep.succeed(&["init", "--role", "lockstep"]).await;
        world.lockstep.run().await;
        world.caught_up().await;
        assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
        world.lockstep.succeed(&["drop", "--yes"]).await;
        for line in typed("psql") {
            world.sql(line.split('"').nth(1).expect("SQL")).await;
        }
        assert!(!world.store.keys("lockstep:*").await.is_empty());
        let [scan, user] = <[String; 2]>::try_from(typed("redis-cli")).expect("two lines");
        assert_eq!(user, "redis-cli ACL DELUSER lockstep");
        for master in world.store.masters().await {
            let line = scan.replace("redis-cli", &format!("redis-cli -p {}", master.port()));
            let output = Command::new("bash").args(["-euo", "pipefail", "-c", &line]).output().expect("bash");
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        assert!(world.store.keys("lockstep:*").await.is_empty());
        assert_eq!(world.store.hash(HASH).await["wallet_balance"], "100.5");
        let left = "
            SELECT rolname::text FROM pg_roles WHERE rolname = 'lockstep'
            UNION ALL SELECT slot_name FROM pg_replication_slots UNION ALL SELECT pubname FROM pg_publication
            UNION ALL SELECT relname FROM pg_class WHERE relname LIKE 'lockstep%'
            UNION ALL SELECT relname FROM pg_class WHERE relreplident = 'i'";
        assert_eq!(world.postgres.rows(left).await, Vec::<Vec<Option<String>>>::new());
    }
}
