//! Users of whom Redis still holds keys and the database nothing: no event tells of them.

use crate::harness::{On, Setup, World};

on_both!(
    keys_of_users_who_left_inside_a_gap_are_removed,
    keys_of_users_who_never_were_are_removed,
    a_user_who_left_before_a_stop_that_outlasts_its_fence_is_not_told_again
);

async fn keys_of_users_who_left_inside_a_gap_are_removed(on: On) {
    let world = World::running(on).await;
    for id in 1..=4 {
        world.user("live", id, "100").await;
    }
    world.caught_up().await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.sql("SELECT pg_drop_replication_slot('lockstep')").await;
    world.sql("DELETE FROM users WHERE id = 2; UPDATE users SET user_type = 'demo' WHERE id = 3").await;
    world.store.set("financial_summary:live:2:week", "computed before").await;
    world.lockstep.init().await;
    let subscriber = world.subscriber().await;
    world.lockstep.run().await;
    world.caught_up().await;
    world.assert_equal().await;
    for user in ["live:2", "live:3"] {
        let left = world.store.keys(&format!("*{user}*")).await;
        assert!(left.iter().all(|key| key.starts_with("lockstep:fence:")), "{left:?}");
    }
    assert_eq!(world.store.get("user_balance:demo:3").await.as_deref(), Some("100"));
    assert_eq!(world.lockstep.metric("lockstep_load_users_removed_total").await, 2.0);
    assert_eq!(world.lockstep.metric("lockstep_unpublished_total").await, 2.0);
    assert_eq!(subscriber.heard().len(), 0);

    world.sql("INSERT INTO users (id, user_type, wallet_balance) VALUES (2, 'live', 7)").await;
    world.credit(2, "1").await;
    world.caught_up().await;
    assert_eq!(world.store.get("user_balance:live:2").await.as_deref(), Some("8"), "a user may come back");
}

/// Applications write keys by hand, and leave them when a user goes.
async fn keys_of_users_who_never_were_are_removed(on: On) {
    let setup = Setup { config: ONLY_LIVE.to_owned(), ..Setup::on(on) };
    let world = World::set_up(setup).await;
    world.user("live", 1, "100").await;
    // Of the last three no row can be: they are no ids of the column.
    for id in ["2", "007", "99999999999", "abc"] {
        world.store.set(&format!("user_balance:live:{id}"), "5").await;
        world.store.hset(&format!("user:{{live:{id}}}:config"), "balance", "5").await;
    }
    world.store.set("user_balance:demo:2", "of a type that is not followed").await;
    world.store.set("user_sessions:live:2", "none of ours").await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.caught_up().await;
    for id in ["2", "007", "99999999999", "abc"] {
        assert!(!world.store.exists(&format!("user_balance:live:{id}")).await, "{id}");
        assert!(!world.store.exists(&format!("user:{{live:{id}}}:config")).await, "{id}");
    }
    assert_eq!(world.store.get("user_balance:live:1").await.as_deref(), Some("100"));
    assert!(world.store.exists("user_balance:demo:2").await);
    assert!(world.store.exists("user_sessions:live:2").await);
}

const ONLY_LIVE: &str = "
[[tables]]
name = \"public.users\"
kind = \"users\"
user_type = \"live\"

[[tables]]
name = \"public.user_transactions\"
kind = \"transactions\"
user_type_column = \"user_type\"
";

/// The slot goes back a margin at each start, and the fence of a user who is gone lives for a day.
async fn a_user_who_left_before_a_stop_that_outlasts_its_fence_is_not_told_again(on: On) {
    let world = World::running(on).await;
    world.user("live", 1, "100").await;
    world.user("live", 9, "100").await;
    world.credit(9, "5").await;
    world.sql("DELETE FROM users WHERE id = 9").await;
    world.caught_up().await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    let fences = world.store.keys("lockstep:fence:*live:9*").await;
    assert!(!fences.is_empty(), "there is nothing to outlast");
    for fence in &fences {
        world.store.call(fence, &["DEL", fence]).await;
    }
    let subscriber = world.subscriber().await;
    world.lockstep.run().await;
    world.credit(1, "1").await;
    let heard = world.heard_all(&subscriber).await;
    assert!(heard.iter().all(|heard| heard.user() == "live:1"), "{heard:#?}");
    world.assert_equal().await;
}
