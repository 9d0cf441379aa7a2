//! One source file: its production code, and what that names.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;

use super::scanner::{closing, code_only};

/// A file below `src`.
#[derive(Debug)]
pub struct Source {
    /// Below `src`, `sink/mod.rs` for example.
    pub path: String,
    /// Production code only: no comments, no contents of literals, nothing that is compiled for tests.
    code: String,
    production_lines: usize,
    /// Files that hold modules compiled for tests only.
    test_files: Vec<String>,
}

/// A function with a body.
#[derive(Debug)]
pub struct Function {
    pub name: String,
    /// From 1, `fn` to closing brace.
    pub lines: RangeInclusive<usize>,
}

/// Every file below `src` that is not only for tests.
pub fn production(src: &Path) -> Vec<Source> {
    let mut paths = Vec::new();
    collect(src, &mut paths);
    let read = |path: &std::path::PathBuf| {
        let name = path.strip_prefix(src).expect("below src").display().to_string();
        Source::new(&name, &std::fs::read_to_string(path).expect("a readable source"))
    };
    let mut sources: Vec<Source> = paths.iter().map(read).collect();
    let test_files: BTreeSet<String> = sources.iter().flat_map(|source| source.test_files.clone()).collect();
    sources.retain(|source| !test_files.iter().any(|test| is_of(&source.path, test)));
    sources
}

/// Whether the file is the module `test` (a path without `.rs`) or lies below it.
fn is_of(path: &str, test: &str) -> bool {
    path.strip_prefix(test).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

fn collect(folder: &Path, paths: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    paths.sort();
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let mut source = Source {
            path: path.to_owned(),
            code: code_only(text),
            production_lines: text.lines().count(),
            test_files: Vec::new(),
        };
        source.blank_tests(text);
        source
    }

    /// Blanks every item under `#[cfg(test)]`, and notes those that are files.
    fn blank_tests(&mut self, text: &str) {
        const MARK: &str = "#[cfg(test)]";
        while let Some(start) = self.code.find(MARK) {
            let behind = start + MARK.len();
            let body = self.code[behind..].find(['{', ';']).map_or(self.code.len(), |at| behind + at);
            let end = match self.code.as_bytes().get(body) {
                Some(b'{') => closing(&self.code, body),
                _ => (body + 1).min(self.code.len()),
            };
            self.test_files.extend(test_file(&self.path, &self.code[behind..end], &text[behind..end]));
            let lines = text[start..end].matches('\n').count() + 1;
            self.production_lines = self.production_lines.saturating_sub(lines);
            let blank: String =
                text[start..end].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect();
            self.code.replace_range(start..end, &blank);
        }
    }

    pub fn production_lines(&self) -> usize {
        self.production_lines
    }

    /// `sink` for `sink/node/tls.rs`, `lsn` for `lsn.rs`.
    pub fn room(&self) -> &str {
        self.modules()[0]
    }

    /// The module path of the file.
    fn modules(&self) -> Vec<&str> {
        let names = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        names.split('/').collect()
    }

    /// Identifiers and keywords with their lines.
    pub fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_separator = |c: char| !(c.is_alphanumeric() || c == '_');
        self.code.lines().enumerate().flat_map(move |(index, line)| {
            line.split(is_separator).filter(|word| !word.is_empty()).map(move |word| (index + 1, word))
        })
    }

    /// Every path in the code, groups written out: `std::{fs, fmt}` is `std::fs` and `std::fmt`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut rest = self.code.as_str();
        while let Some(start) = rest.find(|c: char| c.is_alphabetic() || c == '_') {
            rest = read_path(&rest[start..], "", &mut paths);
        }
        paths
    }

    /// Rooms that the code names by `crate::` or by enough `super::`.
    pub fn imported_rooms(&self) -> BTreeSet<String> {
        let depth = self.modules().len();
        let rooms = self.paths().into_iter().filter_map(|path| {
            let names: Vec<&str> = path.split("::").collect();
            let supers = names
                .iter()
                .take_while(|name| matches!(**name, "super" | "self"))
                .filter(|n| **n == "super")
                .count();
            match names.as_slice() {
                ["crate", room, ..] => Some((*room).to_owned()),
                _ if supers >= depth => {
                    names.iter().find(|n| !matches!(**n, "super" | "self")).map(|n| (*n).to_owned())
                }
                _ => None,
            }
        });
        rooms.collect()
    }

    /// Functions with a body, outer before inner.
    pub fn functions(&self) -> Vec<Function> {
        let line_of = |at: usize| self.code[..at].matches('\n').count() + 1;
        let starts = self
            .code
            .match_indices("fn ")
            .filter(|(at, _)| !self.code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
        let functions = starts.filter_map(|(start, _)| {
            let name: String =
                self.code[start + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let signature = &self.code[start..];
            let arguments = closing(signature, signature.find('(')?);
            let body = arguments + signature[arguments..].find(['{', ';'])?;
            let has_body = !name.is_empty() && signature[body..].starts_with('{');
            let end = start + closing(signature, body) - 1;
            has_body.then(|| Function { name, lines: line_of(start)..=line_of(end) })
        });
        functions.collect()
    }
}

/// The file of `mod name;`, without `.rs`; `#[path]` is honoured. `code` and `text` are the item without
/// its `cfg`, as code and as it is written.
fn test_file(path: &str, code: &str, text: &str) -> Option<String> {
    let (before, name) = code.trim_end().strip_suffix(';')?.rsplit_once("mod ")?;
    let folder = path.trim_end_matches(".rs").trim_end_matches("mod").trim_end_matches('/');
    if before.contains("path") {
        let file = text.split('"').nth(1)?.trim_end_matches(".rs").to_owned();
        // Relative to the folder of the file itself, not of its module.
        return Some(Path::new(path).with_file_name(file).display().to_string());
    }
    let name = name.trim();
    Some(if matches!(folder, "lib" | "main" | "") { name.to_owned() } else { format!("{folder}/{name}") })
}

/// Reads the path that begins here, adds it with everything in its groups, and returns what follows.
fn read_path<'c>(code: &'c str, prefix: &str, paths: &mut Vec<String>) -> &'c str {
    let end = code.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(code.len());
    let path = format!("{prefix}{}", &code[..end]);
    let rest = &code[end..];
    let Some(behind) = rest.trim_start().strip_prefix("::").map(str::trim_start) else {
        paths.push(path);
        return rest;
    };
    if behind.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        return read_path(behind, &format!("{path}::"), paths);
    }
    if !behind.starts_with('{') {
        paths.push(path);
        return behind;
    }
    let close = closing(behind, 0);
    let mut group = &behind[1..close - 1];
    while let Some(start) = group.find(|c: char| c.is_alphabetic() || c == '_') {
        group = read_path(&group[start..], &format!("{path}::"), paths);
    }
    &behind[close..]
}

#[test]
fn paths_groups_and_functions_are_read() {
    let text = "use std::{fs, io::{self, Read}};\nimpl X { fn a(f: impl Fn(u8)) -> Y {\n b::c::<T>() } }\n";
    let source = Source::new("room/part.rs", text);
    for path in ["std::fs", "std::io::self", "std::io::Read", "b::c"] {
        assert!(source.paths().iter().any(|p| p == path), "{path} in {:?}", source.paths());
    }
    let functions: Vec<_> = source.functions().into_iter().map(|f| (f.name, f.lines)).collect();
    assert_eq!(functions, [("a".to_owned(), 2..=3)]);
}

#[test]
fn modules_of_tests_are_found_in_their_files() {
    let file = |path: &str, text: &str| Source::new(path, text).test_files;
    assert_eq!(file("txn/mod.rs", "#[cfg(test)]\nmod tests;\n"), ["txn/tests"]);
    assert_eq!(file("txn/a.rs", "#[cfg(test)]\nmod tests;\n"), ["txn/a/tests"]);
    assert_eq!(file("txn/a.rs", "#[cfg(test)]\n#[path = \"b_tests.rs\"]\nmod tests;\n"), ["txn/b_tests"]);
    assert!(
        is_of("txn/tests.rs", "txn/tests")
            && is_of("txn/tests/x.rs", "txn/tests")
            && !is_of("txn/tests2.rs", "txn/tests")
    );
}
