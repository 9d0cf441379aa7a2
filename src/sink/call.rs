//! Plans gathered into script calls of bounded size.

use std::collections::HashMap;

use bytes::Bytes;

use super::Flight;
use super::group::Part;
use super::node::Command;
use super::request::{Frame, Request};
use super::script::Scripts;
use super::slots::Address;

/// Plans in one script call: more gain nothing, and one call stays well under a millisecond.
const CALL_PLANS: usize = 16;
/// Bytes of values and events after which a call takes no further plan.
const CALL_BYTES: usize = 64 * 1024;

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
    /// What is to be written, once: the call, and where it is needed an ASKING before it.
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
    request: Request,
}

/// Fills calls one after the other.
pub struct CallWriter<'a> {
    flight: &'a Flight,
    frame: Frame,
    open: Option<Open>,
    /// The position that the last part with this fence will leave there.
    last: HashMap<Bytes, Bytes>,
    calls: Vec<Call>,
}

impl<'a> CallWriter<'a> {
    /// Calls for the plans of `flight`.
    pub fn new(flight: &'a Flight, frame: Frame) -> CallWriter<'a> {
        let last = HashMap::with_capacity(flight.plans.len());
        CallWriter { flight, frame, open: None, last, calls: Vec::new() }
    }

    /// The calls that are complete, in order, once.
    pub fn take(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.calls)
    }

    /// Adds a part; `derived` are the plan's derived keys in the part's slot.
    pub fn add(&mut self, work: usize, part: &Part, derived: &[Bytes], target: Target) {
        let Some(plan) = self.flight.plans.get(part.plan) else { return };
        let full = |open: &Open| {
            target.alone
                || open.works.len() >= CALL_PLANS
                || open.request.bytes() >= CALL_BYTES
                || open.address != target.address
        };
        if self.open.as_ref().is_some_and(full) {
            self.close();
        }
        let Target { address, scripts, asked, .. } = target;
        let open = self.open.get_or_insert_with(|| Open {
            address,
            works: Vec::with_capacity(CALL_PLANS),
            scripts,
            request: Request::new(),
        });
        let streams = self.frame.snapshot.is_none();
        let after = self.last.get(&part.fence).filter(|_| streams);
        let position = open.request.add((plan, part), &self.frame, derived, after);
        open.works.push(work);
        self.last.insert(part.fence.clone(), position);
        if asked {
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
        if let Some(Open { address, works, scripts, request }) = self.open.take() {
            let (keys, args) = request.finish(&self.frame);
            self.calls.push(Call {
                address,
                works,
                asking: false,
                commands: vec![scripts.apply(keys, args)],
            });
        }
    }
}
