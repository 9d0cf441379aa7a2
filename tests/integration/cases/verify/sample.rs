//! The README shows what `lockstep verify` prints.

use std::collections::{BTreeMap, BTreeSet};

use super::unwatched;
use crate::cases::config_of;
use crate::harness::On;

/// What depends on how many users there are, and on the machine.
const OF_THE_DAY: [&str; 4] = ["users compared", "equal", "seconds", "users a second"];

/// The report without the numbers of the day, and its examples in an order of their own.
fn lines(report: &str) -> Vec<String> {
    let (found, examples) =
        report.split_once("\nexamples\n").unwrap_or_else(|| panic!("no examples: {report}"));
    let of_the_day = |line: &&str| OF_THE_DAY.iter().any(|label| line.starts_with(label));
    let found = found.lines().map(|line| match of_the_day(&line) {
        true => line.trim_end_matches(|c: char| c.is_ascii_digit() || [',', '.'].contains(&c)).to_owned(),
        false => line.to_owned(),
    });
    // Keys of nobody come in the order of a SCAN.
    let mut ordered: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for example in examples.trim_end().lines() {
        let (user, differences) = example.split_once("): ").unwrap_or_else(|| panic!("{example}"));
        ordered.entry(user).or_default().extend(differences.split(", "));
    }
    found.chain(ordered.iter().map(|(user, differences)| format!("{user}): {differences:?}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_shows_what_verify_prints() {
    let readme = include_str!("../../../../README.md");
    let sample =
        readme.split("$ lockstep verify\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let world = unwatched(On::Single, 12).await;
    world.user("demo", 40, "100").await;
    world.caught_up().await;
    let gone = config_of("live:12");
    world.store.call(&gone, &["DEL", &gone]).await;
    world.store.hset(&config_of("live:7"), "balance", "66").await;
    world.store.hset(&config_of("live:7"), "email", "old@example.com").await;
    world.store.set("user_balance:demo:40", "66").await;
    world.store.hset(&config_of("live:200001"), "balance", "66").await;
    world.store.set("user_balance:live:200001", "66").await;
    let printed = world.lockstep.finish(&["verify"]).await;
    assert_eq!(printed.code, Some(3), "{printed:?}");
    assert_eq!(lines(&printed.stdout), lines(sample), "{}", printed.stdout);
}
