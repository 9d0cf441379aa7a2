//! What the pages have people type: commands and options that exist.

use super::{content, read, subcommands};
use crate::harness::program;

/// The contract's, which other versions may have.
const PROMISED: [&str; 9] = ["run", "init", "check", "resync", "verify", "status", "drop", "demo", "bench"];

/// Each page, and how many calls of the program it has at least.
const PAGES: [(&str, usize); 4] = [
    ("README.md", 15),
    ("deploy/CONFIGURATION.md", 2),
    ("deploy/MIGRATION.md", 12),
    ("deploy/RUNBOOK.md", 15),
];

/// Every call of the program in a page, in blocks and in the text: its words.
fn calls(page: &str) -> Vec<Vec<String>> {
    let page = read(page);
    let typed = page.lines().filter_map(|line| line.strip_prefix("$ "));
    let spans = page.split('`').skip(1).step_by(2);
    let call = |text: &str| {
        let text = text.split(['#', '|', '>']).next().unwrap_or_default();
        // What stands before it is of its environment.
        let words: Vec<String> = text
            .split_whitespace()
            .map(str::to_owned)
            .skip_while(|word| word.starts_with("LOCKSTEP_"))
            .collect();
        let inside = words.first().is_some_and(|word| ["docker", "kubectl"].contains(&word.as_str()));
        let at = if inside { words.iter().rposition(|word| word == "lockstep")? } else { 0 };
        let is_call = words.get(at).is_some_and(|word| word == "lockstep") && words.len() > at + 1;
        is_call.then(|| words[at + 1..].to_vec())
    };
    typed.chain(spans).filter_map(call).collect()
}

#[test]
fn every_command_that_is_written_down_exists() {
    let known = subcommands();
    for (page, least) in PAGES {
        let calls = calls(page);
        assert!(calls.len() >= least, "{page}: {calls:?}");
        for call in calls {
            let is_known = known.contains(&call[0]);
            assert!(is_known || PROMISED.contains(&call[0].as_str()), "{page}: lockstep {call:?}");
            if is_known {
                let help = content(program(), &[&call[0], "--help"]);
                for flag in call.iter().filter(|word| word.starts_with("--")) {
                    assert!(help.contains(flag.as_str()), "{page}: lockstep {call:?} knows no {flag}");
                }
            }
        }
    }
}

/// Links between the pages, to files and to headings.
#[test]
fn every_link_of_the_pages_leads_somewhere() {
    let slug = |heading: &str| {
        let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
        heading
            .to_lowercase()
            .chars()
            .filter(kept)
            .map(|c| if c == ' ' { '-' } else { c })
            .collect::<String>()
    };
    for (page, _) in PAGES {
        let folder = std::path::Path::new(page).parent().expect("a folder").to_owned();
        let links: Vec<String> = read(page)
            .split("](")
            .skip(1)
            .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
            .filter(|link| !link.starts_with("http"))
            .collect();
        for link in links {
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let file = if file.is_empty() { page.into() } else { folder.join(file) };
            let file = file.to_str().expect("a path");
            assert!(super::path(file).exists(), "{page}: {link}");
            if !heading.is_empty() {
                let text = read(file);
                let mut headings = text.lines().filter_map(|line| line.strip_prefix('#'));
                let found = headings.any(|line| slug(line.trim_start_matches('#').trim()) == heading);
                assert!(found, "{page}: {link}");
            }
        }
    }
}
