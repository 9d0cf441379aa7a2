//! A server and its replicas, all named in `redis.url`: the master is used, whoever it is.

use super::redis_forgets::{USERS, all_is_recorded_on, was_replayed, with_a_wide_margin, with_users};
use crate::harness::{Lockstep, On, Redis, RedisOptions, Setup, Store, Subscriber, World};

/// A world whose Redis has a replica; the configuration names the replica first.
async fn with_a_replica() -> (World, Redis) {
    with_a_replica_as(with_a_wide_margin).await
}

async fn with_a_replica_as(configure: impl FnOnce(&World)) -> (World, Redis) {
    let mut world = World::set_up(Setup::on(On::Single)).await;
    let replica = Redis::start(RedisOptions::default()).await;
    replica.follow(world.store.single()).await;
    let urls = [replica.url(), world.store.single().url()];
    world.lockstep = Lockstep::new(&world.postgres.url(), &urls, "");
    configure(&world);
    world.lockstep.init().await;
    world.lockstep.run().await;
    with_users(&world).await;
    all_is_recorded_on(&world, &replica).await;
    (world, replica)
}

/// What is committed now reaches the master alone.
async fn the_replica_misses_something(world: &World, replica: &Redis) {
    replica.lag_behind().await;
    for id in 1..=USERS {
        world.credit(id, "1").await;
    }
    all_is_recorded_on(world, world.store.single()).await;
}

/// The world's Redis is the promoted one from now on; the other is returned.
fn promoted(world: &mut World, replica: Redis) -> Store {
    std::mem::replace(&mut world.store, Store::Single(replica))
}

async fn is_whole(world: &World, subscriber: &Subscriber) {
    was_replayed(world).await;
    world.credit(7, "1").await;
    world.caught_up().await;
    world.eventually_equal().await;
    world.lockstep.wait_ready().await;
    world.heard_all(subscriber).await;
    subscriber.assert_each_once();
    assert_eq!(subscriber.transactions_told("user_updates").len(), USERS as usize + 1);
    assert_eq!(world.lockstep.metric("lockstep_republished_total").await, f64::from(USERS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lagged_and_is_promoted_after_a_crash_is_found_and_gets_what_it_missed() {
    let (mut world, replica) = with_a_replica().await;
    the_replica_misses_something(&world, &replica).await;
    // It did not hear what it missed.
    let subscriber = Subscriber::start(&replica).await;
    world.store.single().kill9();
    world.lockstep.is_not_ready_because("none of the servers in redis.url that answer is a master").await;
    replica.call(&["REPLICAOF", "NO", "ONE"]).await;
    let _gone = promoted(&mut world, replica);
    is_whole(&world, &subscriber).await;
}

/// The slot has kept it for the replica, not for a margin.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_to_hold_everything_gets_what_it_missed_without_a_margin() {
    let replicated = |world: &World| {
        let asked = "[redis]\ndurability = \"replicated(1)\"\nreplay_margin = \"0s\"";
        world.lockstep.configure(&world.lockstep.configuration().replace("[redis]", asked));
    };
    let (mut world, replica) = with_a_replica_as(replicated).await;
    the_replica_misses_something(&world, &replica).await;
    world.lockstep.is_not_ready_because("0 replicas that hold what was written, not 1").await;
    let subscriber = Subscriber::start(&replica).await;
    world.store.single().kill9();
    replica.call(&["REPLICAOF", "NO", "ONE"]).await;
    let next = Redis::start(RedisOptions::default()).await;
    next.follow(&replica).await;
    let _gone = promoted(&mut world, replica);
    is_whole(&world, &subscriber).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_was_made_the_replica_of_one_that_lagged_is_left() {
    let (mut world, replica) = with_a_replica().await;
    the_replica_misses_something(&world, &replica).await;
    let subscriber = Subscriber::start(&replica).await;
    replica.call(&["REPLICAOF", "NO", "ONE"]).await;
    world.store.single().follow(&replica).await;
    let old = promoted(&mut world, replica);
    is_whole(&world, &subscriber).await;
    assert!(old.single().is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_masters_neither_is_written_until_one_follows_the_other() {
    let (mut world, replica) = with_a_replica().await;
    world.lockstep.sigterm().await;
    replica.call(&["REPLICAOF", "NO", "ONE"]).await;
    world.credit(7, "1").await;
    world.lockstep.spawn(&["run"]);
    world.lockstep.is_not_ready_because("both say that they are the master").await;
    world.store.single().follow(&replica).await;
    let _old = promoted(&mut world, replica);
    world.lockstep.wait_ready().await;
    world.caught_up().await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_that_is_asked_for_while_no_server_is_the_master_is_done_by_the_next() {
    let (mut world, replica) = with_a_replica().await;
    world.store.single().kill9();
    // At once: the question itself is to find that there is no master.
    world.lockstep.succeed(&["resync"]).await;
    world.lockstep.is_not_ready_because("none of the servers in redis.url that answer is a master").await;
    replica.call(&["REPLICAOF", "NO", "ONE"]).await;
    let _gone = promoted(&mut world, replica);
    world.lockstep.succeed(&["resync", "--wait"]).await;
    world.eventually_equal().await;
}
