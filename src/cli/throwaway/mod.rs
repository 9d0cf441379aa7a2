//! Servers that are started for a while and leave nothing behind: what `demo` and `bench` stand on.
//!
//! PostgreSQL and Redis run in a temporary folder on free loopback ports, Lockstep beside them as an operator
//! would run it, all of them as children that end with this program. Dropping them ends and removes them.

pub mod cluster;
pub mod lockstep;
pub mod platform;
pub mod process;
pub mod servers;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Error, Result};

/// Ctrl-C, or a polite kill.
pub struct Interruption {
    interrupt: Signal,
    terminate: Signal,
}

impl Interruption {
    /// Takes both signals from here on.
    pub fn listen() -> Result<Interruption> {
        let listen =
            |kind| signal(kind).map_err(|e| Error::definite(format!("signals cannot be taken ({e})"), ""));
        let (interrupt, terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        Ok(Interruption { interrupt, terminate })
    }

    /// Waits for one; its name.
    pub async fn comes(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
        }
    }

    /// What `work` comes to. Interrupted, it is dropped, and with it every server and the folder.
    pub async fn or_done<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            name = self.comes() => Err(Error::definite(name, "everything that was started is removed")),
        }
    }
}
