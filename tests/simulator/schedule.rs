//! A seed as a list of steps, each of which is one choice of what happens next; and how it ends.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use crate::drain;
use crate::instance::{Blueprint, Instance};
use crate::invariants::{Checks, Counts, Failure};
use crate::model::keyspace::Keyspace;
use crate::model::postgres::Op;
use crate::model::postgres::{Postgres, Row, User};
use crate::model::redis::Redis;
use crate::mutants::Mutant;
use crate::random::Random;
use crate::setup::{Fault, Setup};
use crate::world::{Shared, World};

/// Instances of Lockstep.
const INSTANCES: usize = 2;
/// Steps of a run.
const STEPS: (usize, usize) = (60, 240);

/// What happens, in order.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub setup: Setup,
    pub steps: Vec<u64>,
    pub mutant: Option<Mutant>,
    pub traced: bool,
    /// The moment at which who leads is killed, whatever else happens.
    pub kill: Option<usize>,
}

/// How a run ended.
#[derive(Debug, Default)]
pub struct Outcome {
    pub failure: Option<Failure>,
    pub counts: Counts,
    /// Moments at which somebody could have been killed.
    pub moments: usize,
    pub trace: Vec<String>,
}

impl Schedule {
    pub fn of_seed(seed: u64) -> Schedule {
        let mut random = Random::new(seed ^ 0x5eed);
        let mut setup = Setup::of(&mut random);
        // By a number of its own: what other seeds do stays as it was.
        if Random::new(seed ^ 0x510f).one_in(8) {
            setup.faults.push(Fault::RecordsMove);
        }
        let steps = STEPS.0 + random.below(STEPS.1 - STEPS.0);
        let steps = (0..steps).map(|_| random.next()).collect();
        Schedule { setup, steps, mutant: None, traced: false, kill: None }
    }

    pub fn with(self, mutant: Mutant) -> Schedule {
        Schedule { mutant: Some(mutant), ..self.prepared_for(mutant) }
    }

    /// The same without the bug.
    pub fn prepared_for(mut self, mutant: Mutant) -> Schedule {
        if mutant == Mutant::RetryOutOfOrder {
            // It takes a call that is refused before another one of the same user, in one flight: wide rows.
            self.setup.nodes = 2;
            self.setup.flight_events = 12;
            self.setup.pipe_bytes = 1 << 16;
            self.setup.faults = vec![Fault::ErrorReply];
        }
        if mutant == Mutant::UnseenForgotten {
            // It takes a commit that is acknowledged long before it is visible, and lost in between.
            self.setup.margin_ms = 0;
            self.setup.faults = vec![Fault::Flush, Fault::StandbyLags];
        }
        self
    }

    /// Runs it to the end; a panic is a failure too.
    pub fn run(&self) -> Outcome {
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| Run::new(self).complete()));
        ran.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let failure = Failure { rule: "no panic", what: text.unwrap_or_default() };
            Outcome { failure: Some(failure), ..Outcome::default() }
        })
    }
}

/// A run under way.
pub struct Run<'s> {
    pub schedule: &'s Schedule,
    pub world: Shared,
    pub instances: Vec<Option<Instance>>,
    pub blueprint: Blueprint,
    /// Whether Redis has lost anything, or another program wrote to it.
    pub has_lost: bool,
    moments: usize,
}

impl<'s> Run<'s> {
    fn new(schedule: &'s Schedule) -> Run<'s> {
        let setup = &schedule.setup;
        let mut world = World {
            postgres: Postgres::new(setup.full, setup.pipe_bytes),
            redis: Redis::new(setup.nodes, schedule.mutant, schedule.traced),
            gates: Vec::new(),
            checks: Checks::new(setup.most_rows()),
            mutant: schedule.mutant,
            trace: schedule.traced.then(Vec::new),
            loads: 0,
        };
        world.settle(setup.users);
        let (world, blueprint) = (Shared::new(world), setup.blueprint());
        let instances = (0..INSTANCES).map(|number| {
            let first = number == 0;
            first.then(|| Instance::start(number, &world, &blueprint))
        });
        let instances = instances.collect();
        Run { schedule, world, instances, blueprint, has_lost: false, moments: 0 }
    }

    fn complete(mut self) -> Outcome {
        for step in &self.schedule.steps {
            self.step(&mut Random::new(*step));
            self.moment();
            if self.has_failed() {
                break;
            }
        }
        if !self.has_failed() {
            drain::drain(&mut self);
        }
        self.instances.clear();
        let mut world = self.world.lock();
        let failure = world.checks.failure.take();
        let trace = world.trace.take().unwrap_or_default();
        Outcome { failure, counts: world.checks.counts, moments: self.moments, trace }
    }

    /// All processes wait for something, or could.
    pub fn moment(&mut self) {
        self.moments += 1;
        if self.schedule.kill == Some(self.moments) {
            let leader = self.world.lock().postgres.leader;
            self.kill(leader, &mut Random::new(self.moments as u64));
        }
    }

    pub fn has_failed(&self) -> bool {
        self.world.lock().checks.failure.is_some()
    }

    pub fn start(&mut self, number: usize) {
        self.world.lock().say(|| format!("instance {number} starts"));
        self.instances[number] = Some(Instance::start(number, &self.world, &self.blueprint));
    }

    fn step(&mut self, random: &mut Random) {
        match random.below(100) {
            0..=29 => self.turn(random),
            30..=37 => self.execute(random),
            38..=43 => self.deliver(random),
            44..=47 => {
                let world = &mut *self.world.lock();
                let gate = random.pick(&world.openable());
                gate.into_iter().for_each(|gate| world.open(gate));
            }
            48..=51 => self.some_instance(random, |instance| instance.run(1)),
            52..=71 => self.world.lock().work(random, &self.schedule.setup),
            72..=82 => self.send(random),
            83..=90 => {
                let time = Duration::from_millis([1, 20, 60, 250, 1_000, 3_000][random.below(6)]);
                self.some_instance(random, |instance| instance.advance(time));
            }
            _ => {
                let fault = random.pick(&self.schedule.setup.faults);
                fault.into_iter().for_each(|fault| self.disturb(fault, random));
            }
        }
        let gone = (0..INSTANCES).find(|number| self.instances[*number].is_none());
        if let Some(number) = gone.filter(|_| random.one_in(12)) {
            self.start(number);
        }
    }

    /// An instance that runs, and one of whose kind there is at least one most of the time.
    fn some_instance(&self, random: &mut Random, act: impl FnOnce(&Instance)) {
        let awake: Vec<usize> = (0..INSTANCES).filter(|number| self.awake(*number).is_some()).collect();
        if let Some(instance) = random.pick(&awake).and_then(|number| self.awake(number)) {
            act(instance);
        }
    }

    fn awake(&self, number: usize) -> Option<&Instance> {
        self.instances[number].as_ref().filter(|instance| !instance.frozen)
    }

    /// An instance, the servers it has asked, and their answers: so most of the time goes by.
    fn turn(&mut self, random: &mut Random) {
        let number = random.below(INSTANCES);
        for _ in 0..1 + random.below(4) {
            {
                let world = &mut *self.world.lock();
                let conns: Vec<u64> = world
                    .redis
                    .conns
                    .iter()
                    .filter(|(_, conn)| conn.instance == number)
                    .map(|(id, _)| *id)
                    .collect();
                for conn in conns {
                    for _ in 0..random.below(4) {
                        if world.redis.is_executable(conn) {
                            world.execute(conn);
                        }
                    }
                    world.deliver(conn, random.below(5));
                }
                if random.one_in(2) {
                    let gate =
                        world.openable().into_iter().find(|gate| world.gates[*gate].instance == number);
                    gate.into_iter().for_each(|gate| world.open(gate));
                }
                world.pump();
            }
            if let Some(instance) = self.awake(number) {
                instance.run(1 + random.below(3));
            }
            self.moment();
        }
    }

    fn execute(&mut self, random: &mut Random) {
        let world = &mut *self.world.lock();
        let Some(conn) = random.pick(&world.redis.executable()) else { return };
        for _ in 0..1 + random.below(4) {
            if world.redis.is_executable(conn) {
                world.execute(conn);
            }
        }
    }

    fn deliver(&mut self, random: &mut Random) {
        let world = &mut *self.world.lock();
        let Some(conn) = random.pick(&world.redis.deliverable()) else { return };
        world.deliver(conn, 1 + random.below(6));
    }

    /// The walsender sends, and hears.
    fn send(&mut self, random: &mut Random) {
        let world = &mut *self.world.lock();
        let messages = 1 + random.below(6);
        if random.one_in(5) {
            world.postgres.noise();
        }
        let postgres = &mut world.postgres;
        if let Some(walsender) = &mut postgres.walsender {
            if walsender.is_asked() || random.one_in(4) {
                walsender.keepalive(&postgres.commits, postgres.wal);
            }
            for _ in 0..messages {
                walsender.send_next(&postgres.commits, postgres.wal, postgres.full);
                walsender.pump_out();
            }
        }
        world.pump();
    }

    fn disturb(&mut self, fault: Fault, random: &mut Random) {
        self.world.lock().say(|| format!("fault: {fault:?}"));
        match fault {
            Fault::Crash => {
                let number = random.below(INSTANCES);
                self.kill(number, random);
            }
            Fault::Freeze => {
                let number = random.below(INSTANCES);
                if let Some(instance) = &mut self.instances[number] {
                    instance.frozen = !instance.frozen;
                }
            }
            Fault::OtherWriter => {
                let world = &mut *self.world.lock();
                world.other_writer(random);
            }
            Fault::Cut
            | Fault::FailOver
            | Fault::Flush
            | Fault::NodeDown
            | Fault::ErrorReply
            | Fault::OutOfMemory => {
                self.disturb_redis(fault, random);
            }
            Fault::PostgresRestart => {
                let world = &mut *self.world.lock();
                world.postgres.restart();
                world.forget_gates(None);
            }
            Fault::WalsenderEnds => self.world.lock().postgres.walsender = None,
            Fault::SlotAnew => {
                let world = &mut *self.world.lock();
                if world.postgres.running.is_empty() && random.one_in(2) {
                    world.postgres.make_slot_anew();
                    world.checks.gap(&world.postgres);
                }
            }
            Fault::RecordsMove => {
                let world = &mut *self.world.lock();
                for node in 0..world.redis.nodes.len() {
                    let executed = world.redis.write_as_another(node, Keyspace::forget_checkpoints);
                    world.note(executed);
                }
            }
            // These are chances of the workload.
            Fault::Truncate | Fault::NotANumber | Fault::Resync | Fault::Toast | Fault::StandbyLags => {}
        }
    }

    /// kill -9: what is in the sockets may still arrive.
    fn kill(&mut self, number: usize, random: &mut Random) {
        if self.instances[number].take().is_none() {
            return;
        }
        let world = &mut *self.world.lock();
        world.say(|| format!("instance {number} is killed"));
        world.checks.ended(number);
        world.postgres.leader_is_gone |= world.postgres.leader == number;
        world.forget_gates(Some(number));
        let conns: Vec<u64> =
            world.redis.conns.iter().filter(|(_, conn)| conn.instance == number).map(|(id, _)| *id).collect();
        for conn in conns {
            world.redis.truncate(conn, random.below(4));
        }
    }

    fn disturb_redis(&mut self, fault: Fault, random: &mut Random) {
        let world = &mut *self.world.lock();
        let number = random.below(world.redis.nodes.len());
        match fault {
            Fault::Cut => {
                let conns: Vec<u64> = world.redis.conns.keys().copied().collect();
                if let Some(conn) = random.pick(&conns) {
                    world.redis.close(conn);
                    world.redis.truncate(conn, random.below(4));
                }
            }
            Fault::FailOver => {
                let behind = world.redis.nodes[number].space.behind();
                let lost = random.below(1 + behind.min(12));
                let changed = world.redis.fail_over(number, lost);
                world.say(|| format!("    node {number} loses {lost} commands"));
                world.checks.lost(&changed, number, &world.redis);
                self.has_lost = true;
            }
            Fault::Flush => {
                let changed = world.redis.nodes[number].space.flush();
                world.checks.lost(&changed, number, &world.redis);
                self.has_lost = true;
            }
            Fault::NodeDown if world.redis.nodes[number].up => {
                world.redis.cut_all(number);
                world.redis.nodes[number].up = false;
            }
            Fault::NodeDown => world.redis.nodes[number].up = true,
            Fault::OutOfMemory => {
                let node = &mut world.redis.nodes[number];
                node.out_of_memory = !node.out_of_memory;
            }
            _ => {
                let errors = ["TRYAGAIN Multiple keys", "LOADING Redis is loading", "BUSY Redis is busy"];
                world.redis.nodes[number].fails = random.pick(&errors);
            }
        }
    }
}

impl World {
    /// Users who are there before the slot is.
    fn settle(&mut self, users: u32) {
        for id in 1..=users {
            let xid = self.postgres.begin();
            let number = self.postgres.number();
            let user = User { id, kind: if id % 2 == 0 { "demo" } else { "live" } };
            self.postgres.write(xid, Op::Insert { user, row: Row { email: number, balance: Some(number) } });
            self.commit(xid);
            self.postgres.make_visible(xid);
        }
        self.postgres.make_slot_anew();
        self.checks.gap(&self.postgres);
    }
}
