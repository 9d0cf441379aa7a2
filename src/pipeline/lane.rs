//! The one way to Redis: idle with the sink in hand, or out with it.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::chunks::{Chunk, ChunkEnd};
use super::compared::{Compared, tell_anyway};
use super::patience::patiently;
use super::truncate::{Tally, truncate};
use super::{Clear, Look, Mark};
use crate::balance::{Truncated, User};
use crate::checkpoint::Checkpoint;
use crate::error::{Fault, Result};
use crate::keyplan::{KeyMap, KeyPlan};
use crate::lsn::Position;
use crate::pgoutput::PgTime;
use crate::sink::{Fencing, Flight, Freshness, LoadMark, Outcome, Renewed, Sink};

/// The glob of a look: `SCAN` finds keys by no other order than its own, so all templates are found at once.
const EVERY_KEY: &[u8] = b"*";

/// At most one flight is out; the next is gathered meanwhile (group commit, no timer).
pub enum Lane {
    /// The sink is here.
    Idle(Box<Sink>),
    /// The sink is with a flight.
    Out(Away),
    /// Between the two; never seen from outside.
    Moving,
}

/// A flight that brings the sink back.
type Away = Pin<Box<dyn Future<Output = (Box<Sink>, Result<Landed>)>>>;

/// What travels.
#[derive(Debug)]
pub enum Cargo {
    /// Events of the stream.
    Events {
        /// Plans in commit order.
        plans: Vec<KeyPlan>,
        /// Commit times, one a plan.
        committed: Vec<PgTime>,
    },
    /// A truncated table: its users are found in Redis first.
    Truncate(Truncated),
    /// Rows read from the database, which the stream has passed.
    Rows {
        /// The rows.
        chunk: Chunk,
        /// Users of whom a change is hidden from the rows' snapshot.
        hidden: HashSet<User>,
        /// The stream's position, the rows' new fence.
        present: Position,
        /// Whether the rows may hold changes that the stream never carried.
        in_gap: bool,
    },
    /// A mark of the load.
    Mark(Mark),
    /// The record of what was asked.
    Asked(String),
    /// A step of a walk over all keys.
    Look(Look),
    /// The record of the quarantine, and its version.
    Quarantine(String, u64),
    /// Derived keys that are deleted once more.
    Clear(Clear),
}

/// What Redis acknowledged.
#[derive(Debug, Default)]
pub struct Landed {
    /// The plans, in order.
    pub plans: Vec<KeyPlan>,
    /// What became of each.
    pub outcomes: Vec<Outcome>,
    /// When each committed; empty for rows read from the database.
    pub committed: Vec<PgTime>,
    /// What became of the users of a truncated table, who are too many to be listed.
    pub truncated: Tally,
    /// The checkpoint that every node holds now.
    pub stored: Option<Checkpoint>,
    /// Whether the plans are what a comparison found to be wrong.
    pub compared: bool,
    /// Rows that changed a balance of which no event tells.
    pub unpublished: u64,
    /// Whether the marker of a finished load was written.
    pub loaded: bool,
    /// Whether Redis keeps the record of what was asked.
    pub asked: bool,
    /// Whether the lease was renewed.
    pub leased: bool,
    /// Whether derived keys may be left that nobody here heard of.
    pub misheard: bool,
    /// The version of the quarantine that Redis holds now, where it was written.
    pub quarantine: Option<u64>,
    /// A mark that has to wait until the records were compared.
    pub returned: Option<Mark>,
    /// Why PostgreSQL may not forget what is before that checkpoint.
    pub unkept: Option<Fault>,
}

impl Landed {
    /// Whether PostgreSQL may forget what is before the checkpoint.
    pub fn is_kept(&self) -> bool {
        self.stored.is_some() && self.unkept.is_none()
    }

    /// Whether any plan could not be applied as written.
    pub fn is_doubtful(&self) -> bool {
        let refused = |outcome: &Outcome| matches!(outcome, Outcome::Refused { .. });
        self.plans.iter().any(|plan| plan.doubt.is_some())
            || self.outcomes.iter().any(refused)
            || self.truncated.refused > 0
    }
}

impl Cargo {
    /// Nothing but a checkpoint.
    pub fn none() -> Cargo {
        Cargo::Events { plans: Vec::new(), committed: Vec::new() }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        matches!(self, Cargo::Events { plans, .. } if plans.is_empty())
    }

    /// Whether a checkpoint travels with it.
    pub fn takes_checkpoint(&self) -> bool {
        matches!(self, Cargo::Events { .. } | Cargo::Rows { .. })
    }
}

impl Lane {
    /// Whether a flight may leave.
    pub fn is_idle(&self) -> bool {
        matches!(self, Lane::Idle(_))
    }

    /// Sends a flight when the lane is idle; does nothing when it is not. The lease is renewed behind the checkpoint,
    /// where that is kept.
    pub fn depart(
        &mut self,
        cargo: Cargo,
        (checkpoint, fresh): (Option<Checkpoint>, Option<Freshness>),
        key_map: &Arc<KeyMap>,
    ) {
        match std::mem::replace(self, Lane::Moving) {
            Lane::Idle(mut sink) => {
                let key_map = Arc::clone(key_map);
                let mut flight: Away = Box::pin(async move {
                    let mut landed = fly(&mut sink, cargo, checkpoint, &key_map).await;
                    if let Ok(landed) = &mut landed {
                        landed.misheard = sink.take_misheard();
                        if let Some(fresh) = fresh {
                            landed.leased = landed.is_kept() && renew(&mut sink, fresh).await;
                        }
                    }
                    (sink, landed)
                });
                // The first poll hands over what is written as soon as the caller yields: Redis is at work while the
                // caller decodes on. `landed` polls again.
                *self = match flight.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Pending => Lane::Out(flight),
                    Poll::Ready(landed) => Lane::Out(Box::pin(std::future::ready(landed))),
                };
            }
            busy => *self = busy,
        }
    }

    /// Waits for the flight that is out; for ever when none is. Cancel-safe.
    pub async fn landed(&mut self) -> Result<Landed> {
        let Lane::Out(flight) = self else { return std::future::pending().await };
        let (sink, landed) = flight.await;
        *self = Lane::Idle(sink);
        landed
    }

    /// The sink, while it is here.
    pub fn sink(&mut self) -> Option<&mut Sink> {
        match self {
            Lane::Idle(sink) => Some(sink),
            Lane::Out(_) | Lane::Moving => None,
        }
    }
}

/// A lease that is not renewed ends by itself, and what keeps it from being renewed is told by the next flight.
async fn renew(sink: &mut Sink, fresh: Freshness) -> bool {
    let renewed = sink.renew_lease(fresh).await;
    if let Err(fault) = &renewed {
        tracing::debug!(%fault, "the lease is not renewed");
    }
    matches!(renewed, Ok(Renewed::Yes))
}

async fn fly(sink: &mut Sink, cargo: Cargo, stored: Option<Checkpoint>, key_map: &KeyMap) -> Result<Landed> {
    match cargo {
        Cargo::Events { plans, committed } => {
            let flight = Flight { plans, fencing: Fencing::Stream, checkpoint: stored };
            let outcomes = sink.apply(&flight).await?;
            Ok(Landed {
                plans: flight.plans,
                outcomes,
                committed,
                stored: flight.checkpoint.filter(|_| sink.has_stored()),
                unkept: sink.unkept().cloned(),
                ..Landed::default()
            })
        }
        Cargo::Truncate(truncated) => {
            let truncated = truncate(sink, &truncated, key_map).await?;
            Ok(Landed { truncated, ..Landed::default() })
        }
        Cargo::Rows {
            chunk: Chunk { plans, snapshot, done, compares: Some(compares), .. },
            hidden,
            present,
            ..
        } => {
            let fencing = Fencing::Snapshot { snapshot, hidden, present };
            let rows = Compared { plans, fencing, compares };
            let landed = rows.fly(sink, stored).await;
            let _ = done.send(if landed.is_ok() { ChunkEnd::Written } else { ChunkEnd::ReadAgain });
            landed
        }
        Cargo::Rows { chunk, hidden, present, in_gap } => {
            rows(sink, chunk, (hidden, present, in_gap), stored).await
        }
        Cargo::Mark(mark) => keep(sink, mark, stored).await,
        Cargo::Asked(record) => {
            let write = async |sink: &mut Sink| sink.write_mark(LoadMark::Asked, Some(&record)).await;
            if !patiently(sink, write).await? {
                return Err(sink.uncompared());
            }
            Ok(Landed { asked: true, ..Landed::default() })
        }
        Cargo::Quarantine(record, version) => {
            let kept = patiently(sink, async |sink| sink.keep_quarantine(&record).await).await?;
            Ok(Landed { quarantine: kept.then_some(version), ..Landed::default() })
        }
        Cargo::Clear(Clear { mut clearing, done }) => {
            patiently(sink, async |sink| sink.clear(&mut clearing).await).await?;
            let _ = done.send(());
            Ok(Landed::default())
        }
        Cargo::Look(Look { walk, done }) => {
            let seen = patiently(sink, async |sink| sink.walk(EVERY_KEY, walk.clone()).await).await?;
            let _ = done.send(seen);
            Ok(Landed::default())
        }
    }
}

/// Writes a mark behind a checkpoint that counts the rows which it speaks of: where a node of a cluster loses these, the
/// mark on another must not say that they are there.
async fn keep(sink: &mut Sink, mark: Mark, checkpoint: Option<Checkpoint>) -> Result<Landed> {
    let flight = Flight { plans: Vec::new(), fencing: Fencing::Stream, checkpoint };
    if sink.apply(&flight).await.is_err() || !sink.is_compared() {
        return Ok(Landed { returned: Some(mark), ..Landed::default() });
    }
    let Mark { mark, value, done } = mark;
    let (stored, unkept) = (flight.checkpoint.filter(|_| sink.has_stored()), sink.unkept().cloned());
    if !patiently(sink, async |sink| sink.write_mark(mark, value.as_deref()).await).await? {
        return Ok(Landed { returned: Some(Mark { mark, value, done }), ..Landed::default() });
    }
    let _ = done.send(());
    let loaded = mark == LoadMark::Loaded && value.is_some();
    Ok(Landed { loaded, stored, unkept, ..Landed::default() })
}

/// Rows that are written whatever is there.
async fn rows(
    sink: &mut Sink,
    chunk: Chunk,
    (hidden, present, in_gap): (HashSet<User>, Position, bool),
    stored: Option<Checkpoint>,
) -> Result<Landed> {
    let Chunk { mut plans, snapshot, told, done, .. } = chunk;
    let elsewhere = patiently(sink, async |sink| sink.elsewhere_otherwise(&plans).await).await?;
    let unseen = plans.iter_mut().zip(elsewhere).filter(|(plan, elsewhere)| *elsewhere && plan.rereads);
    unseen.for_each(|(plan, _)| tell_anyway(plan));
    let differ = match in_gap {
        true => patiently(sink, async |sink| sink.stored_otherwise(&plans).await).await?,
        false => Vec::new(),
    };
    let flight =
        Flight { plans, fencing: Fencing::Snapshot { snapshot, hidden, present }, checkpoint: stored };
    let applied = sink.apply(&flight).await;
    // The reader may be gone: then nobody waits for the answers.
    if let (Some(told), Ok(outcomes)) = (told, &applied) {
        let _ = told.send(outcomes.clone());
    }
    let _ = done.send(if applied.is_ok() { ChunkEnd::Written } else { ChunkEnd::ReadAgain });
    let outcomes = applied?;
    // A user whose keys go was deleted in the gap.
    let changed = differ.iter().zip(&outcomes).zip(&flight.plans).filter(|((differs, outcome), plan)| {
        (**differs || plan.deletes_user) && !plan.rereads && matches!(outcome, Outcome::Applied(_))
    });
    Ok(Landed {
        unpublished: changed.count() as u64,
        plans: flight.plans,
        outcomes,
        stored: flight.checkpoint.filter(|_| sink.has_stored()),
        unkept: sink.unkept().cloned(),
        ..Landed::default()
    })
}
