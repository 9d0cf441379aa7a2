//! Plans gathered into script calls of bounded size.

use std::collections::HashMap;

use bytes::Bytes;

use super::group::{self, Frame, Part};
use super::node::Command;
use super::script::Scripts;
use super::slots::Address;
use super::{Fencing, Flight, fence};

/// Plans in one script call: more gain nothing, and one call stays well under a millisecond.
const CALL_PLANS: usize = 16;
/// Arguments after which a call takes no further plan.
const CALL_ARGS: usize = 2_000;
/// How long the fence of a deleted user outlives the keys, in milliseconds: 24 hours.
const TOMBSTONE_MS: &str = "86400000";

/// One script call.
pub struct Call {
    /// The node it is for.
    pub address: Address,
    /// The works whose parts it carries, in order.
    pub works: Vec<usize>,
    /// Whether the node takes it only behind an ASKING.
    pub asking: bool,
    commands: Vec<Command>,
}

impl Call {
    /// What is to be written, once.
    pub fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }
}

/// Where a part is to be applied.
pub struct Target {
    /// The node.
    pub address: Address,
    /// Whether it only imports the slot yet.
    pub asked: bool,
    /// Whether the part may share its call with no other: in a cluster a call has one slot.
    pub alone: bool,
    /// The scripts there.
    pub scripts: Scripts,
}

struct Open {
    address: Address,
    works: Vec<usize>,
    scripts: Scripts,
    keys: Vec<Bytes>,
    args: Vec<Bytes>,
}

/// Fills calls one after the other.
pub struct CallWriter<'a> {
    flight: &'a Flight,
    frame: Frame,
    head: [Bytes; 5],
    open: Option<Open>,
    /// The position that the last part with this fence will leave there.
    last: HashMap<Bytes, Bytes>,
    calls: Vec<Call>,
}

impl<'a> CallWriter<'a> {
    /// Calls for the plans of `flight`.
    pub fn new(flight: &'a Flight, epoch: u32) -> CallWriter<'a> {
        let word = Bytes::from_static;
        let (mode, [xmin, xmax, running], present) = match &flight.fencing {
            Fencing::Stream => (word(b"stream"), [word(b""), word(b""), word(b"")], None),
            Fencing::Snapshot { snapshot, present } => {
                (word(b"snapshot"), fence::snapshot_texts(snapshot), Some(*present))
            }
        };
        CallWriter {
            flight,
            frame: Frame { epoch, present },
            head: [mode, xmin, xmax, running, word(TOMBSTONE_MS.as_bytes())],
            open: None,
            last: HashMap::with_capacity(flight.plans.len()),
            calls: Vec::new(),
        }
    }

    /// Calls finished so far.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Adds a part; `derived` are the plan's derived keys in the part's slot.
    pub fn add(&mut self, work: usize, part: &Part, derived: &[Bytes], target: Target) {
        let Some(plan) = self.flight.plans.get(part.plan) else { return };
        let full = |open: &Open| {
            target.alone
                || open.works.len() >= CALL_PLANS
                || open.args.len() >= CALL_ARGS
                || open.address != target.address
        };
        if self.open.as_ref().is_some_and(full) {
            self.close();
        }
        let head = &self.head;
        let open = self.open.get_or_insert_with(|| Open {
            address: target.address.clone(),
            works: Vec::with_capacity(CALL_PLANS),
            scripts: target.scripts.clone(),
            keys: Vec::with_capacity(CALL_PLANS * 8),
            args: head.to_vec(),
        });
        let streams = self.frame.present.is_none();
        let after = self.last.get(&part.fence).filter(|_| streams).cloned();
        let position =
            group::encode((plan, part), self.frame, (derived, after), &mut open.keys, &mut open.args);
        open.works.push(work);
        self.last.insert(part.fence.clone(), position);
        if target.asked {
            self.close();
            if let Some(call) = self.calls.last_mut() {
                call.asking = true;
                call.commands.insert(0, Command::new("ASKING", Vec::new()));
            }
        }
    }

    /// The calls, in order.
    pub fn finish(mut self) -> Vec<Call> {
        self.close();
        self.calls
    }

    fn close(&mut self) {
        if let Some(Open { address, works, scripts, keys, args }) = self.open.take() {
            let commands = vec![scripts.apply(keys, args)];
            self.calls.push(Call { address, works, asking: false, commands });
        }
    }
}
