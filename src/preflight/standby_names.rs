//! `synchronous_standby_names`, as `syncrep_gram.y` and `syncrep_scanner.l` read it.

/// The listed name that makes a walsender of this `application_name` a synchronous standby.
pub(super) fn matching(setting: &str, application_name: &str) -> Option<String> {
    // Names are compared without regard to ASCII case, and `*` is every name (`SyncRepGetStandbyPriority`).
    names(setting).into_iter().find(|name| name == "*" || name.eq_ignore_ascii_case(application_name))
}

/// The names of `a, b`, `2 (a, b)`, `FIRST 2 (a, b)` and `ANY 2 (a, b)`.
fn names(setting: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = setting.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, tail) = match first {
            '"' => quoted(rest),
            '(' => {
                // What stood before the list is the method and the number, not names.
                names.clear();
                (None, rest.get(1..).unwrap_or(""))
            }
            ',' | ')' => (None, rest.get(1..).unwrap_or("")),
            _ => {
                let end = rest.find(|c: char| c.is_whitespace() || "\",()".contains(c)).unwrap_or(rest.len());
                let (word, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
                (Some(word.to_owned()), tail)
            }
        };
        names.extend(token);
        rest = tail.trim_start();
    }
    names
}

/// The name in double quotes at the start of `text`, a doubled quote for one, and what follows.
fn quoted(text: &str) -> (Option<String>, &str) {
    let mut name = String::new();
    let mut rest = text.strip_prefix('"').unwrap_or(text);
    while let Some((head, tail)) = rest.split_once('"') {
        name.push_str(head);
        match tail.strip_prefix('"') {
            Some(after) => {
                name.push('"');
                rest = after;
            }
            None => return (Some(name), tail),
        }
    }
    (None, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_setting_is_understood() {
        let matches = [
            "*",
            "lockstep",
            "LockStep",
            "a, lockstep",
            "ANY 1 (a, *)",
            "FIRST 2 (a, \"lockstep\", b)",
            "1(lockstep)",
            "\"*\"",
            "any 1 (lockstep)",
        ];
        for setting in matches {
            assert!(matching(setting, "lockstep").is_some(), "{setting}");
        }
        for setting in [
            "",
            "  ",
            "a, b",
            "ANY 1 (a, b)",
            "\"lock\"\"step\"",
            "lockstep (a, b)",
            "lockstep2",
            "\"lockstep",
        ] {
            assert_eq!(matching(setting, "lockstep"), None, "{setting}");
        }
        assert_eq!(matching("\"lock\"\"step\"", "lock\"step").as_deref(), Some("lock\"step"));
    }
}
