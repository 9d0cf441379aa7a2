//! `lockstep status`: what the instance says while it runs, and what both sides say when it does not.

use std::time::Duration;

use serde_json::Value;

use crate::harness::process::folder;
use crate::harness::tls::Certificates;
use crate::harness::{On, Setup, World, eventually, eventually_ok};

on_both!(the_status_tells_of_the_instance_and_without_one_of_both_sides);

async fn the_status_tells_of_the_instance_and_without_one_of_both_sides(on: On) {
    let world = World::running(on).await;
    world.user("live", 7, "100").await;
    world.credit(7, "1").await;
    world.caught_up().await;
    let running = world.lockstep.succeed(&["status"]).await;
    for said in
        ["runs, version", "ready", "streaming", "2 events since the start", "answers", "streams to pid"]
    {
        assert!(running.contains(said), "{said}: {running}");
    }
    let json: Value = serde_json::from_str(&world.lockstep.succeed(&["status", "--json"]).await).unwrap();
    assert_eq!((&json["instance"]["state"], &json["loaded"]), (&"ready".into(), &true.into()), "{json}");
    assert!(!running.contains("live7@"), "{running}");
    world.lockstep.sigterm().await;
    let down = world.lockstep.succeed(&["status"]).await;
    for said in ["none answers at 127.0.0.1", "nobody streams from it", "loaded", "checkpoint"] {
        assert!(down.contains(said), "{said}: {down}");
    }
    let json: Value = serde_json::from_str(&world.lockstep.succeed(&["status", "--json"]).await).unwrap();
    assert!(json["instance"].is_null() && json["retained_wal_bytes"].is_number(), "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_either_side_or_the_instance_is_exit_code_1() {
    let world = World::running(On::Single).await;
    world.store.single().kill9();
    world.lockstep.is_not_ready_because("redis").await;
    let wrong = world.lockstep.finish(&["status"]).await;
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.stdout.contains("not ready") && wrong.stdout.contains("wrong"), "{wrong:?}");
    world.store.single().start_again().await;
    // A session that begins later would find the table missing itself.
    let healed = async || world.lockstep.log().contains("redis holds again what it lacked").then_some(());
    eventually("redis is whole again", healed).await;
    world.lockstep.wait_ready().await;
    // What only the instance knows.
    world.sql("ALTER PUBLICATION lockstep DROP TABLE users").await;
    world.lockstep.is_not_ready_because("does not carry").await;
    // What the instance says of itself may be a second old.
    let wrong = eventually("it is told", async || {
        Some(world.lockstep.finish(&["status"]).await).filter(|ended| ended.stdout.contains("public.users"))
    })
    .await;
    assert!(wrong.code == Some(1) && wrong.stderr.lines().count() == 1, "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_behind_tls_is_asked_too() {
    let folder = folder("tls-");
    let certificates = Certificates::write(folder.path(), "lockstep");
    let world = World::set_up(Setup::on(On::Single)).await;
    let lines = format!(
        "[http]\ntls_cert_file = {:?}\ntls_key_file = {:?}\n",
        certificates.server, certificates.server_key
    );
    world.lockstep.configure(&world.lockstep.configuration().replace("[http]\n", &lines));
    world.lockstep.init().await;
    world.lockstep.spawn(&["run"]);
    eventually("it is asked", async || {
        let told = world.lockstep.finish(&["status"]).await.stdout;
        (told.contains("runs, version") && told.contains("ready")).then_some(())
    })
    .await;
    // And so does a container's health check.
    world.lockstep.succeed(&["health"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watched_it_writes_lines_until_it_is_interrupted() {
    let world = World::running(On::Single).await;
    let watch = world.lockstep.begin(&["status", "--watch"]);
    let lines =
        eventually("three lines", async || Some(watch.stdout()).filter(|text| text.lines().count() >= 3))
            .await;
    for line in lines.lines() {
        assert!(line.contains(" ready streaming, lag ") && !line.contains('\u{1b}'), "{line:?}");
    }
    world.user("live", 7, "100").await;
    eventually("a rate", async || watch.stdout().contains("events/s, p50").then_some(())).await;
    world.lockstep.sigterm().await;
    eventually("it is down", async || watch.stdout().contains("no instance, slot: nobody").then_some(()))
        .await;
    watch.process.signal("INT");
    assert_eq!(watch.process.wait().await.code(), Some(0));
    let json = world.lockstep.begin(&["status", "--watch", "--json"]);
    let lines = eventually("two lines", async || {
        Some(json.stdout()).filter(|text| text.lines().count() >= 2 && text.ends_with('\n'))
    })
    .await;
    for line in lines.lines() {
        assert!(serde_json::from_str::<Value>(line).unwrap()["instance"].is_null(), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watched_on_a_terminal_it_draws_over_itself() {
    let world = World::running(On::Single).await;
    let watch = world.lockstep.begin_on_a_terminal(&["status", "--watch"]);
    // Whole screens: the last one may be half drawn.
    let said = ["instance", "ready", "retained WAL", "\u{1b}[K\r\n"];
    let drawn = eventually_ok(async || {
        let drawn = watch.stdout();
        let whole = drawn.split("\u{1b}[H").skip(2).filter(|screen| screen.ends_with("\u{1b}[J"));
        let tells = whole.filter(|screen| said.iter().all(|said| screen.contains(said))).count();
        if tells >= 2 { Ok(drawn) } else { Err(drawn) }
    });
    let drawn = drawn.await.unwrap_or_else(|drawn| panic!("no two screens that say {said:?}: {drawn:?}"));
    assert_eq!(drawn.matches("\u{1b}[H\u{1b}[J").count(), 1, "it is cleared once: nothing flickers");
    tokio::time::timeout(Duration::from_secs(60), async { watch.interrupt().await }).await.expect("it ends");
}
