//! Many seeds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::invariants::{Counts, Failure};
use crate::schedule::{Outcome, Schedule};
use crate::shrink;

/// Seeds that every run of the tests goes through.
const SEEDS: u64 = 20_000;
/// Seeds in which who leads is killed at each moment there is.
const CRASHED_SEEDS: u64 = 12;
/// Seeds and the moment: a load had passed over a user whose row, of which a value was not sent, no snapshot saw yet; who
/// was to read the user once more died before.
const DIED_ONCE: [(u64, usize); 2] = [(39, 190), (116, 264)];
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

fn run_all(from: u64, seeds: u64, tells: bool, run: fn(u64) -> Outcome) -> Sum {
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
                    let outcome = run(seed);
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

fn as_drawn(seed: u64) -> Outcome {
    Schedule::of_seed(seed).run()
}

/// As often as there are moments in it, and at each of them who leads is killed once.
fn killed_at_each_moment(seed: u64) -> Outcome {
    let schedule = Schedule::of_seed(seed);
    let mut all = schedule.run();
    for moment in 1..=all.moments {
        let killed = Schedule { kill: Some(moment), ..schedule.clone() }.run();
        all.counts.add(killed.counts);
        if let Some(Failure { rule, what }) = killed.failure {
            all.failure = Some(Failure { rule, what: format!("{what}, killed at moment {moment}") });
            break;
        }
    }
    all
}

impl Sum {
    fn add(&mut self, seed: u64, counts: Counts, failure: Option<Failure>) {
        self.seeds += 1;
        self.counts.add(counts);
        self.failures.extend(failure.map(|failure| (seed, failure)));
    }

    /// Where what fails does so as it was drawn, the shortest schedule is told.
    fn has_none(self, is_drawn: bool) {
        let Some((seed, failure)) = self.failures.first() else { return };
        if is_drawn {
            explain(*seed, None, failure);
        }
        panic!("seed {seed}: {failure}");
    }
}

/// Prints the shortest schedule of a failing seed, and how to see it again.
fn explain(seed: u64, kill: Option<usize>, failure: &Failure) {
    let drawn = Schedule { kill, ..Schedule::of_seed(seed) };
    // A moment is counted by the steps before it.
    let shortest = if kill.is_none() { shrink::shrink(drawn, failure) } else { drawn };
    let outcome = Schedule { traced: true, ..shortest.clone() }.run();
    println!("seed {seed} breaks a promise: {failure}");
    println!("{:?}", shortest.setup);
    println!("{} steps are enough:", shortest.steps.len());
    outcome.trace.iter().for_each(|line| println!("  {line}"));
    println!("  {:?}", outcome.failure);
    println!("again: tests/sim --seed {seed}");
    println!("as a regression: (\"{}\", {:?}, &{:#x?}),", failure.rule, shortest.setup, shortest.steps);
}

fn variable<N: std::str::FromStr<Err: std::fmt::Debug>>(name: &str) -> Option<N> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// From which seed on, and how many.
fn asked(otherwise: u64) -> (u64, u64) {
    (variable("SIM_FROM").unwrap_or(0), variable("SIM_SEEDS").unwrap_or(otherwise))
}

#[test]
fn every_promise_holds_in_every_seed() {
    run_all(0, SEEDS, false, as_drawn).has_none(true);
}

#[test]
fn a_crash_that_broke_a_promise_once_breaks_none_any_more() {
    for (seed, moment) in DIED_ONCE {
        let killed = Schedule { kill: Some(moment), ..Schedule::of_seed(seed) };
        assert_eq!(killed.run().failure, None, "seed {seed}, killed at moment {moment}");
    }
}

#[test]
fn a_crash_at_any_moment_breaks_no_promise() {
    run_all(0, CRASHED_SEEDS, false, killed_at_each_moment).has_none(false);
}

#[test]
#[ignore = "tests/sim runs it"]
fn many_seeds() {
    let (from, seeds) = asked(100_000);
    run_all(from, seeds, true, as_drawn).has_none(true);
}

#[test]
#[ignore = "tests/sim --crashes runs it"]
fn many_crashes() {
    let (from, seeds) = asked(1_000);
    run_all(from, seeds, true, killed_at_each_moment).has_none(false);
}

#[test]
#[ignore = "tests/sim runs it"]
fn one_seed() {
    let (seed, kill) = (variable("SIM_SEED").unwrap_or(0), variable("SIM_KILL"));
    match (Schedule { kill, ..Schedule::of_seed(seed) }).run().failure {
        Some(failure) => explain(seed, kill, &failure),
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
