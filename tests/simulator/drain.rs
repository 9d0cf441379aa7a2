//! The end of a run: faults stop, everything comes to rest, and Redis equals the database.

use std::time::Duration;

use lockstep::lsn::Lsn;

use crate::invariants::text;
use crate::model::postgres::Op;
use crate::schedule::Run;
use crate::setup::Fault;
use crate::world::World;

/// Rounds after which a run that does not rest has failed.
const MOST_ROUNDS: usize = 2_000;
/// How long it has to rest where Redis lost something: an idle stream looks every 3 s.
const LONG_REST: Duration = Duration::from_secs(5);
const SHORT_REST: Duration = Duration::from_millis(1_500);

/// Time that passes in a round where something happened, and where nothing did.
const BUSY: Duration = Duration::from_millis(10);
const IDLE: Duration = Duration::from_millis(400);

pub fn drain(run: &mut Run<'_>) {
    run.world.lock().say(|| "faults stop".into());
    for number in 0..run.instances.len() {
        match &mut run.instances[number] {
            Some(instance) => instance.frozen = false,
            None => run.start(number),
        }
    }
    run.world.lock().mend();
    if run.schedule.setup.has(Fault::StandbyLags) {
        linger(run);
    }
    run.world.lock().postgres.show_commits();
    if !rest(run) {
        return;
    }
    {
        let world = &mut *run.world.lock();
        world.checks.all_published(&world.postgres.commits);
        world.checks.equal(&world.redis, &world.postgres);
        if world.checks.foreign.is_empty() || world.checks.failure.is_some() {
            return;
        }
        world.say(|| "a resync heals what other programs wrote".into());
        let xid = world.postgres.begin();
        world.postgres.write(xid, Op::Ask("{}"));
        world.commit(xid);
        world.postgres.make_visible(xid);
    }
    if rest(run) {
        let world = &mut *run.world.lock();
        world.checks.foreign.clear();
        world.checks.equal(&world.redis, &world.postgres);
    }
}

/// Runs for as long as a loss may take to be noticed, while the last commits still wait for a standby.
fn linger(run: &mut Run<'_>) {
    let mut lingered = Duration::ZERO;
    while lingered < LONG_REST && !run.has_failed() {
        let time = if round(run) { BUSY } else { IDLE };
        run.instances.iter().flatten().for_each(|instance| instance.advance(time));
        lingered += time;
    }
}

/// Runs until everything has rested for long enough.
fn rest(run: &mut Run<'_>) -> bool {
    let needed = if run.has_lost { LONG_REST } else { SHORT_REST };
    let mut rested = Duration::ZERO;
    for _ in 0..MOST_ROUNDS {
        let busy = round(run);
        if run.has_failed() {
            return false;
        }
        let time = if busy { BUSY } else { IDLE };
        for instance in run.instances.iter().flatten() {
            instance.advance(time);
        }
        rested = if run.world.lock().rests() { rested + time } else { Duration::ZERO };
        if rested >= needed {
            return true;
        }
    }
    let world = &mut *run.world.lock();
    let what = world.unrest();
    world.checks.fail("everything comes to rest", || what);
    false
}

/// Everybody does what there is to be done; whether there was anything.
fn round(run: &mut Run<'_>) -> bool {
    let mut busy = false;
    run.moment();
    let gone: Vec<usize> =
        (0..run.instances.len()).filter(|number| run.instances[*number].is_none()).collect();
    gone.into_iter().for_each(|number| run.start(number));
    {
        let world = &mut *run.world.lock();
        for _ in 0..8 {
            let postgres = &mut world.postgres;
            let Some(walsender) = &mut postgres.walsender else { break };
            busy |= walsender.is_behind(&postgres.commits);
            walsender.send_next(&postgres.commits, postgres.wal, postgres.full);
            walsender.pump_out();
        }
        if let Some(walsender) = &mut world.postgres.walsender
            && walsender.is_asked()
        {
            walsender.keepalive(&world.postgres.commits, world.postgres.wal);
        }
        world.pump();
    }
    for instance in run.instances.iter().flatten() {
        instance.run(3);
    }
    let world = &mut *run.world.lock();
    for conn in world.redis.executable() {
        while world.redis.is_executable(conn) {
            world.execute(conn);
            busy = true;
        }
    }
    for conn in world.redis.deliverable() {
        world.deliver(conn, usize::MAX);
        busy = true;
    }
    while let Some(gate) = world.openable().first().copied() {
        world.open(gate);
        busy = true;
    }
    busy
}

impl World {
    /// Everything that was broken works again, and every transaction has committed.
    fn mend(&mut self) {
        for node in &mut self.redis.nodes {
            node.up = true;
            node.out_of_memory = false;
            node.fails = None;
        }
        let open: Vec<u64> = self.postgres.running.iter().map(|tx| tx.xid).collect();
        open.into_iter().for_each(|xid| self.commit(xid));
    }

    fn has_key(&self, key: &str) -> bool {
        self.redis.nodes[self.redis.owner(key.as_bytes())].space.keys.contains_key(key.as_bytes())
    }

    /// Whether a resync is asked for that nothing else has done: the load that follows a gap has, whose instance does
    /// not know of a record that another one wrote late.
    fn is_asked(&self) -> bool {
        let key = b"lockstep:asked:lockstep";
        let record = self.redis.nodes[self.redis.owner(key)].space.text(key);
        let asked = record.and_then(|record| text(record).split_once(' ')?.0.parse::<Lsn>().ok());
        record.is_some() && asked.is_none_or(|asked| asked >= self.checks.gap_end(&self.postgres.commits))
    }

    /// Whether all is acknowledged, loaded, and nothing is asked for.
    fn rests(&self) -> bool {
        self.unrest().is_empty()
    }

    fn unrest(&self) -> String {
        let postgres = &self.postgres;
        let last = postgres.commits.last().map_or(0, |commit| commit.end);
        let reasons = [
            (postgres.walsender.is_none(), "nobody streams"),
            (postgres.confirmed < last, "something is not acknowledged"),
            (!self.has_key("lockstep:loaded:lockstep"), "the load is not finished"),
            (self.is_asked(), "a resync is not done"),
        ];
        let holds: Vec<&str> = reasons.iter().filter(|(holds, _)| *holds).map(|(_, why)| *why).collect();
        holds.join(", ")
    }
}
