//! Names and texts in SQL. `sql/` holds templates with `{name}` in them.

/// A name in double quotes, whatever is in it.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a string literal that does not depend on `standard_conforming_strings`.
pub fn literal(text: &str) -> String {
    let escape = if text.contains('\\') { " E" } else { "" };
    format!("{escape}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Names in double quotes, with commas.
pub(super) fn idents<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(ident).collect::<Vec<_>>().join(", ")
}

/// Puts values for `{name}` in one pass: a value is never searched for placeholders.
pub(super) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let value = after.split_once('}').and_then(|(name, tail)| {
            values.iter().find(|(known, _)| *known == name).map(|(_, value)| (value, tail))
        });
        match value {
            Some((value, tail)) => {
                filled.push_str(value);
                rest = tail;
            }
            None => {
                filled.push('{');
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_names() {
        assert_eq!(ident("us\"ers; DROP TABLE x"), "\"us\"\"ers; DROP TABLE x\"");
        assert_eq!(literal("o'clock"), "'o''clock'");
        assert_eq!(literal("a\\'b"), " E'a\\\\''b'");
        assert_eq!(idents(["a", "group"]), "\"a\", \"group\"");
    }

    #[test]
    fn a_value_with_braces_is_not_a_placeholder() {
        let values = [("table", "\"{columns}\""), ("columns", "x")];
        assert_eq!(fill("ON {table} ({columns}) {other}", &values), "ON \"{columns}\" (x) {other}");
    }
}
