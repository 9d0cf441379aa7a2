//! `lockstep resync`: users written again, beside the stream.

use std::time::{Duration, Instant};

use crate::cases::config_of;
use crate::harness::subscriber::BALANCE_UPDATES;
use crate::harness::{On, Setup, World, eventually};

/// What is wrong is left to the resync.
const UNWATCHED: &str = "[audit]\nforeign_writes = \"off\"\n";

on_both!(
    a_resync_of_everything_heals_what_others_left,
    a_resync_asked_for_while_nothing_runs_is_done_at_the_start
);

async fn a_resync_of_everything_heals_what_others_left(on: On) {
    let world = World::running_as(Setup { config: UNWATCHED.to_owned(), ..Setup::on(on) }).await;
    for id in 1..=4 {
        world.user("live", id, "100").await;
    }
    world.caught_up().await;
    world.store.hset(&config_of("live:1"), "balance", "66").await;
    world.store.hset(&config_of("live:1"), "email", "someone@example.com").await;
    world.store.call(&config_of("live:2"), &["DEL", &config_of("live:2")]).await;
    world.store.set("user_balance:live:3", "77").await;
    world.store.set("user_balance:live:99", "5").await;
    let subscriber = world.subscriber().await;

    assert!(world.lockstep.succeed(&["resync", "--wait"]).await.contains("done"));
    world.assert_equal().await;
    assert!(!world.store.exists("user_balance:live:99").await, "nobody has this id");
    let heard = subscriber.wait_for(BALANCE_UPDATES, "live:1", 1).await;
    assert_eq!((heard[0].text("operation_type"), heard[0].event_type()), ("resync", "balance_change"));
    let heard = subscriber.wait_for(BALANCE_UPDATES, "live:3", 1).await;
    assert_eq!(heard[0].text("operation_type"), "resync", "a wrong string is a wrong balance too");
    world.credit(4, "1").await;
    subscriber.wait_for(BALANCE_UPDATES, "live:4", 1).await;
    assert_eq!(subscriber.of(BALANCE_UPDATES, "live:1").len(), 1);
    assert_eq!(subscriber.of(BALANCE_UPDATES, "live:2").len(), 0, "its balance was absent, not wrong");
    assert_eq!(world.lockstep.metric("lockstep_load_running{kind=\"resync\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_of_single_users_leaves_the_others_alone() {
    let world = World::running_as(Setup { config: UNWATCHED.to_owned(), ..Setup::on(On::Single) }).await;
    for id in 1..=3 {
        world.user("live", id, "100").await;
    }
    world.caught_up().await;
    for id in [1, 2, 99] {
        world.store.hset(&config_of(&format!("live:{id}")), "balance", "66").await;
    }
    let arguments = ["resync", "--wait", "--user", "live:1", "--user", "live:99", "--user", "live:abc"];
    world.lockstep.succeed(&arguments).await;
    assert_eq!(world.store.hash(&config_of("live:1")).await["balance"], "100");
    assert_eq!(world.store.hash(&config_of("live:2")).await["balance"], "66");
    assert!(!world.store.exists(&config_of("live:99")).await);
    let of_nobody = [config_of("live:98"), "user_balance:live:98".to_owned()];
    world.store.hset(&of_nobody[0], "balance", "66").await;
    world.store.set(&of_nobody[1], "66").await;
    world.lockstep.succeed(&["resync", "--wait", "--table", "public.users"]).await;
    world.assert_equal().await;
    for key in of_nobody {
        assert!(!world.store.exists(&key).await, "{key}: nobody has this id");
    }
}

async fn a_resync_asked_for_while_nothing_runs_is_done_at_the_start(on: On) {
    let world = World::running(on).await;
    world.user("live", 1, "100").await;
    world.caught_up().await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.store.hset(&config_of("live:1"), "balance", "66").await;
    world.lockstep.succeed(&["resync"]).await;
    world.lockstep.run().await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_that_was_killed_goes_on_where_it_was() {
    let world = World::running(On::Single).await;
    let insert = "INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', n";
    world.sql(&format!("{insert} FROM generate_series(1, 6000) n")).await;
    world.caught_up().await;
    let slowly = "[load]\nusers_per_second = 2000\nchunk_rows = 200\n";
    world.lockstep.configure(&format!("{}{slowly}", world.lockstep.configuration()));
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.lockstep.run().await;
    world.store.hset(&config_of("live:5999"), "balance", "66").await;
    world.lockstep.succeed(&["resync"]).await;
    let progress = "lockstep:resync:lockstep";
    eventually("progress is kept", async || world.store.exists(progress).await.then_some(())).await;
    world.lockstep.kill9();
    world.lockstep.run().await;
    world.eventually_equal().await;
    let asked = "lockstep:asked:lockstep";
    eventually("the question is answered", async || (!world.store.exists(asked).await).then_some(())).await;
    let read = world.lockstep.metric("lockstep_load_users").await;
    assert!((1.0..6000.0).contains(&read), "{read} users were read again");
    assert!(!world.store.exists(progress).await);
}

/// Who reads users in a snapshot, as the server says, and for how long the oldest transaction of theirs is open.
async fn readers(client: &tokio_postgres::Client) -> (usize, Duration) {
    let query = "SELECT coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0)::float8
                 FROM pg_stat_activity WHERE query LIKE 'BEGIN%READ ONLY%users%'";
    let rows = client.query(query, &[]).await.expect("the activity");
    let oldest = rows.iter().map(|row| row.get::<_, f64>(0)).fold(0.0, f64::max);
    (rows.len(), Duration::from_secs_f64(oldest))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_reads_side_by_side_in_short_transactions_no_faster_than_told() {
    const USERS: u32 = 16_000;
    const USERS_PER_SECOND: u32 = 2_000;
    const LOOK_PAUSE: Duration = Duration::from_millis(20);
    let slowly =
        format!("{UNWATCHED}[load]\nworkers = 3\nusers_per_second = {USERS_PER_SECOND}\nchunk_rows = 200\n");
    let world = World::running_as(Setup { config: slowly, ..Setup::on(On::Single) }).await;
    let insert = "INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', n";
    world.sql(&format!("{insert} FROM generate_series(1, {USERS}) n")).await;
    world.caught_up().await;
    let client = world.postgres.client().await;
    let (mut side_by_side, mut oldest, mut is_told) = (0, Duration::ZERO, false);
    let begun = Instant::now();
    let watch = async {
        loop {
            let (seen, age) = readers(&client).await;
            side_by_side = side_by_side.max(seen);
            is_told |= world.lockstep.metric("lockstep_load_running{kind=\"resync\"}").await == 1.0;
            oldest = oldest.max(age);
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    };
    tokio::select! {
        _ = world.lockstep.succeed(&["resync", "--wait"]) => {}
        never = watch => never,
    }
    let lasted = begun.elapsed();
    // A second of it may be had at once.
    let least = Duration::from_secs((USERS / USERS_PER_SECOND - 1).into());
    assert!(lasted >= least, "{lasted:?} for {USERS} users");
    assert!(oldest < lasted / 4, "a transaction was open for {oldest:?} of {lasted:?}");
    assert_eq!(side_by_side, 3, "connections that read at once");
    assert!(is_told, "nothing says that a resync runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_of_what_is_not_followed_is_refused() {
    let world = World::running(On::Single).await;
    let finished = world.lockstep.finish(&["resync", "--table", "public.orders"]).await;
    assert_eq!(finished.code, Some(1));
    let message = "public.orders is no followed table of users: name one of public.users";
    assert!(finished.stderr.contains(message), "{}", finished.stderr);
    assert_eq!(world.lockstep.finish(&["resync", "--user", "live"]).await.code, Some(2));
}
