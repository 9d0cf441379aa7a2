//! What one event costs in each pure stage, and in the sink without a server: `cargo bench --locked`.
//!
//! An event is a transaction of one `UPDATE users` and one `INSERT INTO user_transactions`. Each stage is given what the
//! one before it leaves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench fails by panicking"
)]

mod answers;
mod stream;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lockstep::balance::{Event, Mapping, Output};
use lockstep::config::keys::BUILT_IN;
use lockstep::config::{Config, KeyMapSpec, TableSpec};
use lockstep::keyplan::{KeyMap, KeyPlan};
use lockstep::lsn::{Snapshot, Xid64};
use lockstep::metrics::Metrics;
use lockstep::pgoutput::Message;
use lockstep::pipeline::unseen::Unseen;
use lockstep::sink::node::Login;
use lockstep::sink::{self, Fencing, Flight, Outcome, Sink};
use lockstep::txn::{Assembler, Transaction, Window};

/// Events of one measurement: a full flight.
const EVENTS: u32 = 2_048;

/// As the program has them by default.
const WINDOW: Window = Window { rows: 1_000, bytes: 4 << 20 };

const CONFIG: &str = "[postgres]\nurl = \"postgres://l@localhost/l\"\n[redis]\nurl = \"redis://localhost\"\n";

fn assembler() -> Assembler {
    Assembler::new(WINDOW, Xid64(700), "lockstep:lockstep")
}

fn decoded() -> Vec<Message> {
    stream::of(EVENTS).into_iter().map(|bytes| Message::decode(bytes).unwrap()).collect()
}

fn transactions() -> Vec<Transaction> {
    let mut assembler = assembler();
    decoded().into_iter().filter_map(|message| assembler.push(message).unwrap()).collect()
}

fn events() -> Vec<Event> {
    let mut mapping = Mapping::new(&TableSpec::defaults());
    let outputs: Vec<Output> = transactions().iter().flat_map(|window| mapping.events(window)).collect();
    let event = |output| match output {
        Output::Event(event) => *event,
        other => panic!("no event: {other:?}"),
    };
    let events: Vec<Event> = outputs.into_iter().map(event).collect();
    assert_eq!(events.len(), EVENTS as usize, "an event a transaction");
    events
}

fn key_map() -> KeyMap {
    KeyMap::compile(&KeyMapSpec::from_toml(BUILT_IN).unwrap(), &TableSpec::defaults()).unwrap()
}

fn plans() -> Vec<KeyPlan> {
    let map = key_map();
    events().iter().map(|event| map.plan(event)).collect()
}

fn stages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stages");
    group.throughput(Throughput::Elements(u64::from(EVENTS)));
    let wire = stream::of(EVENTS);
    group.bench_function("decode", |bench| {
        let decode = |wire: Vec<_>| {
            wire.into_iter().map(|bytes| Message::decode(bytes).unwrap()).for_each(|it| drop(black_box(it)))
        };
        bench.iter_batched(|| wire.clone(), decode, BatchSize::LargeInput);
    });
    let messages = decoded();
    group.bench_function("assemble", |bench| {
        let assemble = |(mut assembler, messages): (Assembler, Vec<Message>)| {
            messages.into_iter().for_each(|message| drop(black_box(assembler.push(message).unwrap())));
            assembler
        };
        bench.iter_batched(|| (assembler(), messages.clone()), assemble, BatchSize::LargeInput);
    });
    let assembled = transactions();
    group.bench_function("map", |bench| {
        let mut mapping = Mapping::new(&TableSpec::defaults());
        bench.iter(|| assembled.iter().for_each(|transaction| drop(black_box(mapping.events(transaction)))));
    });
    let (map, mapped) = (key_map(), events());
    group.bench_function("plan", |bench| {
        bench.iter(|| mapped.iter().for_each(|event| drop(black_box(map.plan(event)))));
    });
    // The dearest case: no snapshot sees any of them, and then one sees all.
    group.bench_function("unseen", |bench| {
        let all: Snapshot = "1000000:1000000:".parse().unwrap();
        bench.iter(|| {
            let mut unseen = Unseen::default();
            for (xid, event) in (700..).map(Xid64).zip(&mapped) {
                unseen.changed(xid, &event.user);
                unseen.received(event.position.commit_lsn, xid);
            }
            unseen.seen(all.clone());
            assert_eq!(black_box(unseen).first(), None);
        });
    });
    group.finish();
}

/// Cutting plans into calls, encoding these, and reading the replies; writing to the socket is fred's and not in it.
fn sink(criterion: &mut Criterion) {
    let read = Config::read("bench", CONFIG, &|_| None, KeyMap::compile);
    let (config, key_map) = read.unwrap_or_else(|faults| panic!("{faults:?}"));
    let heads = key_map.patterns().map(|pattern| pattern.literal_head().to_owned().into());
    let options = sink::Options {
        derived_prefixes: heads.collect(),
        ..sink::Options::new(&config.postgres.slot, Metrics::new().unwrap().sink)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let login = Login::over(Arc::new(answers::Always));
    let mut sink = runtime.block_on(Sink::log_in(&config.redis, login, options, 0)).unwrap();
    let mut group = criterion.benchmark_group("stages");
    group.throughput(Throughput::Elements(u64::from(EVENTS)));
    group.bench_function("encode", |bench| {
        bench.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                let flight = Flight { plans: plans(), fencing: Fencing::Stream, checkpoint: None };
                let begun = Instant::now();
                let outcomes = runtime.block_on(sink.apply(&flight)).unwrap();
                spent += begun.elapsed();
                assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied(_))));
            }
            spent
        });
    });
    group.finish();
}

criterion_group!(benches, stages, sink);
criterion_main!(benches);
