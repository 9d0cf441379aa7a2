//! The plan of the house, held by a test: which room may import which, what the pure rooms must not
//! touch, and how long files and functions may grow. Only production code counts; tests look anywhere.

mod scanner;
mod source;

use std::path::Path;

use source::Source;

/// Lines of production code in one file.
const FILE_LINES: usize = 400;
/// Lines of one function, from `fn` to its closing brace.
const FUNCTION_LINES: usize = 70;

/// What every room may import, and, of each other, those above them.
const LEAVES: &[&str] = &["lsn", "error", "backoff", "config", "metrics"];

/// Room by room what it may import beside leaves. A room stands below everything it imports, so the
/// table itself cannot have a cycle.
const LAW: &[(&str, &[&str])] = &[
    ("lsn", &[]),
    ("error", &[]),
    ("backoff", &[]),
    ("config", &[]),
    ("metrics", &[]),
    ("health", &[]),
    ("notify", &["health"]),
    // The stages, in the order data passes through them.
    ("pgoutput", &[]),
    ("txn", &["pgoutput"]),
    ("balance", &["pgoutput", "txn"]),
    ("keyplan", &["balance"]),
    ("checkpoint", &[]),
    ("sink", &["balance", "keyplan", "checkpoint"]),
    ("wire", &[]),
    ("pipeline", &["health", "pgoutput", "txn", "balance", "keyplan", "checkpoint", "sink", "wire"]),
    // The control plane: it imports stages, never the reverse.
    ("catalog", &["wire"]),
    ("preflight", &["catalog", "sink"]),
    ("setup", &["catalog", "preflight"]),
    (
        "resync",
        &[
            "health",
            "pgoutput",
            "txn",
            "balance",
            "keyplan",
            "checkpoint",
            "sink",
            "wire",
            "pipeline",
            "catalog",
        ],
    ),
    ("inspect", &["health", "pgoutput", "txn", "balance", "keyplan", "sink", "wire", "pipeline", "resync"]),
    ("verify", &["pgoutput", "txn", "balance", "keyplan", "sink", "wire", "resync", "catalog"]),
    ("audit", &["health", "balance", "keyplan", "sink", "wire", "pipeline", "resync", "catalog", "verify"]),
    (
        "supervise",
        &[
            "health",
            "balance",
            "keyplan",
            "checkpoint",
            "sink",
            "wire",
            "pipeline",
            "resync",
            "catalog",
            "preflight",
        ],
    ),
    ("http", &["health", "catalog", "resync", "inspect", "supervise"]),
    ("app", EVERYTHING),
    ("cli", EVERYTHING),
];
/// The two that put the parts together.
const EVERYTHING: &[&str] = &["*"];

/// Rooms and files without IO: they are fuzzed, property-tested and simulated at full speed.
const PURE: &[&str] =
    &["pgoutput/", "txn/", "balance/", "keyplan/", "checkpoint/", "pipeline/unseen", "supervise/start"];
const NOT_IN_PURE: &[&str] =
    &["tokio", "fred", "std::net", "std::fs", "std::thread", "std::time::Instant", "std::time::SystemTime"];

/// fred can be changed for something else: who else names it is an outsider that looks at Redis by itself.
const NAMES_FRED: &[&str] = &["sink/node", "cli/demo/", "cli/throwaway/", "cli/bench/recovery/foreign"];

/// Amounts pass through here, and never as floats.
const EXACT: &[&str] = &["pgoutput/", "txn/", "balance/", "keyplan/", "sink/"];
/// The one function that may: it compares what a reader's double would print, and returns a bool.
const MAY_NAME_FLOATS: (&str, &str) = ("balance/amount.rs", "fits_double");

#[test]
fn every_room_imports_only_what_the_law_allows() {
    assert_eq!(violations(unlawful_imports), [] as [&str; 0]);
}

#[test]
fn the_law_has_no_cycles() {
    for (index, (room, allowed)) in LAW.iter().enumerate() {
        let above: Vec<&str> = LAW[..index].iter().map(|(room, _)| *room).collect();
        let below = allowed.iter().find(|name| **name != "*" && !above.contains(name));
        assert_eq!(below, None, "{room} imports a room below itself");
    }
}

#[test]
fn pure_rooms_touch_no_io_and_no_clock() {
    assert_eq!(violations(impure_paths), [] as [&str; 0]);
}

#[test]
fn only_the_node_of_the_sink_names_fred() {
    assert_eq!(violations(fred_elsewhere), [] as [&str; 0]);
}

#[test]
fn no_float_meets_an_amount() {
    assert_eq!(violations(floats), [] as [&str; 0]);
}

#[test]
fn files_and_functions_fit_a_screen() {
    assert_eq!(violations(too_long), [] as [&str; 0]);
}

#[test]
fn planted_violations_are_found() {
    let find =
        |path: &str, text: &str, rule: fn(&Source) -> Vec<String>| rule(&Source::new(path, text)).len();
    assert_eq!(find("txn/mod.rs", "use crate::pgoutput::Message;\n", unlawful_imports), 0);
    assert_eq!(find("txn/mod.rs", "use crate::{lsn::Lsn, sink::Flight};\n", unlawful_imports), 1);
    assert_eq!(find("txn/a.rs", "fn f() { super::super::sink::go() }\n", unlawful_imports), 1);
    assert_eq!(find("txn/a.rs", "use super::{Row, super::wire};\n", unlawful_imports), 1);
    assert_eq!(find("txn/a.rs", "// crate::sink\nconst A: &str = \"crate::sink\";\n", unlawful_imports), 0);
    assert_eq!(find("txn/a.rs", "#[cfg(test)]\nmod tests { use crate::sink; }\n", unlawful_imports), 0);
    assert_eq!(find("cellar/mod.rs", "use crate::lsn;\n", unlawful_imports), 1, "a room without a law");

    assert_eq!(find("keyplan/mod.rs", "use std::{fs, fmt};\n", impure_paths), 1);
    assert_eq!(find("keyplan/mod.rs", "use std::time::{Duration, Instant};\n", impure_paths), 1);
    assert_eq!(find("keyplan/mod.rs", "async fn f() { tokio::time::sleep(d).await }\n", impure_paths), 1);
    assert_eq!(find("wire/mod.rs", "use tokio::net;\n", impure_paths), 0);

    assert_eq!(find("sink/apply.rs", "use fred::prelude::Client;\n", fred_elsewhere), 1);
    assert_eq!(find("sink/node/tls.rs", "use fred::prelude::Client;\n", fred_elsewhere), 0);

    assert_eq!(find("sink/apply.rs", "fn f(x: f64) {}\n", floats), 1);
    assert_eq!(
        find("balance/amount.rs", "fn fits_double() { let x: f64; }\nfn g() -> f32 { 0.5 }\n", floats),
        1
    );

    let long = |lines: usize| format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2));
    assert_eq!(find("txn/a.rs", &long(FUNCTION_LINES), too_long), 0);
    assert_eq!(find("txn/a.rs", &long(FUNCTION_LINES + 1), too_long), 1);
    assert_eq!(find("txn/a.rs", &"const A: u8 = 1;\n".repeat(FILE_LINES + 1), too_long), 1);
    let tested =
        format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{}}}\n", "    // a case\n".repeat(FILE_LINES));
    assert_eq!(find("txn/a.rs", &tested, too_long), 0);
}

fn violations(rule: fn(&Source) -> Vec<String>) -> Vec<String> {
    let sources = source::production(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 10, "the sources are there");
    sources
        .iter()
        .flat_map(|source| rule(source).into_iter().map(|what| format!("src/{}: {what}", source.path)))
        .collect()
}

fn unlawful_imports(source: &Source) -> Vec<String> {
    let room = source.room();
    if matches!(room, "lib" | "main") {
        return Vec::new();
    }
    let Some(place) = LAW.iter().position(|(name, _)| *name == room) else {
        return vec![format!(
            "room {room} is not in the law: give it a line in tests/integration/architecture.rs"
        )];
    };
    let (_, allowed) = LAW[place];
    let lawful = |other: &str| {
        let leaf = LEAVES.contains(&other) && LAW.iter().position(|(name, _)| *name == other) < Some(place);
        other == room || leaf || allowed == EVERYTHING || allowed.contains(&other)
    };
    let other_rooms = source.imported_rooms();
    other_rooms.into_iter().filter(|other| !lawful(other)).map(|other| format!("imports {other}")).collect()
}

fn impure_paths(source: &Source) -> Vec<String> {
    if !is_in(source, PURE) {
        return Vec::new();
    }
    let forbidden = |path: &String| {
        NOT_IN_PURE
            .iter()
            .any(|bad| path.strip_prefix(bad).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")))
    };
    source.paths().into_iter().filter(forbidden).map(|path| format!("uses {path}")).collect()
}

fn fred_elsewhere(source: &Source) -> Vec<String> {
    if is_in(source, NAMES_FRED) {
        return Vec::new();
    }
    let of_fred = |path: &String| path.split("::").next() == Some("fred");
    source.paths().into_iter().filter(of_fred).map(|path| format!("uses {path}")).collect()
}

fn floats(source: &Source) -> Vec<String> {
    if !is_in(source, EXACT) {
        return Vec::new();
    }
    let words = source.words().filter(|(_, word)| matches!(*word, "f32" | "f64"));
    let outside = words.filter(|(line, _)| {
        let function = source.functions().into_iter().rfind(|f| f.lines.contains(line)).map(|f| f.name);
        (source.path.as_str(), function.as_deref()) != (MAY_NAME_FLOATS.0, Some(MAY_NAME_FLOATS.1))
    });
    outside.map(|(line, word)| format!("line {line} names {word}")).collect()
}

fn too_long(source: &Source) -> Vec<String> {
    let lines = source.production_lines();
    let file =
        (lines > FILE_LINES).then(|| format!("{lines} lines of production code, more than {FILE_LINES}"));
    let long = source.functions().into_iter().filter(|f| f.lines.clone().count() > FUNCTION_LINES);
    let functions =
        long.map(|f| format!("fn {} has {} lines, more than {FUNCTION_LINES}", f.name, f.lines.count()));
    file.into_iter().chain(functions).collect()
}

fn is_in(source: &Source, places: &[&str]) -> bool {
    places.iter().any(|place| source.path.starts_with(place))
}
