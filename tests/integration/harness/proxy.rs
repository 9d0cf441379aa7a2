//! A line to a server that can be cut, fall silent, or become slow.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes carried at once.
const PIECE_BYTES: usize = 64 * 1024;
/// How long the server behind may take to accept.
const REACH: Duration = Duration::from_secs(5);

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
    line: watch::Sender<Line>,
    listener: JoinHandle<()>,
}

impl Proxy {
    /// A line to a port of this machine.
    pub async fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (line, state) = watch::channel(Line::Open);
        let listener = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, to, state.clone()));
            }
        });
        Proxy { port, line, listener }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.set(Line::Cut);
    }
}

async fn carry(near: TcpStream, to: u16, mut line: watch::Receiver<Line>) {
    if !is_open(&mut line).await {
        return;
    }
    let Ok(Ok(far)) = tokio::time::timeout(REACH, TcpStream::connect(("127.0.0.1", to))).await else {
        return;
    };
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    // When one direction ends the other is of no use: both sockets are closed.
    tokio::select! {
        () = pump(near_in, far_out, line.clone()) => {}
        () = pump(far_in, near_out, line) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut line: watch::Receiver<Line>) {
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
        // What was read when the line fell silent is held.
        if !is_open(&mut line).await || to.write_all(&piece[..count]).await.is_err() {
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
