//! The runbook: a section for each alert, and nothing to type that does not exist.

use std::collections::BTreeSet;

use super::{content, read, rules, subcommands, text};

/// The contract's, which other versions may have.
const PROMISED: [&str; 9] = ["run", "init", "check", "resync", "verify", "status", "drop", "demo", "bench"];

/// Headings of alerts, each with its text.
fn sections() -> Vec<(String, String)> {
    let runbook = read("deploy/RUNBOOK.md");
    let sections = runbook.split("\n## ").skip(1);
    sections
        .filter_map(|s| s.split_once('\n'))
        .map(|(name, body)| (name.to_owned(), body.to_owned()))
        .collect()
}

#[test]
fn every_alert_has_its_section_and_every_section_its_alert() {
    let alerts: BTreeSet<String> = rules().iter().map(|rule| text(rule, "/alert").to_owned()).collect();
    let headings: BTreeSet<String> = sections().into_iter().map(|(name, _)| name).collect();
    assert_eq!(alerts, headings);
    for rule in rules() {
        let link = format!("deploy/RUNBOOK.md#{}", text(&rule, "/alert").to_lowercase());
        assert_eq!(text(&rule, "/annotations/runbook_url"), link);
        assert!(["warning", "critical"].contains(&text(&rule, "/labels/severity")));
        assert!(!text(&rule, "/annotations/summary").is_empty());
        assert!(!text(&rule, "/annotations/description").is_empty());
    }
    for (name, body) in sections() {
        for part in ["**Means**", "**Look at**", "**Type**", "**Clears**"] {
            assert!(body.contains(part), "{name} does not say: {part}");
        }
    }
}

/// Every call of the program in the runbook, in blocks and in the text: its words.
fn calls() -> Vec<Vec<String>> {
    let runbook = read("deploy/RUNBOOK.md");
    let typed = runbook.lines().filter_map(|line| line.strip_prefix("$ "));
    let spans = runbook.split('`').skip(1).step_by(2);
    let call = |text: &str| {
        let text = text.split('#').next().unwrap_or_default();
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let inside = words.first().is_some_and(|word| ["docker", "kubectl"].contains(&word.as_str()));
        let at = if inside { words.iter().rposition(|word| word == "lockstep")? } else { 0 };
        let is_call = words.get(at).is_some_and(|word| word == "lockstep") && words.len() > at + 1;
        is_call.then(|| words[at + 1..].to_vec())
    };
    typed.chain(spans).filter_map(call).collect()
}

#[test]
fn every_command_of_the_runbook_exists() {
    let known = subcommands();
    let calls = calls();
    assert!(calls.len() > 15, "{calls:?}");
    for call in calls {
        assert!(known.contains(&call[0]) || PROMISED.contains(&call[0].as_str()), "lockstep {call:?}");
        if known.contains(&call[0]) {
            let help = content(env!("CARGO_BIN_EXE_lockstep"), &[&call[0], "--help"]);
            for flag in call.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(flag.as_str()), "lockstep {call:?} knows no {flag}");
            }
        }
    }
}
