//! What is fuzzed: each target takes any bytes, must not panic, and asserts what always holds. Tests replay what was
//! kept (`tests/corpus`), the fuzzer (`tests/fuzz/run`) looks for more.

mod config;
mod decoder;
mod keys;
mod load;
mod pieces;
mod plans;
mod redis;
mod wire;

use std::path::{Path, PathBuf};

/// One way into the program.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Inputs to begin with, made of what real servers said.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Texts that inputs of this kind are made of.
    pub words: &'static [&'static str],
}

pub const TARGETS: &[Target] = &[
    Target { name: "decoder", run: decoder::run, seeds: decoder::seeds, words: decoder::WORDS },
    Target { name: "load", run: load::run, seeds: load::seeds, words: load::WORDS },
    Target { name: "redis", run: redis::run, seeds: redis::seeds, words: redis::WORDS },
    Target { name: "config", run: config::run, seeds: config::seeds, words: config::WORDS },
    Target { name: "keys", run: keys::run, seeds: keys::seeds, words: keys::WORDS },
    Target { name: "wire", run: wire::run, seeds: wire::seeds, words: wire::WORDS },
];

pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// Inputs that once broke the target, by file name.
pub fn regressions(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    files(&corpus().join("regressions").join(target))
}

/// Every file of a folder and its bytes; nothing where there is no folder.
pub fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap_or_default())).collect()
}
