//! What the rest of the program asks of the pipeline, which alone has the way to Redis.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::chunks::Chunk;
use super::quarantine::Open;
use crate::sink::{Clearing, LoadMark, Walk};

/// Answered in the order of the stream.
#[derive(Debug)]
pub enum Errand {
    /// Rows read from the database.
    Chunk(Chunk),
    /// A mark of the load, to be kept in Redis.
    Mark(Mark),
    /// A look at the next keys of Redis.
    Look(Look),
    /// A resync that was asked for is done.
    Finished(Finished),
    /// Which users and tables are in quarantine.
    Quarantined(oneshot::Sender<Open>),
    /// The whole of a table is read, `schema.name`: its rows that touch no key will be told anew.
    Rereads(String),
    /// Derived keys to be deleted once more.
    Clear(Clear),
}

/// What was asked, and is done.
#[derive(Debug)]
pub struct Finished {
    /// Its line of the record.
    pub line: String,
    /// Told once Redis keeps it no more.
    pub done: oneshot::Sender<()>,
}

/// Derived keys to be deleted once more.
#[derive(Debug)]
pub struct Clear {
    /// Which.
    pub clearing: Clearing,
    /// Told once they are gone.
    pub done: oneshot::Sender<()>,
}

/// A step of a walk over all keys.
#[derive(Debug)]
pub struct Look {
    /// Where the walk stands.
    pub walk: Walk,
    /// Told the keys, and where to go on.
    pub done: oneshot::Sender<(Vec<Bytes>, Option<Walk>)>,
}

/// How far a load is, or that it is finished.
#[derive(Debug)]
pub struct Mark {
    /// Which mark.
    pub mark: LoadMark,
    /// Its value; `None` takes it away.
    pub value: Option<String>,
    /// Told once Redis holds it.
    pub done: oneshot::Sender<()>,
}

/// Where errands are handed in; bounded, so that memory is.
pub type ErrandSender = mpsc::Sender<Errand>;
