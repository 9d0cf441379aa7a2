//! Many seeds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::invariants::{Counts, Failure};
use crate::schedule::Schedule;
use crate::shrink;

/// Seeds that every run of the tests goes through.
const SEEDS: u64 = 20_000;
/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);
/// Failing seeds after which a run ends.
const MOST_FAILURES: usize = 3;

/// What many seeds came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    counts: Counts,
    failures: Vec<(u64, Failure)>,
}

fn run_all(from: u64, seeds: u64, tells: bool) -> Sum {
    let (next, sum) = (AtomicU64::new(from), Mutex::new(Sum::default()));
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        return;
                    }
                    let outcome = Schedule::of_seed(seed).run();
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.add(seed, outcome.counts, outcome.failure);
                    if sum.failures.len() >= MOST_FAILURES {
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                    }
                }
            });
        }
        let mut told = begun;
        while tells && next.load(Ordering::Relaxed) < from + seeds {
            std::thread::sleep(Duration::from_millis(50));
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let done = sum.lock().unwrap_or_else(PoisonError::into_inner).seeds;
                let rate = done as f64 / begun.elapsed().as_secs_f64();
                println!("{done} of {seeds} seeds, {rate:.0} a second");
            }
        }
    });
    let mut sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    sum.failures.iter().for_each(|(seed, failure)| println!("seed {seed}: {failure}"));
    sum.failures.sort_by_key(|(seed, _)| *seed);
    let seconds = begun.elapsed().as_secs_f64();
    let Counts { commits, published, doubled, unpublished, epochs, moved_back } = sum.counts;
    println!("seeds        {:>12}", sum.seeds);
    println!("seconds      {seconds:>12.1}");
    println!("seeds/s      {:>12.0}", sum.seeds as f64 / seconds);
    println!("commits      {commits:>12}");
    println!("published    {published:>12}");
    println!("doubled      {doubled:>12}  (redis had lost the fence)");
    println!("unpublished  {unpublished:>12}  (in a gap of the slot)");
    println!("epochs       {epochs:>12}  (redis had lost every checkpoint)");
    println!("moved back   {moved_back:>12}  (in such an epoch)");
    println!("failures     {:>12}", sum.failures.len());
    sum
}

impl Sum {
    fn add(&mut self, seed: u64, counts: Counts, failure: Option<Failure>) {
        self.seeds += 1;
        self.counts.commits += counts.commits;
        self.counts.published += counts.published;
        self.counts.doubled += counts.doubled;
        self.counts.unpublished += counts.unpublished;
        self.counts.epochs += counts.epochs;
        self.counts.moved_back += counts.moved_back;
        self.failures.extend(failure.map(|failure| (seed, failure)));
    }

    fn has_none(self) {
        let Some((seed, failure)) = self.failures.first() else { return };
        explain(*seed, failure);
        panic!("seed {seed}: {failure}");
    }
}

/// Prints the shortest schedule of a failing seed, and how to see it again.
fn explain(seed: u64, failure: &Failure) {
    let shortest = shrink::shrink(Schedule::of_seed(seed), failure);
    let outcome = Schedule { traced: true, ..shortest.clone() }.run();
    println!("seed {seed} breaks a promise: {failure}");
    println!("{:?}", shortest.setup);
    println!("{} steps are enough:", shortest.steps.len());
    outcome.trace.iter().for_each(|line| println!("  {line}"));
    println!("  {:?}", outcome.failure);
    println!("again: tests/sim --seed {seed}");
    println!("as a regression: (\"{}\", {:?}, &{:#x?}),", failure.rule, shortest.setup, shortest.steps);
}

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn every_promise_holds_in_every_seed() {
    run_all(0, SEEDS, false).has_none();
}

#[test]
#[ignore = "tests/sim runs it"]
fn many_seeds() {
    let (from, seeds) = (variable("SIM_FROM", 0), variable("SIM_SEEDS", 100_000));
    run_all(from, seeds, true).has_none();
}

#[test]
#[ignore = "tests/sim runs it"]
fn one_seed() {
    let seed = variable("SIM_SEED", 0);
    match Schedule::of_seed(seed).run().failure {
        Some(failure) => explain(seed, &failure),
        None => println!("seed {seed} keeps every promise"),
    }
}

#[test]
fn a_seed_is_the_same_each_time() {
    for seed in 0..200 {
        let run = || Schedule { traced: true, ..Schedule::of_seed(seed) }.run().trace;
        assert!(run() == run(), "seed {seed}");
    }
}
