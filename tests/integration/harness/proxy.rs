//! A line to a server that can be cut, fall silent, or become slow; and one to each node of a cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::names::{Names, Renaming};

/// Bytes carried at once.
const PIECE_BYTES: usize = 64 * 1024;
/// How long the server behind may take to accept.
const REACH: Duration = Duration::from_secs(5);

/// What makes a connection one on which Redis announces.
const TRACKING: &[u8] = b"BCAST";

/// How the line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Carries everything.
    Open,
    /// Half-open: accepts, carries nothing, ends nothing.
    Silent,
    /// Every connection is ended, new ones too.
    Cut,
    /// Carries every piece so much later.
    Delayed(Duration),
    /// Carries so many bytes a second in each direction of each connection.
    Throttled(u32),
}

impl Line {
    /// How many bytes are carried at once, and how long after they came.
    fn pace(self) -> (usize, Duration) {
        const THROTTLED_PIECES_A_SECOND: u32 = 50;
        match self {
            Line::Delayed(delay) => (PIECE_BYTES, delay),
            Line::Throttled(bytes) => {
                let piece = (bytes / THROTTLED_PIECES_A_SECOND).max(1) as usize;
                (piece.min(PIECE_BYTES), Duration::from_secs(1) / THROTTLED_PIECES_A_SECOND)
            }
            Line::Open | Line::Silent | Line::Cut => (PIECE_BYTES, Duration::ZERO),
        }
    }
}

/// A TCP proxy on a free loopback port; ends with its connections on drop.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    to: Arc<AtomicU16>,
    line: watch::Sender<Line>,
    /// Whether what Redis announces is held back.
    quiet: watch::Sender<bool>,
    listener: JoinHandle<()>,
}

impl Proxy {
    /// A line to a port of this machine.
    pub async fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        Proxy::listen(listener, to, Arc::default())
    }

    /// A line to each of these nodes of a cluster, which name one another by the lines' ports: whoever came by one of them
    /// stays on them.
    pub async fn start_for_each(nodes: &[u16]) -> Vec<Proxy> {
        let (mut listeners, mut names) = (Vec::new(), Names::default());
        for node in nodes {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            names.add(*node, listener.local_addr().unwrap().port());
            listeners.push(listener);
        }
        let names = Arc::new(names);
        listeners
            .into_iter()
            .zip(nodes)
            .map(|(l, node)| Proxy::listen(l, *node, Arc::clone(&names)))
            .collect()
    }

    fn listen(listener: TcpListener, to: u16, names: Arc<Names>) -> Proxy {
        let port = listener.local_addr().unwrap().port();
        let (line, state) = watch::channel(Line::Open);
        let (quiet, is_quiet) = watch::channel(false);
        let to = Arc::new(AtomicU16::new(to));
        let goal = Arc::clone(&to);
        let listener = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let said = Said { quiet: is_quiet.clone(), names: Renaming::new(Arc::clone(&names)) };
                tokio::spawn(carry(near, goal.load(Ordering::Relaxed), state.clone(), said));
            }
        });
        Proxy { port, to, line, quiet, listener }
    }

    /// Leads every new connection to another port.
    pub fn leads_to(&self, port: u16) {
        self.to.store(port, Ordering::Relaxed);
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// Whether anybody is connected by it.
    pub fn is_in_use(&self) -> bool {
        // The listener is one that looks at the line, each connection more than one.
        self.line.receiver_count() > 1
    }

    /// Holds back what Redis says on connections with `CLIENT TRACKING`, or lets it go.
    pub fn hold_announcements(&self, held: bool) {
        self.quiet.send_replace(held);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.set(Line::Cut);
    }
}

/// What a server says on one connection.
struct Said {
    quiet: watch::Receiver<bool>,
    names: Renaming,
}

/// What a piece waits for, besides the line, and what becomes of it.
enum Gate<'c> {
    /// Nothing; but it may be what makes a tracking connection of this one.
    Asked(&'c AtomicBool),
    /// Until announcements are let go, on a tracking connection.
    Said(&'c AtomicBool, Said),
}

impl Gate<'_> {
    async fn pass(&mut self, piece: &[u8]) -> Vec<u8> {
        match self {
            Gate::Asked(tracks) => {
                let asks = piece.windows(TRACKING.len()).any(|word| word == TRACKING);
                tracks.fetch_or(asks, Ordering::Relaxed);
                piece.to_vec()
            }
            Gate::Said(tracks, said) => {
                if tracks.load(Ordering::Relaxed) {
                    // An error: the proxy is gone, and its connections with it.
                    let _ = said.quiet.wait_for(|quiet| !quiet).await;
                }
                said.names.pass(piece)
            }
        }
    }
}

async fn carry(near: TcpStream, to: u16, mut line: watch::Receiver<Line>, said: Said) {
    if !is_open(&mut line).await {
        return;
    }
    let Ok(Ok(far)) = tokio::time::timeout(REACH, TcpStream::connect(("127.0.0.1", to))).await else {
        return;
    };
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let tracks = AtomicBool::new(false);
    let (asked, said) = (Gate::Asked(&tracks), Gate::Said(&tracks, said));
    // When one direction ends the other is of no use: both sockets are closed.
    tokio::select! {
        () = pump(near_in, far_out, line.clone(), asked) => {}
        () = pump(far_in, near_out, line, said) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    mut gate: Gate<'_>,
) {
    let mut piece = vec![0; PIECE_BYTES];
    while is_open(&mut line).await {
        let (bytes, _) = line.borrow_and_update().pace();
        let read = tokio::select! {
            read = from.read(&mut piece[..bytes]) => read,
            _ = line.changed() => continue,
        };
        let Ok(count @ 1..) = read else { return };
        // As slow as the line is now: it may have changed while nothing came.
        let (_, delay) = line.borrow().pace();
        if !delay.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = line.wait_for(|line| line.pace().1.is_zero()) => {}
            }
        }
        let passed = gate.pass(&piece[..count]).await;
        // What was read when the line fell silent is held.
        if !is_open(&mut line).await || to.write_all(&passed).await.is_err() {
            return;
        }
    }
}

/// Waits while the line is silent; whether it is open then, or cut.
async fn is_open(line: &mut watch::Receiver<Line>) -> bool {
    match line.wait_for(|line| *line != Line::Silent).await {
        Ok(line) => *line != Line::Cut,
        Err(_) => false,
    }
}
