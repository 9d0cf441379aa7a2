//! The names in an expression of PromQL, as far as the project's own expressions go.

use std::collections::BTreeSet;

/// Words that are no metric: operators and what follows them in brackets is labels.
const OPERATORS: [&str; 6] = ["and", "or", "unless", "bool", "group_left", "group_right"];
/// The brackets behind these hold labels.
const OVER_LABELS: [&str; 5] = ["by", "without", "on", "ignoring", "group_left"];

/// Metrics that the expression asks for.
pub fn metrics(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expression;
    let mut last = "";
    while let Some(first) = rest.chars().next() {
        if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
            let (word, behind) = rest.split_at(end.unwrap_or(rest.len()));
            rest = behind.trim_start();
            let is_called = ["(", "by (", "without ("].iter().any(|call| rest.starts_with(call));
            let is_name = !is_called && !OPERATORS.contains(&word) && !OVER_LABELS.contains(&word);
            if is_name {
                found.insert(word.to_owned());
            }
            last = word;
        } else {
            let closing = match first {
                '{' => Some('}'),
                '[' => Some(']'),
                '"' => Some('"'),
                '(' if OVER_LABELS.contains(&last) => Some(')'),
                _ => None,
            };
            let skipped = closing.and_then(|closing| rest[1..].find(closing)).map_or(1, |at| at + 2);
            // A number's unit belongs to it: 5m is no name.
            let number = if first.is_ascii_digit() {
                rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.')
            } else {
                None
            };
            let number = number.or(first.is_ascii_digit().then_some(rest.len()));
            rest = &rest[number.unwrap_or(skipped)..];
            last = "";
        }
    }
    found
}

#[test]
fn the_names_of_metrics_are_told_from_functions_labels_and_numbers() {
    let names = |expression: &str| metrics(expression).into_iter().collect::<Vec<_>>();
    assert_eq!(
        names("a == 1 and on (job, instance) (time() - b_seconds > 30 or c)"),
        ["a", "b_seconds", "c"]
    );
    assert_eq!(names(r#"sum by (le) (rate(d_bucket{instance=~"x",f="e"}[5m])) / 1e3"#), ["d_bucket"]);
    assert_eq!(names("max by (job) (a) / max by (job) (b) > 0.5"), ["a", "b"]);
    assert_eq!(names("absent(up{job=\"lockstep\"})"), ["up"]);
}
