//! A Redis user with no more rights than the README lists, and with less.

use crate::harness::redis::readme_user;
use crate::harness::{On, PostgresOptions, Reply, Setup, Store, World, eventually};

on_both!(the_rights_that_the_readme_lists_are_enough_for_everything);

/// A world whose configuration logs in to Redis as the user `lockstep` with these rules.
async fn world_as(on: On, rules: &str) -> World {
    world_with(on, rules, "").await
}

/// The same, with more lines of configuration.
async fn world_with(on: On, rules: &str, config: &str) -> World {
    let mut setup = Setup::on(on);
    setup.config = config.into();
    setup.redis.acl = vec!["default on nopass ~* &* +@all".into(), rules.into()];
    setup.postgres = PostgresOptions::default().set("max_slot_wal_keep_size", "1GB");
    let world = World::set_up(setup).await;
    world.lockstep.configure(&world.lockstep.configuration().replace("://127", "://lockstep:PASSWORD@127"));
    world
}

async fn the_rights_that_the_readme_lists_are_enough_for_everything(on: On) {
    let world = world_as(on, &readme_user()).await;
    world.lockstep.init().await;
    world.lockstep.succeed(&["check"]).await;
    world.user("live", 7, "100").await;
    for key in ["user_margin_calc:live:7", "user_stats:live:7", "financial_summary:live:7:all"] {
        world.store.set(key, "stale").await;
    }
    world.store.hset("user:{live:7}:portfolio", "wallet_balance", "1").await;
    world.lockstep.run().await;
    let subscriber = world.subscriber().await;
    world.credit(7, "1").await;
    world.withdraw(7, "2").await;
    world.caught_up().await;
    for (method, call) in [
        ("GET", "status"),
        ("GET", "user/7/consistency"),
        ("POST", "user/7/force-refresh"),
        ("GET", "cluster-info"),
    ] {
        let answer =
            world.lockstep.http(method, &format!("/api/redis-health/{call}")).await.expect("an answer");
        assert_eq!(answer.0, 200, "{call}: {}", answer.1);
    }
    world.user("live", 8, "5").await;
    world.sql("UPDATE users SET user_type = 'demo' WHERE id = 8").await;
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id = 7").await;
    subscriber.wait_for("user_updates", "demo:8", 1).await;
    // What was read again must not meet the next change: in a cluster its plain deletions come behind no fence.
    let said = "cannot be written";
    eventually("the user was read again", async || world.lockstep.log().contains(said).then_some(())).await;
    world.sql("UPDATE users SET wallet_balance = 3 WHERE id = 7").await;
    world.sql("DELETE FROM users WHERE id = 8").await;
    world.caught_up().await;
    world.eventually_equal().await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.lockstep.run().await;
    world.sql("TRUNCATE users CASCADE").await;
    world.caught_up().await;
    world.eventually_equal().await;
    world.lockstep.succeed(&["status"]).await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.lockstep.succeed(&["drop", "--yes"]).await;
    let nodes = match &world.store {
        Store::Single(redis) => std::slice::from_ref(redis),
        Store::Cluster(cluster) => cluster.nodes(),
    };
    for node in nodes {
        assert_eq!(node.call(&["ACL", "LOG"]).await.items(), [] as [Reply; 0], "nothing was denied");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_is_not_granted_is_refused_before_anything_is_published() {
    let world = world_as(On::Single, &readme_user().replace(" &balance_updates", "")).await;
    let subscriber = world.subscriber().await;
    world.lockstep.init().await;
    world.user("live", 7, "100").await;
    for command in ["check", "run"] {
        let ended = world.lockstep.finish(&[command]).await;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, Some(if command == "check" { 3 } else { 1 }), "{said}");
        assert!(said.contains("redis user \"lockstep\" may not: PUBLISH balance_updates: grant"), "{said}");
    }
    assert_eq!(subscriber.heard_until_now(&world.store.masters().await).await.len(), 0);
    assert_eq!(world.store.keys("*").await, [] as [&str; 0]);
    world.store.call("", &["ACL", "SETUSER", "lockstep", "&balance_updates"]).await;
    world.lockstep.run().await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_that_a_row_names_are_not_asked_for_by_their_template() {
    const KEYS: &str = "[[keys]]\nstring = 'user_balance:$type:$id'\nvalue = '$balance'\n\
        [[keys]]\npublish = 'updates.$type'\n[[keys]]\npublish = '$user_type.updates'\n\
        [[keys]]\npublish = 'group_$group'\nwhen = { group = true }\n";
    let user = readme_user().replace(
        "&user_updates &balance_updates",
        "&updates.live &updates.demo &live.updates &demo.updates &group_standard",
    );
    let world = world_with(On::Single, &user, KEYS).await;
    world.lockstep.init().await;
    world.lockstep.succeed(&["check"]).await;
    world.lockstep.run().await;
    world.user("demo", 7, "100").await;
    world.caught_up().await;
    assert_eq!(world.store.get("user_balance:demo:7").await.as_deref(), Some("100"));
    assert_eq!(world.store.call("", &["ACL", "LOG"]).await.items(), [] as [Reply; 0], "nothing was denied");
}
