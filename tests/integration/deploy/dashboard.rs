//! Grafana's dashboard: every expression of it gives something over a real run.

use serde_json::Value;

use super::prometheus::Prometheus;
use super::{promql, read, text, yaml};
use crate::harness::{On, World, eventually_ok};

fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/grafana/dashboards/lockstep.json")).expect("JSON")
}

/// Title and expression of every query.
fn expressions() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let of_panel = |panel: &Value| {
        let title = text(panel, "/title").to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| (title.clone(), text(&target, "/expr").to_owned()))
    };
    panels.flat_map(of_panel).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_shows_something_of_a_real_run() {
    let world = World::running(On::Single).await;
    let prometheus = Prometheus::start(&[&world.lockstep]).await;
    world.user("live", 7, "100").await;
    world.credit(7, "1").await;
    world.caught_up().await;
    let there = world.lockstep.metrics().await.unwrap();
    let there: Vec<&str> = there.keys().filter_map(|name| name.split('{').next()).collect();
    let expressions = expressions();
    assert!(expressions.len() > 30, "{}", expressions.len());
    for (title, expression) in expressions {
        for name in promql::metrics(&expression) {
            assert!(there.contains(&name.as_str()), "{title:?} asks for {name}");
        }
        // What Grafana puts in.
        let asked = expression.replace("$instance", ".*").replace("$__rate_interval", "5s");
        assert!(!asked.contains('$'), "{asked}");
        let answered = eventually_ok(async || match prometheus.query(&asked).await {
            Ok(series) if !series.is_empty() => Ok(()),
            other => Err(other),
        });
        answered.await.unwrap_or_else(|other| panic!("{title:?} shows nothing: {asked}: {other:?}"));
    }
}

#[test]
fn the_dashboard_is_found_and_its_panels_do_not_overlap() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let number = |panel: &Value, name: &str| panel["gridPos"][name].as_u64().expect("a place");
    let mut taken = std::collections::BTreeSet::new();
    let mut ids = std::collections::BTreeSet::new();
    for panel in panels {
        let (x, y) = (number(panel, "x"), number(panel, "y"));
        assert!(ids.insert(panel["id"].as_u64()), "an id twice");
        for column in x..x + number(panel, "w") {
            for line in y..y + number(panel, "h") {
                assert!(column < 24 && taken.insert((column, line)), "{}", text(panel, "/title"));
            }
        }
    }
    let provider = yaml("deploy/grafana/provisioning/dashboards/lockstep.yaml").remove(0);
    let folder = text(&provider, "/providers/0/options/path");
    let compose = yaml("deploy/compose.yaml").remove(0);
    let mounts = compose["services"]["grafana"]["volumes"].as_array().expect("volumes");
    assert!(mounts.iter().any(|mount| mount == &format!("./grafana/dashboards:{folder}:ro")), "{mounts:?}");
    let source = yaml("deploy/grafana/provisioning/datasources/prometheus.yaml").remove(0);
    assert_eq!(text(&source, "/datasources/0/url"), "http://prometheus:9090");
}
