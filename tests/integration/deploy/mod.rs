//! What stands around the program: alerts, dashboard, runbook, container, Kubernetes, systemd. All of it is held against
//! the running program or read by the tools that will read it.

mod alerts;
mod compose;
mod configuration;
mod dashboard;
mod health;
mod image;
mod kubernetes;
mod manual;
mod migration;
mod nginx;
mod prometheus;
mod promql;
mod runbook;
mod systemd;
mod typed;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::program;

/// A file of the project.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every document of a YAML file, anchors and merges resolved.
fn yaml(name: &str) -> Vec<Value> {
    let documents = serde_saphyr::from_multiple(&read(name));
    documents.unwrap_or_else(|error| panic!("{name} is not YAML: {error}"))
}

/// Runs a tool that `tests/run` installs.
fn tool(name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(path("")).stdin(Stdio::null());
    command.output().unwrap_or_else(|error| panic!("{name}: {error}; tests/run installs it"))
}

/// What the tool printed, where it has to be content.
fn content(name: &str, arguments: &[&str]) -> String {
    let output = tool(name, arguments);
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    assert!(output.status.success(), "{name} {arguments:?}: {printed}");
    printed
}

/// The subcommands of the program, as its help lists them.
fn subcommands() -> Vec<String> {
    let help = content(program(), &["--help"]);
    let list = help.split("Commands:").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("commands");
    // What goes on in a second line stands further to the right.
    let names = list.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The alert rules.
fn rules() -> Vec<Value> {
    let file = yaml("deploy/prometheus/lockstep.rules.yml").remove(0);
    let groups = file["groups"].as_array().expect("groups").clone();
    let rules: Vec<Value> =
        groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect();
    assert!(rules.len() > 10, "{rules:#?}");
    rules
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no text at {pointer} in {value:#}"))
}
