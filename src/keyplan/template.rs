//! Value templates: text with `$placeholders`. Braces are literal; `$$` is a dollar sign.

use std::sync::Arc;

use crate::balance::amount::fits_double;
use crate::balance::{Completed, Event, Value};

/// Where a placeholder's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// `$type`
    Type,
    /// `$id`
    Id,
    /// `$balance`: the balance column, whatever it is called.
    Balance,
    /// `$time`: the commit's, or the `updated_at` of a row that was read.
    Time,
    /// `$column`
    Column(Arc<str>),
    /// `$transaction.column`, of the last completed row.
    Transaction(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Literal(String),
    Value(Source),
    /// `$abs(...)`: without the minus sign.
    Absolute(Source),
    /// `$json(...)`: in a payload, a number as a number.
    Native(Source),
}

/// A text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) parts: Vec<Part>,
}

/// A value as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown<'a> {
    Null,
    /// Not known here: what it would be written to is left alone.
    Unsent,
    Number(&'a str),
    Text(&'a str),
}

/// What placeholders are filled from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) event: &'a Event,
    pub(super) time: Option<&'a str>,
    pub(super) transaction: Option<&'a Completed>,
    /// Whether others count the rows of a transaction as well, each those that it was sent.
    pub(super) is_shard: bool,
}

impl Source {
    fn from_name(name: &str) -> Option<Source> {
        let word = |text: &str| {
            let sound = text.chars().all(|c| c.is_alphanumeric() || c == '_');
            sound.then(|| Arc::from(text)).filter(|text: &Arc<str>| !text.is_empty())
        };
        match name {
            "type" | "user_type" => Some(Source::Type),
            "id" => Some(Source::Id),
            "balance" => Some(Source::Balance),
            "time" => Some(Source::Time),
            _ => match name.strip_prefix("transaction.") {
                Some(column) => word(column).map(Source::Transaction),
                None => word(name).map(Source::Column),
            },
        }
    }

    /// The source of a name that is no template: in `columns` and `when`.
    pub(super) fn named(name: &str) -> Source {
        Source::from_name(name).unwrap_or_else(|| Source::Column(name.into()))
    }
}

impl Template {
    /// Takes a text apart; the error is the fact.
    pub(super) fn parse(text: &str) -> Result<Template, String> {
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, after)) = rest.split_once('$') {
            literal.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                literal.push('$');
                rest = after;
                continue;
            }
            let (part, after) =
                placeholder(after).ok_or_else(|| format!("{text:?} has a $ without a name"))?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(part);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() || parts.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Template { parts })
    }

    /// The template of one source alone.
    pub(super) fn of(source: Source) -> Template {
        Template { parts: vec![Part::Value(source)] }
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Value(source) | Part::Absolute(source) | Part::Native(source) => Some(source),
        })
    }

    /// Fills the placeholders. A text of several parts is NULL or unsent when one of them is.
    pub(super) fn fill<'a>(&'a self, scope: &Scope<'a>, scratch: &'a mut String) -> Shown<'a> {
        if let [part] = self.parts.as_slice() {
            return part.fill(scope);
        }
        scratch.clear();
        for part in &self.parts {
            match part.fill(scope) {
                Shown::Number(text) | Shown::Text(text) => scratch.push_str(text),
                absent => return absent,
            }
        }
        Shown::Text(scratch)
    }
}

impl Part {
    fn fill<'a>(&'a self, scope: &Scope<'a>) -> Shown<'a> {
        match self {
            Part::Literal(text) => Shown::Text(text),
            Part::Value(source) | Part::Native(source) => scope.value(source),
            Part::Absolute(source) => match scope.value(source) {
                Shown::Number(text) => Shown::Number(text.strip_prefix('-').unwrap_or(text)),
                other => other,
            },
        }
    }
}

impl<'a> Scope<'a> {
    /// The value of a source.
    pub(super) fn value(&self, source: &Source) -> Shown<'a> {
        let event = self.event;
        match source {
            Source::Type => Shown::Text(&event.user.user_type),
            Source::Id if event.user.id_is_number() => Shown::Number(&event.user.id),
            Source::Id => Shown::Text(&event.user.id),
            Source::Time => self.time.map_or(Shown::Unsent, Shown::Text),
            Source::Balance => field(&event.fields, &event.balance_column).unwrap_or(Shown::Unsent),
            Source::Column(name) => field(&event.fields, name).unwrap_or(Shown::Unsent),
            Source::Transaction(name) => {
                self.transaction.and_then(|row| field(&row.fields, name)).unwrap_or(Shown::Null)
            }
        }
    }
}

fn field<'a>(fields: &'a [crate::balance::Field], name: &str) -> Option<Shown<'a>> {
    fields.iter().find(|field| *field.name == *name).map(|field| Shown::of(&field.value))
}

impl<'a> Shown<'a> {
    pub(super) fn of(value: &'a Value) -> Shown<'a> {
        match value {
            Value::Null => Shown::Null,
            Value::Unchanged => Shown::Unsent,
            Value::Number(amount) => Shown::Number(amount.as_str()),
            Value::Text(text) => Shown::Text(text),
        }
    }

    /// The text, where there is one.
    pub(super) fn text(self) -> Option<&'a str> {
        match self {
            Shown::Null | Shown::Unsent => None,
            Shown::Number(text) | Shown::Text(text) => Some(text),
        }
    }

    /// Writes it as JSON: a number that a double carries as a number, other numbers as strings.
    pub(super) fn write_json(self, out: &mut Vec<u8>) {
        match self {
            Shown::Null | Shown::Unsent => out.extend_from_slice(b"null"),
            Shown::Number(text) if fits_double(text) => out.extend_from_slice(text.as_bytes()),
            Shown::Number(text) | Shown::Text(text) => write_json_text(text, out),
        }
    }
}

/// Writes a JSON string.
pub(super) fn write_json_text(text: &str, out: &mut Vec<u8>) {
    if text.bytes().any(|b| b < 0x20 || b == b'"' || b == b'\\') {
        let written = serde_json::to_writer(out, text);
        debug_assert!(written.is_ok(), "a Vec takes everything");
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// The placeholder at the start of a text that followed a `$`, and what comes behind it.
fn placeholder(text: &str) -> Option<(Part, &str)> {
    for (opening, make) in
        [("abs(", Part::Absolute as fn(Source) -> Part), ("json(", Part::Native), ("(", Part::Value)]
    {
        if let Some(inner) = text.strip_prefix(opening) {
            let (name, after) = inner.split_once(')')?;
            return Some((make(Source::from_name(name)?), after));
        }
    }
    let skipped = if text.starts_with("transaction.") { "transaction.".len() } else { 0 };
    let name = text.get(skipped..)?;
    let length = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
    let (name, after) = text.split_at_checked(skipped + length)?;
    Some((Part::Value(Source::from_name(name)?), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_are_literal_and_dollars_name_values() {
        let parsed = Template::parse("x{$type:$id}$$ $(email)s $abs(transaction.amount)").unwrap();
        let literal = |text: &str| Part::Literal(text.to_owned());
        let expected = vec![
            literal("x{"),
            Part::Value(Source::Type),
            literal(":"),
            Part::Value(Source::Id),
            literal("}$ "),
            Part::Value(Source::Column("email".into())),
            literal("s "),
            Part::Absolute(Source::Transaction("amount".into())),
        ];
        assert_eq!(parsed.parts, expected);
    }

    #[test]
    fn a_dollar_without_a_name_is_a_mistake() {
        for text in ["$", "a$ b", "$(x", "$()", "$abs(", "$transaction."] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn any_text_becomes_a_json_string() {
        for text in ["", "a", "\"\\\u{1}\n", "ünï", "\u{2028}"] {
            let mut out = Vec::new();
            write_json_text(text, &mut out);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
