//! One drain against another, for what changes between the two.

use super::daemon::Drained;
use super::limits::{micros_each, per_second};
use super::report::{Row, Unit};

/// The figures of a drain, each beside the same of `reference`, which `what` names.
pub fn rows(drained: &Drained, what: &'static str, reference: &Drained) -> Vec<Row> {
    let rate = |of: &Drained| per_second(of.events, of.time);
    let per_cpu = |of: &Drained| per_second(of.events, of.cpu.lockstep + of.cpu.redis);
    let row = |name, unit, figure: &dyn Fn(&Drained) -> f64| {
        Row::new(name, figure(drained), unit).beside(what, figure(reference))
    };
    let cost = |name, cpu: &dyn Fn(&Drained) -> std::time::Duration| {
        row(name, Unit::MicrosPerEvent, &|of| micros_each(of.events, cpu(of)))
    };
    vec![
        Row::new("events", drained.events, Unit::Events).beside("written", drained.written as f64),
        row("drain", Unit::EventsPerSecond, &rate),
        row("drain per CPU second, lockstep and Redis", Unit::EventsPerSecond, &per_cpu),
        cost("walsender, CPU", &|of| of.cpu.walsender),
        cost("lockstep, CPU", &|of| of.cpu.lockstep),
        cost("Redis, CPU", &|of| of.cpu.redis),
        row("lockstep, peak resident memory", Unit::Bytes, &|of| of.peak as f64),
    ]
}
