//! What many subscribers cost: Redis copies each event for every one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::backlog::Workload;
use super::report::{Row, Unit};
use super::table::Progress;
use super::world::World;
use super::{Size, compared, drain};
use crate::cli::throwaway::cluster::Layout;
use crate::error::{Error, Result};

/// Subscribers, each to both channels.
const SUBSCRIBERS: u32 = 50;
const SUBSCRIBE: &[u8] = b"*3\r\n$9\r\nSUBSCRIBE\r\n$12\r\nuser_updates\r\n$15\r\nbalance_updates\r\n";
/// Channels.
const CHANNELS: u64 = 2;
/// Lines of the answer to a subscription to one channel, and of a message: an event has none of its own.
const ANSWER_LINES: u64 = 6;
const MESSAGE_LINES: u64 = 7;
/// Bytes that one read takes at most.
const PIECE: usize = 64 * 1024;
/// How long the last message may take after Redis holds the last event, and how often that is looked at.
const LATE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A drain while many listen, against one while nobody does.
pub async fn subscribers(size: Size, progress: &Progress) -> Result<Vec<Row>> {
    progress.step("starting servers, loading users");
    let mut world = World::loaded(size, Layout::Single).await?;
    let nobody = drain::once(&mut world, Workload::Even, progress).await?;
    let audience = Audience::gather(world.port()).await?;
    let heard = drain::once(&mut world, Workload::Even, progress).await?;
    let expected = heard.written * CHANNELS * u64::from(SUBSCRIBERS);
    let messages = audience.messages(expected).await;
    let mut rows = compared::rows(&heard, "nobody listens", &nobody);
    rows.push(
        Row::new("messages heard", messages as f64, Unit::Messages).beside("published", expected as f64),
    );
    Ok(rows)
}

/// Everybody who listens.
struct Audience {
    lines: Arc<AtomicU64>,
    listeners: JoinSet<()>,
}

impl Audience {
    /// Returns when everybody is subscribed.
    async fn gather(port: u16) -> Result<Audience> {
        let (lines, mut listeners) = (Arc::<AtomicU64>::default(), JoinSet::new());
        for _ in 0..SUBSCRIBERS {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(cut)?;
            stream.write_all(SUBSCRIBE).await.map_err(cut)?;
            listeners.spawn(listen(stream, Arc::clone(&lines)));
        }
        let audience = Audience { lines, listeners };
        let answers = u64::from(SUBSCRIBERS) * CHANNELS * ANSWER_LINES;
        audience.reach(answers).await;
        match audience.lines.load(Ordering::Relaxed) {
            lines if lines == answers => Ok(audience),
            _ => {
                Err(Error::definite("redis does not answer every subscription", "raise its limit of clients"))
            }
        }
    }

    /// How many messages came, once all have or no more are to be expected: Redis cuts off whoever is too slow.
    async fn messages(self, expected: u64) -> u64 {
        let answers = u64::from(SUBSCRIBERS) * CHANNELS * ANSWER_LINES;
        self.reach(answers + expected * MESSAGE_LINES).await;
        self.lines.load(Ordering::Relaxed).saturating_sub(answers) / MESSAGE_LINES
    }

    async fn reach(&self, lines: u64) {
        let deadline = Instant::now() + LATE;
        while self.lines.load(Ordering::Relaxed) < lines
            && !self.listeners.is_empty()
            && Instant::now() < deadline
        {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

async fn listen(mut stream: TcpStream, lines: Arc<AtomicU64>) {
    let mut buffer = vec![0; PIECE];
    while let Ok(read) = stream.read(&mut buffer).await
        && read > 0
    {
        let ends = buffer.iter().take(read).filter(|byte| **byte == b'\n').count();
        lines.fetch_add(ends as u64, Ordering::Relaxed);
    }
}

fn cut(error: std::io::Error) -> Error {
    Error::definite(format!("a subscriber lost redis ({error})"), "see whether the machine is out of memory")
}
