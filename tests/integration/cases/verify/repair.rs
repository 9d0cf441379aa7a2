//! `lockstep verify --repair`: what differs goes through the running instance.

use super::{UNWATCHED, counts, spoil, unwatched, verified};
use crate::harness::subscriber::BALANCE_UPDATES;
use crate::harness::{On, Setup, World};

on_both!(what_differs_is_healed_by_the_running_instance);

async fn what_differs_is_healed_by_the_running_instance(on: On) {
    let world = unwatched(on, 7).await;
    spoil(&world).await;
    let subscriber = world.subscriber().await;
    let (code, report) = verified(&world, &["--repair"]).await;
    assert_eq!((code, counts(&report)), (0, [2, 1, 4, 3, 0]), "{report:#}");
    assert_eq!(
        (&report["repair"]["healed"], &report["repair"]["left"]),
        (&8.into(), &0.into()),
        "{report:#}"
    );
    world.assert_equal().await;
    let heard = subscriber.wait_for(BALANCE_UPDATES, "live:1", 1).await;
    assert_eq!(heard[0].text("operation_type"), "resync");
    let (code, report) = verified(&world, &["--repair"]).await;
    assert_eq!((code, counts(&report)), (0, [7, 0, 0, 0, 0]), "{report:#}");
    assert!(report["repair"].is_null(), "there was nothing to do");
}

/// One by one they would be too many for a message.
#[tokio::test(flavor = "multi_thread")]
async fn more_than_can_be_named_are_healed_by_whole_tables() {
    const USERS: u32 = 10_050;
    let world = World::set_up(Setup { config: UNWATCHED.to_owned(), ..Setup::on(On::Single) }).await;
    let insert = "INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', n";
    world.sql(&format!("{insert} FROM generate_series(1, {USERS}) n")).await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    let spoil = format!("for id = 1, {USERS} do redis.call('SET', 'user_balance:live:' .. id, 'x') end");
    world.store.call("", &["EVAL", &spoil, "0"]).await;
    let (code, report) = verified(&world, &["--repair"]).await;
    assert_eq!((code, counts(&report)), (0, [0, 0, USERS.into(), 0, 0]));
    assert_eq!(report["examples"].as_array().unwrap().len(), 100);
    assert_eq!((&report["repair"]["healed"], &report["repair"]["left"]), (&USERS.into(), &0.into()));
    assert_eq!(verified(&world, &[]).await.0, 0);
}
