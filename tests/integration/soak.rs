//! Faults drawn at random from those of `chaos`, one after the other, for as long as is asked: `tests/soak`.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use crate::chaos::{FAULTS, Fault, Report, Trial};
use crate::harness::On;
use crate::harness::workload::Dice;

/// So that the soak itself is tested with everything else.
const SHORT: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn a_short_soak_on_one_redis_keeps_every_promise() {
    assert!(Soak { on: On::Single, seed: 7, time: SHORT }.run().await, "see the table");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_soak_on_a_cluster_keeps_every_promise() {
    assert!(Soak { on: On::Cluster, seed: 7, time: SHORT }.run().await, "see the table");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/soak runs it"]
async fn for_as_long_as_asked() {
    let asked = |name: &str| std::env::var(name).ok();
    let number = |name, default| asked(name).map_or(default, |text| text.parse().expect(name));
    let seed = number("LOCKSTEP_SOAK_SEED", 1);
    let on = if asked("LOCKSTEP_SOAK_ON").as_deref() == Some("cluster") { On::Cluster } else { On::Single };
    let time = Duration::from_secs(number("LOCKSTEP_SOAK_SECONDS", 60));
    assert!(Soak { on, seed, time }.run().await, "see the table");
}

struct Soak {
    on: On,
    seed: u64,
    time: Duration,
}

/// What came of one kind of fault.
#[derive(Default)]
struct Row {
    times: u32,
    report: Report,
    /// Faults after which the test itself could not go on.
    stuck: u32,
}

impl Soak {
    /// Whether every promise was kept.
    async fn run(self) -> bool {
        let begin = Instant::now();
        println!("soak: {:?}, seed {}, {} s", self.on, self.seed, self.time.as_secs());
        let mut trial = Trial::start(self.on, self.seed).await;
        // Of its own, so that what a fault leaves to chance does not choose the next one.
        let mut dice = Dice(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let drawn: Vec<&Fault> = FAULTS.iter().filter(|fault| (fault.fits)(self.on)).collect();
        let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
        while begin.elapsed() < self.time {
            let fault = drawn[dice.below(drawn.len() as u64) as usize];
            let row = rows.entry(fault.name).or_default();
            row.times += 1;
            let since = Instant::now();
            let one = async {
                (fault.inject)(&mut trial).await;
                let injected = since.elapsed();
                (injected, trial.judge().await)
            };
            // What the harness waited for in vain is no reason to lose the table.
            let Ok((injected, report)) = AssertUnwindSafe(one).catch_unwind().await else {
                row.stuck += 1;
                println!("{:>6.1} s  {:<42} STUCK", since.duration_since(begin).as_secs_f64(), fault.name);
                println!("--- log ---\n{}\n---", trial.world.lockstep.log());
                break;
            };
            println!(
                "{:>6.1} s  {:<42} {:>5.1} s, healed in {:>5.2} s, {:>5} changes{}",
                since.duration_since(begin).as_secs_f64(),
                fault.name,
                injected.as_secs_f64(),
                report.slowest_heal.as_secs_f64(),
                report.verdict.committed,
                if report.is_kept() { "" } else { "  BROKEN" }
            );
            if !report.is_kept() {
                println!("{report:#?}\n--- log ---\n{}\n---", trial.world.lockstep.log());
            }
            row.report.add(report);
        }
        print_table(&rows)
    }
}

/// Whether every row is clean.
fn print_table(rows: &BTreeMap<&str, Row>) -> bool {
    let mut all = Row::default();
    println!(
        "\n{:<42} {:>5} {:>8} {:>8} {:>8} {:>7} {:>5} {:>5} {:>22} {:>9} {:>9}",
        "fault",
        "times",
        "changes",
        "events",
        "doubled",
        "lost",
        "wrong",
        "stuck",
        "where Redis lost it *",
        "heal",
        "memory"
    );
    for (name, row) in rows {
        print_row(name, row);
        all.times += row.times;
        all.stuck += row.stuck;
        all.report.add(row.report.clone());
    }
    print_row("all", &all);
    println!(
        "* events doubled, events in the gap, values older, after Redis lost what it held; no promise covers them"
    );
    all.report.is_kept() && all.stuck == 0
}

fn print_row(name: &str, Row { times, report, stuck }: &Row) {
    let verdict = &report.verdict;
    let by_loss =
        format!("{} / {} / {}", verdict.doubled_by_loss, verdict.lost_by_loss, verdict.older_by_loss);
    println!(
        "{name:<42} {times:>5} {:>8} {:>8} {:>8} {:>7} {:>5} {stuck:>5} {by_loss:>22} {:>7.2} s {:>5} MiB",
        verdict.committed,
        verdict.events,
        verdict.doubled.len(),
        verdict.lost.len(),
        verdict.wrong_values.len() + report.differences.len(),
        report.slowest_heal.as_secs_f64(),
        report.peak_bytes >> 20,
    );
}
