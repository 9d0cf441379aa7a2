//! The loop: take an input that was worth keeping, change it, run it, keep it if it went where none went before.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::coverage::{self, Seen};
use super::mutate::{Dice, mutate};
use super::targets::{self, Target};

/// An input that takes longer hangs.
const HANGS: Duration = Duration::from_secs(10);
/// Runs between two looks at the clock, and at what was compared.
const RUNS_BETWEEN_LOOKS: u64 = 64;
/// Kept inputs of one session: beyond it the oldest found ones make room.
const KEPT: usize = 20_000;

/// The input that is run now.
pub fn current(folder: &Path) -> PathBuf {
    folder.join(".current")
}

pub fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

pub struct Fuzzer {
    target: &'static Target,
    folder: PathBuf,
    current: File,
    dice: Dice,
    kept: Vec<Vec<u8>>,
    seen: Seen,
    runs: Arc<AtomicU64>,
}

impl Fuzzer {
    pub fn new(target: &'static Target, seed: u64, folder: PathBuf) -> Fuzzer {
        let current = File::create(current(&folder)).expect("the current input");
        let (kept, seen, runs) = (Vec::new(), Seen::default(), Arc::default());
        Fuzzer { target, folder, current, dice: Dice(seed.wrapping_mul(2) | 1), kept, seen, runs }
    }

    /// Fuzzes for so long; a fault ends the process.
    pub fn run(mut self, time: Duration) -> ExitCode {
        self.watch_for_hangs();
        // It begins with what real servers said, what was found before, and what once broke it.
        let known = (self.target.seeds)().into_iter();
        let found =
            targets::files(&self.folder).into_iter().filter(|(path, _)| *path != current(&self.folder));
        let broke = targets::regressions(self.target.name).into_iter();
        let begin: Vec<Vec<u8>> = known.chain(found.chain(broke).map(|(_, bytes)| bytes)).collect();
        for input in begin {
            self.try_out(&input);
            self.kept.push(input);
        }
        assert!(!self.kept.is_empty(), "{} has nothing to begin with", self.target.name);
        let (seeds, edges, since) = (self.kept.len(), self.seen.edges(), Instant::now());
        let mut constants = Vec::new();
        while since.elapsed() < time {
            constants.clone_from(&coverage::constants());
            for _ in 0..RUNS_BETWEEN_LOOKS {
                let (one, other) = (self.dice.below(self.kept.len()), self.dice.below(self.kept.len()));
                let mut input = self.kept[one].clone();
                mutate(&mut input, &self.kept[other], self.target.words, &constants, &mut self.dice);
                if self.try_out(&input) {
                    self.keep(input, seeds);
                }
            }
        }
        let runs = self.runs.load(Ordering::Relaxed);
        println!(
            "{:<8} {runs:>10} runs, {:>7.0} a second, {edges} edges at first, {} now, {} inputs{}",
            self.target.name,
            runs as f64 / since.elapsed().as_secs_f64(),
            self.seen.edges(),
            self.kept.len(),
            if coverage::IS_BLIND { " (blind: not instrumented)" } else { "" }
        );
        ExitCode::SUCCESS
    }

    /// Whether it went where no input went before.
    fn try_out(&mut self, input: &[u8]) -> bool {
        // Read by the one that watches, when this process is no more.
        let _ = self.current.write_all_at(input, 0).and_then(|()| self.current.set_len(input.len() as u64));
        (self.target.run)(input);
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.seen.take()
    }

    fn keep(&mut self, input: Vec<u8>, seeds: usize) {
        if self.kept.len() >= KEPT {
            self.kept.remove(seeds.min(self.kept.len() - 1));
        }
        let _ = std::fs::write(self.folder.join(format!("{:016x}", hash(&input))), &input);
        self.kept.push(input);
    }

    fn watch_for_hangs(&self) {
        let (runs, name) = (Arc::clone(&self.runs), self.target.name);
        std::thread::spawn(move || {
            let mut before = None;
            loop {
                std::thread::sleep(HANGS);
                let now = runs.load(Ordering::Relaxed);
                if before == Some(now) {
                    let _ = writeln!(std::io::stderr(), "{name}: one input takes more than {HANGS:?}");
                    std::process::abort();
                }
                before = Some(now);
            }
        });
    }
}
