//! Plans gathered into script calls of bounded size.

use std::collections::HashMap;

use bytes::Bytes;

use super::Flight;
use super::chain;
use super::group::Part;
use super::node::Command;
use super::request::{Frame, Request};
use super::script::Scripts;
use super::slots::Address;

/// Plans in one script call: more gain nothing, and one call stays well under a millisecond.
pub const CALL_PLANS: usize = 16;
/// Bytes of values and events after which a call takes no further plan.
pub const CALL_BYTES: usize = 64 * 1024;

/// Plans after which a node's first calls are written, and its later ones: Redis starts on a few at once, and is
/// never out of work while the next are made.
const FIRST_BATCH_PLANS: usize = CALL_PLANS;
const BATCH_PLANS: usize = 128;

/// One script call.
pub struct Call {
    /// The node it is for.
    pub address: Address,
    /// The works whose parts it carries, in order.
    pub works: Vec<usize>,
    /// Whether the node takes it only behind an ASKING.
    asking: bool,
    command: Command,
}

/// Calls of one node that are written together.
pub struct Batch {
    /// The node.
    pub address: Address,
    calls: Vec<Call>,
    plans: usize,
}

impl Batch {
    /// What is to be written, once: each call, and where it is needed an ASKING before it.
    pub fn take_commands(&mut self) -> Vec<Command> {
        let mut commands = Vec::with_capacity(self.calls.len());
        for call in &mut self.calls {
            if call.asking {
                commands.push(Command::new("ASKING", Vec::new()));
            }
            commands.push(std::mem::take(&mut call.command));
        }
        commands
    }

    /// Each call with its reply, which stands behind the one to its ASKING.
    pub fn answered<R>(self, replies: Vec<R>) -> impl Iterator<Item = (Call, R)> {
        let mut replies = replies.into_iter();
        self.calls.into_iter().filter_map(move |call| {
            let reply = replies.nth(usize::from(call.asking))?;
            Some((call, reply))
        })
    }
}

/// Where a part is to be applied.
#[derive(Clone)]
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
    /// One a node, while it is filled.
    batches: Vec<Batch>,
    /// Plans that fill one now.
    batch_plans: usize,
    calls: usize,
}

impl<'a> CallWriter<'a> {
    /// Calls for the plans of `flight`.
    pub fn new(flight: &'a Flight, frame: Frame) -> CallWriter<'a> {
        let last = HashMap::with_capacity(flight.plans.len());
        CallWriter {
            flight,
            frame,
            open: None,
            last,
            batches: Vec::new(),
            batch_plans: FIRST_BATCH_PLANS,
            calls: 0,
        }
    }

    /// The batches that are full, once.
    pub fn take_full(&mut self) -> Vec<Batch> {
        let full = |batch: &mut Batch| batch.plans >= self.batch_plans;
        let batches: Vec<Batch> = self.batches.extract_if(.., full).collect();
        if !batches.is_empty() {
            self.batch_plans = (self.batch_plans * 2).min(BATCH_PLANS);
        }
        batches
    }

    /// Calls made so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Has the parts that are added next travel in one call, as long as they are no more than [`CALL_PLANS`].
    pub fn make_room(&mut self, parts: usize, target: &Target) {
        let full = |open: &Open| {
            target.alone
                || open.works.len() + parts > CALL_PLANS
                || open.request.bytes() >= CALL_BYTES
                || open.address != target.address
        };
        if self.open.as_ref().is_some_and(full) {
            self.close(false);
        }
    }

    /// Adds a part to the call for which room was made; `derived` are the plan's derived keys in the part's slot. What the
    /// `next` part of the same call makes over is left out.
    pub fn add(
        &mut self,
        (work, part): (usize, &Part),
        next: Option<&Part>,
        derived: &[Bytes],
        target: Target,
    ) {
        let Some(plan) = self.flight.plans.get(part.plan) else { return };
        let Target { address, scripts, asked, .. } = target;
        let open = self.open.get_or_insert_with(|| Open {
            address,
            works: Vec::with_capacity(CALL_PLANS),
            scripts,
            request: Request::new(),
        });
        let streams = self.frame.snapshot.is_none();
        let after = self.last.get(&part.fence).filter(|_| streams);
        let next = next.and_then(|next| Some((self.flight.plans.get(next.plan)?, next)));
        let position = match next {
            None => open.request.add((plan, part), &self.frame, derived, after),
            Some(next) => {
                open.request.add((plan, &chain::left_by(next, (plan, part))), &self.frame, derived, after)
            }
        };
        open.works.push(work);
        self.last.insert(part.fence.clone(), position);
        if asked {
            self.close(true);
        }
    }

    /// The batches that are left.
    pub fn finish(mut self) -> Vec<Batch> {
        self.close(false);
        self.batches
    }

    fn close(&mut self, asking: bool) {
        let Some(Open { address, works, scripts, request }) = self.open.take() else { return };
        let (keys, args) = request.finish(&self.frame);
        let plans = works.len();
        let call = Call { address: address.clone(), works, asking, command: scripts.apply(keys, args) };
        self.calls += 1;
        match self.batches.iter_mut().find(|batch| batch.address == address) {
            Some(batch) => {
                batch.plans += plans;
                batch.calls.push(call);
            }
            None => self.batches.push(Batch { address, calls: vec![call], plans }),
        }
    }
}
