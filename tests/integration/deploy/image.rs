//! The container image: what its text promises. That it builds is seen by whoever builds it.

use std::collections::BTreeSet;

use super::{content, path, read, subcommands};
use crate::harness::program;

#[test]
fn the_image_has_no_shell_and_no_root_and_asks_the_program_for_its_health() {
    let dockerfile = read("Dockerfile");
    let last = dockerfile.rsplit("\nFROM ").next().expect("a stage");
    assert!(last.starts_with("gcr.io/distroless/"), "{last}");
    let user = last.lines().find_map(|line| line.strip_prefix("USER ")).expect("USER");
    let ids: Vec<u32> = user.split(':').filter_map(|id| id.parse().ok()).collect();
    assert!(
        ids.len() == 2 && !ids.contains(&0),
        "{user}: Kubernetes sees only of numbers that they are not root"
    );
    let check = last.lines().find(|line| line.starts_with("HEALTHCHECK")).expect("HEALTHCHECK");
    let command = check.split("CMD ").nth(1).expect("CMD");
    let command: Vec<String> = serde_json::from_str(command).expect("without a shell");
    assert!(last.contains(&format!("ENTRYPOINT [{:?}]", command[0])), "{last}");
    assert!(subcommands().contains(&command[1]), "{command:?}");
}

#[test]
fn what_the_build_copies_is_sent_to_it() {
    let (dockerfile, sent) = (read("Dockerfile"), read(".dockerignore"));
    let copied = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY "));
    for line in copied.filter(|line| !line.starts_with("--from")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        for source in &words[..words.len() - 1] {
            assert!(sent.lines().any(|kept| kept == format!("!{source}")), "{source} is not sent");
        }
    }
    // The layer of dependencies is built from these alone.
    assert!(dockerfile.contains("COPY Cargo.toml Cargo.lock ./\nCOPY .cargo .cargo\nRUN mkdir src"));
    content(program(), &["--version"]);
}

/// Every text in a folder and below.
fn texts(folder: &std::path::Path) -> String {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    let text = |path: std::path::PathBuf| match path.is_dir() {
        true => texts(&path),
        false => std::fs::read_to_string(path).unwrap_or_default(),
    };
    entries.map(text).collect()
}

#[test]
fn every_variable_that_is_set_is_one_that_the_program_reads() {
    let (read_by_it, set) = (texts(&path("src")), texts(&path("deploy")) + &read("Dockerfile"));
    let names: BTreeSet<&str> = set
        .split(|c: char| !c.is_ascii_uppercase() && c != '_')
        .filter(|word| word.starts_with("LOCKSTEP_"))
        .collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        assert!(read_by_it.contains(&format!("\"{name}\"")), "nothing reads {name}");
    }
}
