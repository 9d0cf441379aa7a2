//! What the README says of the tests is true.

use std::collections::BTreeSet;

use crate::chaos::FAULTS;

/// Their full names.
fn tests_of_this_program() -> Vec<String> {
    let program = std::env::current_exe().expect("a program");
    let listed = std::process::Command::new(program).arg("--list").output().expect("a list").stdout;
    let listed = String::from_utf8(listed).expect("text");
    listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

#[test]
fn every_promise_is_held_by_a_test_that_exists() {
    let readme = include_str!("../../README.md");
    let section =
        readme.split("### What holds it").nth(1).and_then(|rest| rest.split("\n\n| | promise").nth(1));
    let table = section.and_then(|rest| rest.split("\n\n").next()).expect("the table");
    let simulator = include_str!("../simulator/report.rs");
    let here = tests_of_this_program();
    let mut names = 0;
    for name in table.split('`').skip(1).step_by(2).filter(|name| name.contains("::")) {
        let (room, test) = name.split_once("::").expect("a path");
        let exists = match room {
            "chaos" => FAULTS.iter().any(|fault| fault.name == test),
            "report" => simulator.contains(&format!("#[test]\nfn {test}()")),
            _ => here.iter().any(|full| format!("::{full}").contains(&format!("::{name}"))),
        };
        assert!(exists, "{name} is named in the README and is no test");
        names += 1;
    }
    assert!(names > 30, "{names}");
}

/// A row of the README's table of versions: server, version, and how many tests passed, were not for it, and failed.
fn versions() -> Vec<Vec<&'static str>> {
    let table = include_str!("../../README.md").split("| server | version | passed |").nth(1);
    let rows = table.and_then(|rest| rest.split("\n\n").next()).expect("the table").lines().skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn the_versions_are_those_that_the_matrix_fetches_and_none_failed() {
    let matrix = include_str!("../matrix");
    let fetched = matrix.lines().filter_map(|line| line.trim().strip_prefix('\'')?.split_once(".0-beta"));
    let fetched: Vec<&str> = fetched.map(|(version, _)| version).collect();
    let versions = versions();
    let tested = |version: &str| versions.iter().any(|row| row[..2] == ["PostgreSQL", version]);
    assert!(fetched.len() == 4 && fetched.iter().all(|version| tested(version)), "{fetched:?} {versions:?}");
    for row in &versions {
        assert!(row[2].parse::<u32>().expect("a number") > 200 && row[4] == "0", "{row:?}");
    }
    let servers: BTreeSet<&str> = versions.iter().map(|row| row[0]).collect();
    assert_eq!(servers, BTreeSet::from(["PostgreSQL", "Redis", "Valkey"]));
}
