//! A small coverage-guided fuzzer on the stable toolchain, without other tools: `tests/fuzz/run`.
//!
//! The script has rustc count edges and report comparisons (`-C passes=sancov-module`) in the crate under test; built
//! without, as every check of the sources does, it is blind and says so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "it is made to fall over"
)]

mod coverage;
mod engine;
mod mutate;
mod targets;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use engine::Fuzzer;
use targets::{TARGETS, Target};

/// Asked to fuzz, not to watch over it.
const WORKER: &str = "--worker";

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_worker = arguments.first().is_some_and(|first| first == WORKER);
    if is_worker {
        arguments.remove(0);
    }
    let [name, seconds, seed, folder] = arguments.as_slice() else { return usage() };
    let target = TARGETS.iter().find(|target| target.name == name);
    let (Some(target), Ok(seconds), Ok(seed)) = (target, seconds.parse(), seed.parse()) else {
        return usage();
    };
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder).expect("the folder of found inputs");
    match is_worker {
        true => Fuzzer::new(target, seed, folder).run(Duration::from_secs(seconds)),
        false => watch_over(target, &folder),
    }
}

fn usage() -> ExitCode {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    eprintln!("usage: fuzz {} SECONDS SEED FOLDER", names.join("|"));
    ExitCode::from(2)
}

/// Runs the worker; where it dies or hangs, what it was at is kept as a regression.
fn watch_over(target: &Target, folder: &std::path::Path) -> ExitCode {
    let program = std::env::current_exe().expect("this program");
    let status =
        Command::new(program).arg(WORKER).args(std::env::args().skip(1)).status().expect("the worker");
    if status.success() {
        return ExitCode::SUCCESS;
    }
    let at = std::fs::read(engine::current(folder)).unwrap_or_default();
    let kept = targets::corpus().join("regressions").join(target.name);
    std::fs::create_dir_all(&kept).expect("the folder of regressions");
    let kept = kept.join(format!("{:016x}", engine::hash(&at)));
    std::fs::write(&kept, &at).expect("the regression");
    eprintln!("{}: {status}: the input is kept in {}", target.name, kept.display());
    ExitCode::FAILURE
}
