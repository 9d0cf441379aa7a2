//! The alert rules: read by promtool, and evaluated by a real Prometheus over a real run.

use std::process::{Command, Stdio};

use super::prometheus::Prometheus;
use super::{content, promql, rules, text};
use crate::harness::{On, World, eventually, eventually_ok};

#[test]
fn promtool_understands_rules_and_configuration() {
    let checked = content("promtool", &["check", "rules", "deploy/prometheus/lockstep.rules.yml"]);
    assert!(checked.contains("SUCCESS"), "{checked}");
    let checked = content("promtool", &["check", "config", "deploy/prometheus/prometheus.yml"]);
    assert!(checked.contains("SUCCESS") && checked.contains("rule files"), "{checked}");
}

#[test]
fn each_alert_fires_and_is_silent_when_it_should() {
    let tested = content("promtool", &["test", "rules", "deploy/prometheus/lockstep_test.yml"]);
    assert!(tested.contains("SUCCESS"), "{tested}");
    let tests = super::read("deploy/prometheus/lockstep_test.yml");
    for rule in rules() {
        let (name, severity) = (text(&rule, "/alert"), text(&rule, "/labels/severity"));
        let fires = format!("alertname=\"{name}\",alertstate=\"firing\",severity=\"{severity}\"");
        assert!(tests.contains(&fires), "no test in which {name} fires as {severity}");
    }
}

/// Those of every instance from its first scrape on.
async fn metric_names(world: &World) -> Vec<String> {
    let metrics = world.lockstep.metrics().await.expect("metrics");
    metrics.keys().map(|name| name.split('{').next().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_in_the_readme() {
    let world = World::running(On::Single).await;
    let readme = super::read("README.md");
    for name in metric_names(&world).await.into_iter().filter(|name| name.starts_with("lockstep_")) {
        let name =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
        let is_named = ["`", "{"].iter().any(|end| readme.contains(&format!("`{name}{end}")));
        assert!(is_named, "{name} is not in the README");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_has_nothing_to_say_about_the_metrics() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.credit(7, "1").await;
    world.caught_up().await;
    let (_, text) = world.lockstep.http("GET", "/metrics").await.unwrap();
    let file = crate::harness::process::folder("metrics-");
    let path = file.path().join("metrics");
    std::fs::write(&path, text).unwrap();
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(std::fs::File::open(&path).unwrap());
    let output = promtool.stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("promtool");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_alert_asks_for_metrics_that_are_there() {
    let world = World::running(On::Single).await;
    // The one that has a series only once something is wrong.
    world.user("live", 7, "100").await;
    world.sql("ALTER TABLE users RENAME COLUMN mam_status TO mam_state").await;
    world.credit(7, "1").await;
    let gap = "lockstep_mapping_gap{column=\"public.users.mam_status\"}";
    eventually("a column is missing", async || (world.lockstep.metric(gap).await == 1.0).then_some(())).await;
    let there = metric_names(&world).await;
    let mut asked = 0;
    for rule in rules() {
        for name in promql::metrics(text(&rule, "/expr")) {
            asked += 1;
            assert!(name == "up" || there.contains(&name), "{} asks for {name}", text(&rule, "/alert"));
        }
    }
    assert!(asked > 20, "{asked}");
    let prometheus = Prometheus::start(&[&world.lockstep]).await;
    prometheus.fires("LockstepNotCarried").await;
    for rule in prometheus.rules().await.unwrap() {
        assert_eq!((text(&rule, "/health"), rule.get("lastError")), ("ok", None), "{rule:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_fire_while_redis_or_the_instance_is_away_and_clear() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    let prometheus = Prometheus::start(&[&world.lockstep]).await;
    let scraped = async || match prometheus.query("lockstep_leader == 1").await {
        Ok(series) if series.len() == 1 => Ok(()),
        other => Err(other),
    };
    eventually_ok(scraped).await.expect("it is scraped");
    // Before the first scrape there was nobody.
    let silent = async || prometheus.firing().await.is_empty().then_some(());
    eventually("nothing fires over a run that is well", silent).await;

    world.store.single().kill9();
    world.credit(7, "1").await;
    let alert = prometheus.fires("LockstepRedisAway").await;
    assert_eq!(text(&alert, "/labels/severity"), "critical");
    assert_eq!(text(&alert, "/annotations/runbook_url"), "deploy/RUNBOOK.md#lockstepredisaway");
    world.store.single().start_again().await;
    prometheus.clears("LockstepRedisAway").await;
    world.eventually_equal().await;

    world.lockstep.kill9();
    prometheus.fires("LockstepNoLeader").await;
    prometheus.fires("LockstepDown").await;
    world.lockstep.run().await;
    prometheus.clears("LockstepNoLeader").await;
    prometheus.clears("LockstepDown").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_dropped_is_told_as_lost_and_not_as_given_up() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    let prometheus = Prometheus::start(&[&world.lockstep]).await;
    let scraped = async || prometheus.query("lockstep_slots_made_total").await.ok()?.pop();
    assert_eq!(eventually("it is scraped", scraped).await["value"][1], "0");
    eventually("the slot is dropped", async || {
        let client = world.postgres.client().await;
        let end = "SELECT pg_terminate_backend(active_pid, 1000) FROM pg_replication_slots WHERE active";
        client.batch_execute(end).await.ok()?;
        client.batch_execute("SELECT pg_drop_replication_slot('lockstep')").await.ok()
    })
    .await;
    world.sql("UPDATE users SET wallet_balance = 5 WHERE id = 7").await;
    prometheus.fires("LockstepSlotLost").await;
    world.lockstep.wait_ready().await;
    world.eventually_equal().await;
    assert!(!prometheus.firing().await.contains(&"LockstepPositionGivenUp".to_owned()));
    let told = world.lockstep.metrics().await.unwrap();
    assert_eq!(told["lockstep_heals_total{by=\"load\"}"], 1.0);
    assert_eq!((told["lockstep_slots_made_total"], told["lockstep_healing"]), (1.0, 0.0));
}
