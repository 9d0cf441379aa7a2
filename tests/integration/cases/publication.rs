//! A publication that is dropped, or loses a table, and what has to come of it once it is whole again.

use crate::harness::{COLUMN_LISTS, On, PASSED_OVER, Setup, World, eventually, not_before, postgres_major};

/// Whoever looks after other writers would find some of what changed outside the publication before the load does.
const NO_AUDIT: &str = "[audit]\nforeign_writes = \"off\"\n";

async fn world_with_users() -> World {
    let world = World::running_as(Setup { config: NO_AUDIT.to_owned(), ..Setup::on(On::Single) }).await;
    for id in 1..=9 {
        world.user("live", id, "100").await;
    }
    world.caught_up().await;
    world
}

/// What changed while the publication was not whole reaches Redis all the same.
async fn is_whole_again(world: &World) {
    eventually("all users are loaded again", async || {
        (world.lockstep.log().matches("loading users: done").count() >= 2).then_some(())
    })
    .await;
    world.lockstep.wait_ready().await;
    world.credit(9, "1").await;
    world.caught_up().await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_publication_is_named_and_followed_again_after_init() {
    let world = world_with_users().await;
    world.sql("DROP PUBLICATION lockstep").await;
    world.credit(7, "1").await;
    let passed_over = postgres_major() >= PASSED_OVER;
    let fact = if passed_over { "does not carry public.users: run" } else { "does not exist: run" };
    world.lockstep.is_not_ready_because(fact).await;
    assert_eq!(world.lockstep.exited(), None);
    world.lockstep.init().await;
    is_whole_again(&world).await;
    let is_new = world.lockstep.log().contains("made anew");
    assert_eq!(is_new, !passed_over, "an older server's decoding fails for ever where the old slot stands");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_was_made_again_by_hand_is_followed() {
    let world = world_with_users().await;
    let tables = world.postgres.published_without("").await;
    world.sql("DROP PUBLICATION lockstep").await;
    world.credit(7, "1").await;
    let via_root = "WITH (publish_via_partition_root = true)";
    world.sql(&format!("CREATE PUBLICATION lockstep FOR TABLE {tables} {via_root}")).await;
    world.credit(8, "1").await;
    is_whole_again(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_left_the_publication_is_named_and_loaded_once_it_is_back() {
    let world = world_with_users().await;
    world.sql("ALTER PUBLICATION lockstep DROP TABLE users").await;
    world.sql("UPDATE users SET wallet_balance = 7 WHERE id = 7").await;
    world.lockstep.is_not_ready_because("does not carry public.users: run").await;
    assert_eq!(world.lockstep.metric("lockstep_unpublished_tables").await, 1.0);
    let (status, said) = world.lockstep.http("GET", "/api/redis-health/wait?lsn=0/1").await.unwrap();
    assert_eq!(status, 503, "{said}");
    assert!(said.contains("does not carry public.users"), "{said}");
    world.lockstep.init().await;
    is_whole_again(&world).await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("7"));
    assert_eq!(world.lockstep.metric("lockstep_unpublished_total").await, 1.0);
    eventually("the table is back", async || {
        (world.lockstep.metric("lockstep_unpublished_tables").await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_a_dropped_column_took_out_of_the_publication_is_loaded_once_it_is_back() {
    if not_before(COLUMN_LISTS, "a column whose end takes its table out of a publication") {
        return;
    }
    let world = world_with_users().await;
    world.sql("ALTER TABLE users DROP COLUMN account_number CASCADE").await;
    world.sql("UPDATE users SET wallet_balance = 7 WHERE id = 7").await;
    world.lockstep.is_not_ready_because("does not carry public.users: run").await;
    world.lockstep.init().await;
    is_whole_again(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_left_the_publication_and_came_back_while_nobody_looked_is_loaded_again() {
    let world = world_with_users().await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.sql("ALTER PUBLICATION lockstep DROP TABLE users").await;
    world.sql("UPDATE users SET wallet_balance = 7 WHERE id = 7").await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    is_whole_again(&world).await;
}

/// What the publication leaves out never comes: a lease that goes on would not be true.
async fn what_leaves_out_updates_is_named(leaves_out: &str, fact: &str) {
    let world = world_with_users().await;
    world.sql(leaves_out).await;
    world.sql("UPDATE users SET wallet_balance = 7 WHERE id = 7").await;
    world.lockstep.is_not_ready_because(fact).await;
    assert_eq!(world.lockstep.exited(), None);
    let over = async || (!world.store.exists("lockstep:lease").await).then_some(());
    eventually("no lease says that redis is fresh", over).await;
    let (status, said) =
        world.lockstep.http("GET", "/api/redis-health/wait?lsn=0/1&timeout_ms=0").await.unwrap();
    assert_ne!(status, 200, "{said}");
    world.lockstep.init().await;
    is_whole_again(&world).await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_carries_no_updates_any_more_is_named_and_loaded_once_it_does() {
    let inserts = "ALTER PUBLICATION lockstep SET (publish = 'insert')";
    what_leaves_out_updates_is_named(inserts, "leaves out some of insert, update").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_filter_that_somebody_gives_the_publication_is_named_and_loaded_over_once_it_is_gone() {
    if not_before(COLUMN_LISTS, "a row filter") {
        return;
    }
    let filtered = "ALTER PUBLICATION lockstep SET TABLE user_transactions, users WHERE (id < 5)";
    what_leaves_out_updates_is_named(filtered, "a row filter leaves out rows of public.users").await;
}
