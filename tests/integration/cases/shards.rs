//! `postgres.shards`: several slots, each with a process that follows its part of the users.

use crate::cases::config_of;
use crate::harness::subscriber::{BALANCE_UPDATES, USER_UPDATES};
use crate::harness::{
    COLUMN_LISTS, Lockstep, On, PATIENCE, Setup, Subscriber, World, eventually, not_before,
};

on_both!(each_change_is_told_by_the_shard_of_its_user, a_foreign_write_is_healed_by_the_shard_of_its_user);

/// Two shards, not yet running, and whoever has the world's own configuration runs nowhere.
async fn two(world: &World) -> [Lockstep; 2] {
    let shards = [world.shard(0, 2), world.shard(1, 2)];
    for shard in &shards {
        shard.init().await;
    }
    shards
}

async fn run(shards: &[Lockstep]) {
    for shard in shards {
        shard.run().await;
    }
}

async fn caught_up(world: &World, shards: &[Lockstep]) {
    for shard in shards {
        world.caught_up_by(shard, PATIENCE).await;
    }
}

async fn equal(world: &World, shards: &[Lockstep]) {
    caught_up(world, shards).await;
    world.assert_equal().await;
}

/// Everybody on both channels as often as this, in the order of the commits.
async fn told(subscriber: &Subscriber, user: &str, times: usize) {
    for channel in [USER_UPDATES, BALANCE_UPDATES] {
        subscriber.wait_for(channel, user, times).await;
    }
}

async fn each_change_is_told_by_the_shard_of_its_user(on: On) {
    let world = World::set_up(Setup::on(on)).await;
    let shards = two(&world).await;
    run(&shards).await;
    let subscriber = world.subscriber().await;
    for id in 1..=6 {
        world.user("live", id, "100").await;
        world.credit(id, "2.5").await;
    }
    world.sql("UPDATE users SET wallet_balance = wallet_balance + 1").await;
    world.sql("DELETE FROM users WHERE id = 3").await;
    // Out of one part and into the other.
    world.sql("UPDATE users SET id = 7 WHERE id = 4").await;
    for user in ["live:1", "live:2", "live:5", "live:6"] {
        told(&subscriber, user, 3).await;
    }
    told(&subscriber, "live:7", 1).await;
    for gone in ["live:3", "live:4"] {
        subscriber.wait_for(BALANCE_UPDATES, gone, 4).await;
    }
    equal(&world, &shards).await;
    subscriber.assert_each_once();
    subscriber.assert_commit_order();
    for (shard, events) in shards.iter().zip([10.0, 11.0]) {
        let all = shard.metrics().await.unwrap();
        let counted: f64 = all
            .iter()
            .filter(|(name, _)| name.starts_with("lockstep_events_total{"))
            .map(|(_, value)| value)
            .sum();
        assert_eq!(counted, events);
    }
    let told = subscriber.heard().len();
    world.sql("TRUNCATE users CASCADE").await;
    eventually("everybody left is told of", async || (subscriber.heard().len() >= told + 5).then_some(()))
        .await;
    equal(&world, &shards).await;
    subscriber.assert_each_once();
}

async fn a_foreign_write_is_healed_by_the_shard_of_its_user(on: On) {
    let config = "[audit]\nusers_per_second = 0\n".to_owned();
    let world = World::set_up(Setup { config, ..Setup::on(on) }).await;
    let shards = two(&world).await;
    run(&shards).await;
    for id in 1..=4 {
        world.user("live", id, "100").await;
    }
    equal(&world, &shards).await;
    for shard in &shards {
        let watched = async || (shard.metric("lockstep_foreign_writes_watched").await == 1.0).then_some(());
        eventually("foreign writes are watched", watched).await;
    }
    let healed =
        async |shard: &Lockstep| shard.metric("lockstep_foreign_writes_total{verdict=\"healed\"}").await;
    for id in [1, 2, 3] {
        world.store.hset(&config_of(&format!("live:{id}")), "balance", "66").await;
    }
    eventually("both have healed theirs", async || {
        (healed(&shards[0]).await == 1.0 && healed(&shards[1]).await == 2.0).then_some(())
    })
    .await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_sends_a_shard_no_row_of_anothers_user() {
    if not_before(COLUMN_LISTS, "a filter of rows") {
        return;
    }
    let world = World::set_up(Setup::on(On::Single)).await;
    let shards = two(&world).await;
    let filter = "SELECT rowfilter FROM pg_publication_tables WHERE tablename = 'users' AND pubname = ";
    let of = async |publication: &str| world.postgres.value(&format!("{filter}'{publication}'")).await;
    assert_eq!(of("lockstep_1of2").await.as_deref(), Some("((((id % 2) + 2) % 2) = 1)"));
    run(&shards).await;
    let received = async |shard: &Lockstep| shard.metric("lockstep_transactions_total").await;
    let before = [received(&shards[0]).await, received(&shards[1]).await];
    let insert = "INSERT INTO users (id, user_type, wallet_balance) VALUES (n, 'live', n); COMMIT";
    world.sql(&format!("DO $$ BEGIN FOR n IN -9..9 LOOP {insert}; END LOOP; END $$")).await;
    equal(&world, &shards).await;
    let after = [received(&shards[0]).await, received(&shards[1]).await];
    // Each has also received the two marks of those who wait here.
    assert_eq!([after[0] - before[0], after[1] - before[1]], [11.0, 12.0]);
    // What is the rows' own is not changed by them: no column of the filter may be missing from what WAL tells of old rows.
    world.sql("UPDATE users SET wallet_balance = 5; DELETE FROM users WHERE id < 0").await;
    equal(&world, &shards).await;
    for shard in &shards {
        assert!(shard.succeed(&["check"]).await.contains("2 tables are published"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_missing_is_warned_of_and_another_one_refused() {
    if not_before(COLUMN_LISTS, "a filter of rows") {
        return;
    }
    let world = World::set_up(Setup::on(On::Single)).await;
    let shard = world.shard(1, 2);
    shard.init().await;
    let publish = async |filter: &str| {
        let table = format!("users (id, user_type, wallet_balance) {filter}, user_transactions");
        world.sql(&format!("ALTER PUBLICATION lockstep_1of2 SET TABLE {table}")).await;
        shard.finish(&["check"]).await
    };
    let checked = publish("").await;
    assert!(
        checked.stdout.contains("rows of public.users that other shards follow are sent as well"),
        "{checked:?}"
    );
    let checked = publish("WHERE (id % 2 = 0)").await;
    assert!(checked.stdout.contains("a row filter leaves out rows of public.users"), "{checked:?}");
    assert_eq!(checked.code, Some(3));
    shard.init().await;
    assert!(shard.succeed(&["check"]).await.contains("2 tables are published"));
}

/// The server prints one as it understands it: with casts, where numbers are of another type than the ids.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_is_known_again_whatever_integers_the_ids_are() {
    if not_before(COLUMN_LISTS, "a filter of rows") {
        return;
    }
    for id in ["smallint", "integer", "bigint"] {
        let schema = format!("CREATE TABLE users (\"Id\" {id} PRIMARY KEY, wallet_balance numeric(18,6))");
        let users = "name = \"users\"\nkind = \"users\"\nuser_type = \"live\"\nid_column = \"Id\"";
        let config = format!("[[tables]]\n{users}\n");
        let world = World::set_up(Setup { schema: Some(schema), config, ..Setup::on(On::Single) }).await;
        let shard = world.shard(1, 2);
        shard.init().await;
        let filter = "SELECT rowfilter FROM pg_publication_tables WHERE pubname = 'lockstep_1of2'";
        let filter = world.postgres.value(filter).await.expect("a filter");
        let again = shard.succeed(&["init"]).await;
        assert!(again.contains("publication lockstep_1of2: already there"), "{filter}: {again}");
        assert!(shard.succeed(&["check"]).await.contains("1 tables are published"), "{filter}");
    }
}

/// SQL cannot say whose these ids are: every row is sent to both, and each passes over the other's.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_no_integers_are_split_as_well() {
    let schema =
        "CREATE TABLE users (id uuid PRIMARY KEY, user_type text NOT NULL, wallet_balance numeric(18,6))";
    let config = "[[tables]]\nname = \"users\"\nkind = \"users\"\nuser_type_column = \"user_type\"\n";
    let setup = Setup { schema: Some(schema.into()), config: config.into(), ..Setup::on(On::Single) };
    let world = World::set_up(setup).await;
    world.sql("INSERT INTO users SELECT gen_random_uuid(), 'live', n FROM generate_series(1, 50) n").await;
    let shards = two(&world).await;
    run(&shards).await;
    equal(&world, &shards).await;
    let subscriber = world.subscriber().await;
    world.sql("UPDATE users SET wallet_balance = wallet_balance + 1").await;
    equal(&world, &shards).await;
    let heard = subscriber.heard_until_now(&world.store.masters().await).await;
    assert_eq!(heard.len(), 100, "each on both channels");
    subscriber.assert_each_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_and_a_resync_are_about_the_users_of_the_shard() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world.sql("INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', n FROM generate_series(1, 3000) n").await;
    let shards = two(&world).await;
    run(&shards).await;
    equal(&world, &shards).await;
    for shard in &shards {
        assert!(shard.log().contains("loading users: done users=1500"), "{}", shard.log());
    }
    for id in [9_001, 9_002] {
        world.store.set(&format!("user_balance:live:{id}"), "5").await;
    }
    shards[0].kill9();
    shards[1].succeed(&["resync"]).await;
    let gone = async || (!world.store.exists("user_balance:live:9001").await).then_some(());
    eventually("the key of nobody is gone", gone).await;
    assert!(world.store.exists("user_balance:live:9002").await, "it is of the other shard");
    shards[0].run().await;
    shards[0].succeed(&["resync"]).await;
    let gone = async || (!world.store.exists("user_balance:live:9002").await).then_some(());
    eventually("the key of nobody is gone", gone).await;
    for shard in &shards {
        assert!(shard.succeed(&["verify", "--json"]).await.contains("1500"));
    }
    world.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_away_holds_no_other_up() {
    let world = World::set_up(Setup::on(On::Single)).await;
    for id in 1..=4 {
        world.user("live", id, "100").await;
    }
    let shards = two(&world).await;
    run(&shards).await;
    equal(&world, &shards).await;
    let subscriber = world.subscriber().await;
    shards[0].kill9();
    world.sql("UPDATE users SET wallet_balance = 250").await;
    caught_up(&world, &shards[1..]).await;
    let balance = async |id: u32| world.store.get(&format!("user_balance:live:{id}")).await.unwrap();
    assert_eq!([balance(1).await, balance(2).await, balance(3).await], ["250", "100", "250"]);
    let (status, said) =
        shards[1].http("GET", "/api/redis-health/user/2/consistency?userType=live").await.unwrap();
    assert_eq!(status, 400, "{said}");
    assert!(said.contains("userId is followed by shard 0 of 2, and this is shard 1"), "{said}");
    shards[0].run().await;
    equal(&world, &shards).await;
    for id in 1..=4 {
        told(&subscriber, &format!("live:{id}"), 1).await;
    }
    subscriber.assert_each_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_becomes_two() {
    let world = World::running(On::Single).await;
    for id in 1..=6 {
        world.user("live", id, "100").await;
    }
    world.credit(1, "5").await;
    world.caught_up().await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.lockstep.succeed(&["drop", "--yes"]).await;
    world
        .sql("UPDATE users SET wallet_balance = 70 WHERE id IN (1, 2); DELETE FROM users WHERE id = 3")
        .await;
    let shards = two(&world).await;
    run(&shards).await;
    equal(&world, &shards).await;
    let subscriber = world.subscriber().await;
    world.sql("UPDATE users SET wallet_balance = 80").await;
    equal(&world, &shards).await;
    for id in [1, 2, 4, 5, 6] {
        told(&subscriber, &format!("live:{id}"), 1).await;
    }
    subscriber.assert_each_once();
}

/// Each begins an epoch of fences, and none passes another's: what is sent again is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_starts_again_publishes_nothing_again() {
    let world = World::set_up(Setup::on(On::Single)).await;
    let shards = two(&world).await;
    run(&shards).await;
    let subscriber = world.subscriber().await;
    for id in 1..=4 {
        world.user("live", id, "100").await;
    }
    equal(&world, &shards).await;
    let epoch = async |slot: &str| world.store.get(&format!("lockstep:epoch:{slot}")).await;
    let begun = [epoch("lockstep_0of2").await, epoch("lockstep_1of2").await];
    for n in 1..=5 {
        world.sql("UPDATE users SET wallet_balance = wallet_balance + 1").await;
        for id in 1..=4 {
            subscriber.wait_for(BALANCE_UPDATES, &format!("live:{id}"), n + 1).await;
        }
        for shard in &shards {
            shard.kill9();
            shard.run().await;
        }
    }
    equal(&world, &shards).await;
    subscriber.assert_each_once();
    assert_eq!([epoch("lockstep_0of2").await, epoch("lockstep_1of2").await], begun);
    let highest = world.store.get("lockstep:epoch").await;
    assert_eq!(highest, begun.into_iter().max().flatten(), "whoever comes later begins past all of them");
}

/// The replica identity is everybody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_dropped_leaves_the_others_what_they_need() {
    let world = World::set_up(Setup::on(On::Single)).await;
    let shards = two(&world).await;
    shards[1].run().await;
    for id in 1..=4 {
        world.user("live", id, "100").await;
    }
    caught_up(&world, &shards[1..]).await;
    shards[0].succeed(&["drop", "--yes"]).await;
    world.sql("DELETE FROM users WHERE id = 3; UPDATE users SET wallet_balance = 5").await;
    caught_up(&world, &shards[1..]).await;
    assert!(
        !world.store.exists("user_balance:live:3").await && world.store.exists("user_balance:live:1").await
    );
    let identity = "SELECT relreplident FROM pg_class WHERE oid = 'users'::regclass";
    assert_eq!(world.postgres.value(identity).await.as_deref(), Some("i"));
    shards[1].kill9();
    shards[1].succeed(&["drop", "--yes"]).await;
    assert_eq!(world.postgres.value(identity).await.as_deref(), Some("d"), "the last one takes it along");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_of_another_shards_user_is_refused() {
    let world = World::set_up(Setup::on(On::Single)).await;
    let refused = world.shard(1, 2).finish(&["resync", "--user", "live:2"]).await;
    assert!(refused.stderr.contains("live:2 is followed by another shard"), "{refused:?}");
    assert!(refused.stderr.contains("ask with LOCKSTEP_SHARD=0, of 2"), "{refused:?}");
}
