//! The compose file: what the specification knows, and whole in itself.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{path, read, text, yaml};

fn compose() -> Value {
    yaml("deploy/compose.yaml").remove(0)
}

fn services() -> serde_json::Map<String, Value> {
    compose()["services"].as_object().expect("services").clone()
}

#[test]
fn the_specification_knows_every_field() {
    let known: compose_spec::Compose = serde_json::from_value(compose()).expect("a compose file");
    known.validate_all().expect("whole in itself");
    let mut slipped = compose();
    slipped["services"]["postgres"]["enviroment"] = Value::Null;
    assert!(serde_json::from_value::<compose_spec::Compose>(slipped).is_err(), "a slip of the pen is seen");
}

#[test]
fn there_is_everything_for_a_pair_and_each_waits_for_what_it_needs() {
    let services = services();
    for name in
        ["postgres", "redis-6", "redis-cluster", "init", "lockstep-1", "lockstep-2", "prometheus", "grafana"]
    {
        assert!(services.contains_key(name), "{name}");
    }
    for (name, service) in &services {
        let needed: Vec<String> = match &service["depends_on"] {
            Value::Object(map) => map.keys().cloned().collect(),
            Value::Array(list) => list.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        };
        for other in needed {
            assert!(services.contains_key(&other), "{name} waits for {other}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let source = volume.split(':').next().expect("a source");
            let is_there = match source.starts_with('.') {
                true => path("deploy").join(source).exists(),
                false => compose()["volumes"].get(source).is_some(),
            };
            assert!(is_there, "{name} mounts {volume}");
        }
    }
    let lockstep = &services["lockstep-1"];
    assert_eq!(lockstep["read_only"], true);
    assert_eq!(lockstep["cap_drop"][0], "ALL");
    assert!(path("deploy").join(text(lockstep, "/build/context")).join("Dockerfile").exists());
    let scraped = read("deploy/prometheus/prometheus.yml");
    assert!(["lockstep-1", "lockstep-2"].iter().all(|name| scraped.contains(&format!("\"{name}:9855\""))));
}

#[test]
fn the_addresses_of_the_cluster_are_the_nodes_own() {
    let services = services();
    let own: BTreeSet<String> = services
        .values()
        .filter_map(|service| service["networks"]["trading"]["ipv4_address"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(own.len(), 6);
    let seeds = text(&services["lockstep-1"], "/environment/LOCKSTEP_REDIS_URL");
    let create = text(&services["redis-cluster"], "/command/2");
    let hosts = seeds.split(',').map(|seed| seed.trim_start_matches("redis://").trim_end_matches(":6379"));
    assert!(hosts.into_iter().all(|host| own.contains(host)), "{seeds}");
    assert!(own.iter().all(|host| create.contains(&format!("{host}:6379"))), "{create}");
}

#[test]
fn no_password_is_written_down() {
    let example = read("deploy/example.env");
    for (name, service) in services() {
        let environment = service["environment"].as_object().cloned().unwrap_or_default();
        for (variable, value) in environment.iter().filter(|(name, _)| name.contains("PASSWORD")) {
            let value = value.as_str().expect("a text");
            let from = value.strip_prefix("${").and_then(|rest| rest.split(':').next());
            let from = from.unwrap_or_else(|| panic!("{variable} of {name} is written down"));
            assert!(
                example.contains(&format!("{from}=\n")),
                "{from} is not in deploy/example.env, or has a value"
            );
        }
    }
    assert!(read(".gitignore").contains("/deploy/.env"));
}
