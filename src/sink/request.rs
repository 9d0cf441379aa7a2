//! One call of `apply.lua` in the making: its KEYS, its request in MessagePack, and the events.
//!
//! What plans have in common (names of fields, channels, times to live) is sent once a call, and values
//! travel in one argument: Redis pays for every argument of a script, and again for every name.
//! Events do not, because Lua hashes every byte of every string it makes.

use std::time::Duration;

use bytes::Bytes;
use rmp::encode::{ByteBuf, write_array_len, write_str_len, write_uint};

use super::epochs::Epochs;
use super::fence;
use super::group::{Part, matches};
use crate::keyplan::{EventJson, Guard, KeyPlan, Step};
use crate::lsn::{Position, Snapshot};

/// How long the fence of a deleted user outlives the keys, in milliseconds: 24 hours.
const TOMBSTONE_MS: u64 = 86_400_000;
/// Room for the values of a call.
const PLANS_BYTES: usize = 32 * 1024;

/// What all parts of a flight share.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The histories the positions belong to.
    pub epochs: Epochs,
    /// What the fences are compared with, for rows of a snapshot: what it saw, and the stream's position;
    /// `None` for rows of the stream, each at its plan's own.
    pub snapshot: Option<(Snapshot, Position)>,
    /// Whether the keys are only deleted, where they are stale: Redis is out of memory.
    pub releases: bool,
}

/// MessagePack as the script's decoder knows it: text of any bytes, whole numbers, lists.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pack(ByteBuf);

impl Pack {
    fn text(&mut self, text: &[u8]) -> &mut Pack {
        let Ok(_) = write_str_len(&mut self.0, length(text.len()));
        self.append(text)
    }

    fn number(&mut self, number: impl Into<u64>) -> &mut Pack {
        let Ok(_) = write_uint(&mut self.0, number.into());
        self
    }

    /// The head of a list; its items follow.
    fn list(&mut self, items: usize) -> &mut Pack {
        let Ok(_) = write_array_len(&mut self.0, length(items));
        self
    }

    fn append(&mut self, packed: &[u8]) -> &mut Pack {
        self.0.as_mut_vec().extend_from_slice(packed);
        self
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    fn clear(&mut self) {
        self.0.as_mut_vec().clear();
    }
}

/// MessagePack counts in 32 bits; nothing here comes near.
fn length(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

/// Items of a list whose length is known at its end.
#[derive(Debug, Default)]
struct Items {
    pack: Pack,
    count: usize,
}

impl Items {
    fn clear(&mut self) {
        self.pack.clear();
        self.count = 0;
    }

    fn item(&mut self) -> &mut Pack {
        self.count += 1;
        &mut self.pack
    }

    fn bytes(&self) -> &[u8] {
        self.pack.bytes()
    }
}

/// A call in the making.
#[derive(Debug)]
pub struct Request {
    fences: Vec<Bytes>,
    keys: Vec<Bytes>,
    layouts: Vec<Pack>,
    plans: Items,
    events: Vec<Bytes>,
    event_bytes: usize,
    /// Of the plan that is being added; kept for the allocations.
    values: Items,
    steps: Items,
    layout: Pack,
}

impl Request {
    /// A call of nothing yet.
    pub fn new() -> Request {
        let plans = Items { pack: Pack(ByteBuf::with_capacity(PLANS_BYTES)), count: 0 };
        Request {
            fences: Vec::new(),
            keys: Vec::new(),
            layouts: Vec::new(),
            plans,
            events: Vec::new(),
            event_bytes: 0,
            values: Items::default(),
            steps: Items::default(),
            layout: Pack::default(),
        }
    }

    /// Adds a part of a plan. `derived` are the plan's derived keys in the part's slot; `after` is the
    /// position that its fence must have reached first. Returns the position it leaves there.
    pub fn add(
        &mut self,
        (plan, part): (&KeyPlan, &Part),
        frame: &Frame,
        derived: &[Bytes],
        after: Option<&Bytes>,
    ) -> Bytes {
        let position = frame.snapshot.as_ref().map_or(plan.position, |(_, present)| *present);
        let fence = fence::text(plan, frame.epochs.at(position.commit_lsn), position);
        let first_key = self.keys.len();
        self.fences.push(part.fence.clone());
        self.values.clear();
        self.steps.clear();
        // What an earlier plan of the user deletes must be gone before this one writes it again.
        if self.fences.iter().rev().skip(1).any(|fence| *fence == part.fence) {
            self.steps.item().list(1).text(b"U");
        }
        let todo = || part.steps.iter().filter_map(|step| plan.steps.get(*step));
        if todo().any(|step| step.guard().stored_balance_differs) {
            for (key, field, balance) in todo().filter_map(|step| plan.balance_of(step)) {
                self.keys.push(key.clone());
                self.steps.item().list(2).text(b"B").text(field.unwrap_or_default().as_bytes());
                self.values.item().text(balance);
            }
        }
        // What is not sent with a change is as it was, and nobody would write it again if it went.
        let spares = frame.releases && !plan.whole && plan.doubt.is_none();
        for step in todo() {
            if step.key().is_some_and(|key| self.keys.iter().skip(first_key).any(|other| other == key)) {
                self.steps.item().list(1).text(b"U");
            }
            self.step(step, derived, spares);
        }
        let events = self.event(&plan.event);
        let number = self.layout(flags(plan), self.keys.len() - first_key, events);
        let all = self.plans.item().list(3 + self.values.count).number(length(number)).text(&fence);
        all.text(after.map(|after| &**after).unwrap_or_default()).append(self.values.bytes());
        fence.slice(..fence::POSITION_BYTES)
    }

    /// Bytes of values and events so far.
    pub fn bytes(&self) -> usize {
        self.plans.bytes().len() + self.event_bytes
    }

    /// The script's KEYS and ARGV.
    pub fn finish(self, frame: &Frame) -> (Vec<Bytes>, Vec<Bytes>) {
        let mut all = Pack(ByteBuf::with_capacity(self.plans.bytes().len() + 4 * 1024));
        all.list(8);
        match &frame.snapshot {
            None => all.text(b"stream").text(b"").text(b"").text(b""),
            Some((snapshot, _)) => {
                let [xmin, xmax, running] = fence::snapshot_texts(snapshot);
                all.text(b"snapshot").text(xmin.as_bytes()).text(xmax.as_bytes()).text(running.as_bytes())
            }
        };
        all.number(u8::from(frame.releases)).number(TOMBSTONE_MS).list(self.layouts.len());
        for layout in &self.layouts {
            all.append(layout.bytes());
        }
        all.list(self.plans.count).append(self.plans.bytes());
        let mut args = Vec::with_capacity(1 + self.events.len());
        args.push(all.0.into_vec().into());
        args.extend(self.events);
        let mut keys = self.fences;
        keys.extend(self.keys);
        (keys, args)
    }

    /// Adds the event as arguments of its own; how many.
    fn event(&mut self, event: &EventJson) -> u8 {
        let (texts, count) = match event {
            EventJson::Fixed(json) if json.is_empty() => return 0,
            EventJson::Fixed(json) => ([Some(json), None], 1),
            EventJson::ByBalance { head, tail } => ([Some(head), Some(tail)], 2),
        };
        for text in texts.into_iter().flatten() {
            self.event_bytes += text.len();
            self.events.push(text.clone());
        }
        count
    }

    /// The number of the layout of the plan's steps, counted from one as Lua does.
    fn layout(&mut self, flags: &[u8], keys: usize, events: u8) -> usize {
        self.layout.clear();
        self.layout.list(4).text(flags).number(length(keys)).number(events);
        self.layout.list(self.steps.count).append(self.steps.bytes());
        match self.layouts.iter().position(|known| *known == self.layout) {
            Some(at) => at + 1,
            None => {
                self.layouts.push(std::mem::take(&mut self.layout));
                self.layouts.len()
            }
        }
    }

    /// `spares`: a hash is one that fields are only added to, whatever the step says.
    fn step(&mut self, step: &Step, derived: &[Bytes], spares: bool) {
        let (steps, values) = (&mut self.steps, &mut self.values);
        let guard = *step.guard();
        if guard != Guard::ALWAYS {
            let wrong = u8::from(guard.stored_balance_differs);
            let item = steps.item().list(4).text(b"G");
            item.number(guard.any_changed).number(guard.none_changed).number(wrong);
        }
        match step {
            Step::Hash { key, set, remove, if_exists, .. } => {
                self.keys.push(key.clone());
                let item = steps.item().list(3).text(if *if_exists || spares { b"E" } else { b"H" });
                item.list(set.len() * 2);
                for (field, value) in set.iter() {
                    // The empty text is where the script puts the value.
                    item.text(field).text(b"");
                    values.item().text(value);
                }
                item.list(remove.len());
                for field in remove.iter() {
                    item.text(field);
                }
            }
            Step::Set { key, value, ttl, .. } => {
                self.keys.push(key.clone());
                match ttl {
                    Some(ttl) => steps.item().list(2).text(b"T").text(milliseconds(*ttl).as_bytes()),
                    None => steps.item().list(1).text(b"S"),
                };
                values.item().text(value);
            }
            Step::Delete { key, .. } => {
                self.keys.push(key.clone());
                steps.item().list(2).text(b"D").number(1_u8);
            }
            Step::DeletePattern { prefix, suffix, .. } => {
                let before = self.keys.len();
                self.keys.extend(derived.iter().filter(|key| matches(key, prefix, suffix)).cloned());
                steps.item().list(2).text(b"D").number(length(self.keys.len() - before));
            }
            Step::PublishEvent { channel, .. } => {
                steps.item().list(2).text(b"V").text(channel);
            }
            Step::Publish { channel, payload, .. } => {
                steps.item().list(2).text(b"P").text(channel);
                values.item().text(payload);
            }
        }
    }
}

/// The letters that make the script do more than compare and set the fence.
fn flags(plan: &KeyPlan) -> &'static [u8] {
    let asks = matches!(plan.event, EventJson::ByBalance { .. })
        || plan.steps.iter().any(|step| *step.guard() != Guard::ALWAYS);
    let merges = plan.watched.is_empty() || plan.watched.iter().any(Option::is_none);
    match (plan.row_xid.is_none(), merges, asks) {
        (false, false, false) => b"",
        (false, false, true) => b"c",
        (false, true, _) => b"wc",
        (true, false, _) => b"xc",
        (true, true, _) => b"xwc",
    }
}

/// As text: Redis prints every number that a script passes to a command.
fn milliseconds(ttl: Duration) -> String {
    // SET refuses 0.
    ttl.as_millis().max(1).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::group::cut;
    use super::super::group::tests::{plan, steps};
    use super::super::slots::{Address, Topology};
    use super::*;

    const STREAM: Frame =
        Frame { epochs: Epochs { now: 1, fork: crate::lsn::Lsn::ZERO }, snapshot: None, releases: false };

    fn add(request: &mut Request, plan: &KeyPlan, after: Option<&Bytes>) -> Bytes {
        let part = cut(plan, 0, &Topology::Single(Address::new("a", 1)), &[]).unwrap().main.unwrap();
        request.add((plan, &part), &STREAM, &[], after)
    }

    fn of(id: &str) -> KeyPlan {
        let mut plan = plan(steps());
        plan.user.id = id.into();
        plan
    }

    #[test]
    fn what_plans_have_in_common_is_sent_once() {
        let mut request = Request::new();
        assert_eq!(add(&mut request, &of("7"), None), "00000001000000000000001000000002");
        add(&mut request, &of("8"), None);
        assert_eq!((request.layouts.len(), request.plans.count), (1, 2));
        let (keys, args) = request.finish(&STREAM);
        assert_eq!(keys[..3], ["lockstep:fence:{live:7}", "lockstep:fence:{live:8}", "user:{live:7}:config"]);
        assert_eq!(keys.len(), 2 + 2 * 3);
        assert_eq!(args[1..], ["{}", "{}"], "events are arguments of their own");
        let names = args[0].windows(5).filter(|text| text == b"email").count();
        assert_eq!(names, 1);
    }

    #[test]
    fn a_users_second_plan_waits_until_what_the_first_deletes_is_gone() {
        let mut request = Request::new();
        let position = add(&mut request, &of("7"), None);
        add(&mut request, &of("7"), Some(&position));
        let [first, second] = request.layouts.as_slice() else { panic!("{:?}", request.layouts) };
        let settles = |layout: &Pack| layout.bytes().windows(3).any(|step| step == b"\x91\xa1U");
        assert_eq!((settles(first), settles(second)), (false, true));
    }

    #[test]
    fn a_key_that_a_plan_deletes_and_writes_is_written_last() {
        let key: Bytes = "user_balance:live:7".into();
        let guard = Guard::ALWAYS;
        let delete = Step::Delete { key: key.clone(), written: true, guard };
        let write = Step::Set { key, value: "1".into(), ttl: None, guard };
        let mut request = Request::new();
        add(&mut request, &plan(vec![delete, write]), None);
        assert!(request.layouts[0].bytes().ends_with(b"\x93\x92\xa1D\x01\x91\xa1U\x91\xa1S"));
    }

    #[test]
    fn a_time_to_live_is_never_zero() {
        assert_eq!(milliseconds(Duration::ZERO), "1");
        assert_eq!(milliseconds(Duration::from_secs(3600)), "3600000");
    }
}
