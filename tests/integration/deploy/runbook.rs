//! The runbook: a section for each alert.

use std::collections::BTreeSet;

use super::{read, rules, text};

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
