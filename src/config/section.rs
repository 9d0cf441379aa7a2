//! One table of the TOML file, read key by key; what is never asked for is unknown.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::Mistakes;
use super::{duration, size};

/// Names this similar (Jaro-Winkler, 0 to 1) are taken for a slip of the hand.
const SIMILAR: f64 = 0.75;

/// The configuration file's text, to turn offsets into lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'s> {
    /// The name shown in front of a mistake.
    pub name: &'s str,
    /// The whole text.
    pub text: &'s str,
}

impl Source<'_> {
    /// `name:line:column` of a byte offset, both counted from 1, columns in characters.
    pub fn place(&self, offset: usize) -> String {
        let column = self.before(offset).rsplit('\n').next().unwrap_or("").chars().count() + 1;
        format!("{}:{}:{column}", self.name, self.line(offset))
    }

    /// The line of a byte offset, counted from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.before(offset).matches('\n').count() + 1
    }

    fn before(&self, offset: usize) -> &str {
        self.text.get(..offset).unwrap_or(self.text)
    }
}

/// What all sections share.
pub(super) struct Context<'c> {
    /// The file.
    pub source: Source<'c>,
    /// The environment.
    pub env: &'c dyn Fn(&str) -> Option<String>,
    /// What was found wrong so far.
    pub mistakes: &'c Mistakes,
}

impl Context<'_> {
    /// An environment variable that is set and not empty.
    pub fn env(&self, name: &str) -> Option<Found<String>> {
        let value = (self.env)(name).filter(|value| !value.is_empty())?;
        Some(Found { value, place: name.to_owned() })
    }
}

/// A value and where it stands, for mistakes that are found later.
#[derive(Debug, Clone)]
pub(super) struct Found<T> {
    /// The value.
    pub value: T,
    /// File, line and column, or the name of the environment variable.
    pub place: String,
}

/// A table of the file, or an absent one.
pub(super) struct Section<'c> {
    context: &'c Context<'c>,
    title: String,
    table: Option<&'c DeTable<'c>>,
    asked: Vec<&'static str>,
}

impl<'c> Section<'c> {
    /// The whole file.
    pub fn root(context: &'c Context<'c>, table: &'c DeTable<'c>) -> Section<'c> {
        Section { context, title: String::new(), table: Some(table), asked: Vec::new() }
    }

    /// The raw value of a key.
    pub fn raw(&mut self, key: &'static str) -> Option<&'c Spanned<DeValue<'c>>> {
        self.asked.push(key);
        self.table?.get(key)
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.get(key).is_some())
    }

    /// The table `[key]`.
    pub fn section(&mut self, key: &'static str) -> Section<'c> {
        let table = self.raw(key).and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                self.wrong_type(key, value, other, &format!("a table: write [{key}]"));
                None
            }
        });
        Section { context: self.context, title: format!("[{key}]"), table, asked: Vec::new() }
    }

    /// The tables `[[key]]`, each with its place; `None` when there is none.
    pub fn sections(&mut self, key: &'static str) -> Option<Vec<Found<Section<'c>>>> {
        let value = self.raw(key)?;
        let expected = format!("a list of tables: write [[{key}]]");
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, value, value.get_ref(), &expected);
            return Some(Vec::new());
        };
        let mut sections = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(table) => sections.push(Found {
                    value: Section {
                        context: self.context,
                        title: format!("[[{key}]]"),
                        table: Some(table),
                        asked: Vec::new(),
                    },
                    place: self.context.source.place(item.span().start),
                }),
                other => self.wrong_type(key, item, other, &expected),
            }
        }
        Some(sections)
    }

    /// A string.
    pub fn text(&mut self, key: &'static str) -> Option<Found<String>> {
        let value = self.raw(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(self.found(value, text.clone().into_owned())),
            other => {
                self.wrong_type(key, value, other, "a string in quotation marks");
                None
            }
        }
    }

    /// A string, which an environment variable overrides.
    pub fn text_or_env(&mut self, key: &'static str, variable: &str) -> Option<Found<String>> {
        let in_file = self.text(key);
        self.context.env(variable).or(in_file)
    }

    /// A list of strings; `one_is_enough` takes a single string for a list of one.
    pub fn texts(&mut self, key: &'static str, one_is_enough: bool) -> Option<Found<Vec<String>>> {
        let value = self.raw(key)?;
        let expected = if one_is_enough { "a string or a list of strings" } else { "a list of strings" };
        match value.get_ref() {
            DeValue::String(text) if one_is_enough => {
                Some(self.found(value, vec![text.clone().into_owned()]))
            }
            DeValue::Array(items) => {
                let mut texts = Vec::new();
                for item in items.iter() {
                    match item.get_ref() {
                        DeValue::String(text) => texts.push(text.clone().into_owned()),
                        other => self.wrong_type(key, item, other, expected),
                    }
                }
                Some(self.found(value, texts))
            }
            other => {
                self.wrong_type(key, value, other, expected);
                None
            }
        }
    }

    /// A whole number within bounds.
    pub fn count(&mut self, key: &'static str, default: usize, bounds: RangeInclusive<usize>) -> usize {
        let Some(value) = self.raw(key) else { return default };
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(key, value, value.get_ref(), "a whole number");
            return default;
        };
        match usize::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(count) if bounds.contains(&count) => count,
            _ => {
                self.add(
                    value,
                    format!("{key} = {integer} is out of bounds"),
                    format!("give a number from {} to {}", bounds.start(), bounds.end()),
                );
                default
            }
        }
    }

    /// A whole number within bounds, which an environment variable overrides; `None` where neither gives one.
    pub fn count_or_env(
        &mut self,
        key: &'static str,
        variable: &str,
        bounds: RangeInclusive<usize>,
    ) -> Option<usize> {
        let is_there = self.has(key);
        let in_file = Some(self.count(key, *bounds.start(), bounds.clone())).filter(|_| is_there);
        let Some(Found { value: text, place }) = self.context.env(variable) else { return in_file };
        let given = text.parse().ok().filter(|count| bounds.contains(count));
        if given.is_none() {
            let cure = format!("give a number from {} to {}", bounds.start(), bounds.end());
            self.context.mistakes.add(&place, format!("{key} = {text:?} is out of bounds"), cure);
        }
        given
    }

    /// A length of time within bounds, as text with its unit.
    pub fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(value) = self.raw(key) else { return default };
        let (shortest, longest) = (duration::show(*bounds.start()), duration::show(*bounds.end()));
        let cure =
            format!("give a time from {shortest} to {longest}, \"{}\" for example", duration::show(default));
        match value.get_ref() {
            DeValue::String(text) => match duration::parse(text) {
                Some(parsed) if bounds.contains(&parsed) => return parsed,
                Some(_) => self.add(value, format!("{key} = {text:?} is out of bounds"), cure),
                None => self.add(value, format!("{key} = {text:?} is not a length of time"), cure),
            },
            other => self.add(value, format!("{key} is {}, not a length of time", type_name(other)), cure),
        }
        default
    }

    /// An amount of data within bounds, as text with its unit, which an environment variable overrides; in bytes.
    pub fn size_or_env(
        &mut self,
        key: &'static str,
        variable: &str,
        default: u64,
        bounds: RangeInclusive<u64>,
    ) -> u64 {
        let Some(Found { value: text, place }) = self.text_or_env(key, variable) else { return default };
        let wrong = match size::parse(&text) {
            Some(bytes) if bounds.contains(&bytes) => return bytes,
            Some(_) => "is out of bounds",
            None => "is not an amount of data",
        };
        let (least, most, example) =
            (size::show(*bounds.start()), size::show(*bounds.end()), size::show(default));
        let cure = format!("give a size from {least} to {most}, {example:?} for example");
        self.context.mistakes.add(&place, format!("{key} = {text:?} {wrong}"), cure);
        default
    }

    /// Parses a found text; what `T` says about it becomes a mistake with this cure.
    pub fn parse<T: FromStr>(&self, key: &str, found: Option<&Found<String>>, cure: &str) -> Option<T> {
        let found = found?;
        let parsed = found.value.parse().ok();
        if parsed.is_none() {
            let fact = format!("{key} {:?} is not understood", found.value);
            self.context.mistakes.add(&found.place, fact, cure);
        }
        parsed
    }

    /// Reports every key that was never asked for.
    pub fn finish(self) {
        let Some(table) = self.table else { return };
        for key in table.keys() {
            if self.asked.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let place = self.context.source.place(key.span().start);
            let within = if self.title.is_empty() { String::new() } else { format!(" in {}", self.title) };
            self.context.mistakes.add(
                &place,
                format!("unknown key {:?}{within}", key.get_ref()),
                suggestion(key.get_ref(), &self.asked),
            );
        }
    }

    fn found<T>(&self, at: &Spanned<DeValue<'_>>, value: T) -> Found<T> {
        Found { value, place: self.context.source.place(at.span().start) }
    }

    fn add(&self, at: &Spanned<DeValue<'_>>, fact: impl fmt::Display, cure: impl Into<String>) {
        self.context.mistakes.add(&self.context.source.place(at.span().start), fact, cure);
    }

    fn wrong_type(&self, key: &str, at: &Spanned<DeValue<'_>>, got: &DeValue<'_>, expected: &str) {
        self.add(at, format!("{key} is {}", type_name(got)), format!("give {expected}"));
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The cure for an unknown name: the nearest known one, or all of them.
pub(super) fn suggestion(unknown: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|name| (strsim::jaro_winkler(unknown, name), name))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .filter(|(similarity, _)| *similarity >= SIMILAR);
    match nearest {
        Some((_, name)) => format!("did you mean {name:?}?"),
        None => format!("remove it, or use one of {}", known.join(", ")),
    }
}
