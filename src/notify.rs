//! What the service manager is told, where it has asked to be: that the start is over, how things stand, that the data
//! loop turns, that the program stops.
//!
//! The protocol is one datagram a message, to the socket that `NOTIFY_SOCKET` names:
//! <https://www.freedesktop.org/software/systemd/man/sd_notify.html>.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::error::Result;
use crate::health::{Health, StreamState};

/// How often is looked whether there is something to tell.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A start is over when this instance streams or waits for another one, and after this long whatever it waits for: a
/// manager that ends a slow start must not do so because Redis or PostgreSQL are away.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Signs of life in the time in which the manager wants one.
const BEATS_PER_TIMEOUT: u32 = 4;

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    /// The time in which it wants a sign of life; `None`: it wants none.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The one that started this process; `None`: none that wants to be told anything.
    pub fn from_environment() -> Option<Notifier> {
        let name = std::env::var_os("NOTIFY_SOCKET")?;
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| is_ours && *micros > 0);
        match connect(&name) {
            Ok(socket) => Some(Notifier { socket, watchdog: watchdog.map(Duration::from_micros) }),
            Err(error) => {
                tracing::warn!(%error, "the service manager's NOTIFY_SOCKET cannot be reached: it is told nothing");
                None
            }
        }
    }

    /// Tells what there is to tell, until the program ends; returns at once where there is nobody to tell.
    ///
    /// # Errors
    /// None: what does not get through is told again.
    pub async fn serve(
        this: Option<Notifier>,
        health: Arc<Health>,
        ready_lag: Duration,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let Some(notifier) = this else { return Ok(()) };
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let began = Instant::now();
        let mut told = Told::default();
        loop {
            tokio::select! {
                _ = look.tick() => {}
                // At once: the end of the program may be near.
                Ok(_) = stop.wait_for(|stop| *stop), if !told.stopping => {
                    told.stopping = true;
                    notifier.send("STOPPING=1");
                }
            }
            let facts = health.facts();
            let is_up = matches!(facts.stream, StreamState::Streaming | StreamState::Standby);
            if !told.ready && (is_up || began.elapsed() >= START_PATIENCE) {
                told.ready = notifier.send("READY=1");
            }
            let status = match facts.not_ready_because(ready_lag).into_iter().next() {
                _ if *stop.borrow() => "stopping: what was received is brought into redis first".to_owned(),
                Some(reason) => reason.replace(['\n', '\r'], " "),
                None => "redis equals the database".to_owned(),
            };
            if status != told.status && notifier.send(&format!("STATUS={status}")) {
                told.status = status;
            }
            notifier.pass_beat(health.pulse().last_beat(), &mut told);
        }
    }

    /// Passes on that the data loop turned, often enough and no more often.
    fn pass_beat(&self, last_beat: Duration, told: &mut Told) {
        let Some(timeout) = self.watchdog else { return };
        let is_due = told.beat_passed.is_none_or(|at| at.elapsed() >= timeout / BEATS_PER_TIMEOUT);
        if is_due && last_beat != told.last_beat && self.send("WATCHDOG=1") {
            told.last_beat = last_beat;
            told.beat_passed = Some(Instant::now());
        }
    }

    /// Whether it got through; never waits: a manager that is busy is told later.
    fn send(&self, message: &str) -> bool {
        self.socket.send(message.as_bytes()).is_ok()
    }
}

/// What the manager knows already.
#[derive(Debug, Default)]
struct Told {
    ready: bool,
    stopping: bool,
    status: String,
    last_beat: Duration,
    beat_passed: Option<Instant>,
}

/// A name that begins with `@` is in the abstract namespace.
fn connect(name: &OsString) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A notifier that wants a sign of life every second, and its manager.
    fn watched() -> (Notifier, UnixDatagram) {
        let (socket, manager) = UnixDatagram::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        manager.set_nonblocking(true).unwrap();
        (Notifier { socket, watchdog: Some(Duration::from_secs(1)) }, manager)
    }

    /// Everything that was told since the last look.
    fn heard(manager: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 512];
        let next =
            || manager.recv(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned());
        std::iter::from_fn(next).collect()
    }

    async fn pass(time: Duration) {
        tokio::time::sleep(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stands_still_gives_no_sign_of_life() {
        let (notifier, manager) = watched();
        let health = Arc::new(Health::default());
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(Notifier::serve(Some(notifier), Arc::clone(&health), Duration::MAX, stopped));
        let beating = health.pulse().while_waiting(pass(Duration::from_secs(10)));
        beating.await;
        let signs = heard(&manager).iter().filter(|message| *message == "WATCHDOG=1").count();
        assert!((30..=41).contains(&signs), "{signs} in 10 s");
        pass(Duration::from_secs(10)).await;
        assert_eq!(heard(&manager), [] as [&str; 0], "the loop stands");
        health.pulse().beat();
        pass(Duration::from_secs(1)).await;
        assert_eq!(heard(&manager), ["WATCHDOG=1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_is_over_when_it_streams_or_has_taken_long() {
        for streams in [true, false] {
            let (notifier, manager) = watched();
            let health = Arc::new(Health::default());
            let (_stop, stopped) = watch::channel(false);
            tokio::spawn(Notifier::serve(Some(notifier), Arc::clone(&health), Duration::MAX, stopped));
            pass(START_PATIENCE - Duration::from_secs(1)).await;
            assert_eq!(heard(&manager), ["STATUS=the stream has not started"]);
            if streams {
                health.tell(|facts| facts.stream = StreamState::Streaming);
                pass(LOOK_INTERVAL * 2).await;
                assert_eq!(heard(&manager), ["READY=1", "STATUS=users are still being loaded"]);
            } else {
                pass(Duration::from_secs(2)).await;
                assert_eq!(heard(&manager), ["READY=1"]);
            }
        }
    }

    #[test]
    fn a_manager_in_the_abstract_namespace_is_reached() {
        let name = format!("lockstep-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let socket = connect(&OsString::from(format!("@{name}"))).unwrap();
        assert!(Notifier { socket, watchdog: None }.send("READY=1"));
        manager.set_nonblocking(true).unwrap();
        assert_eq!(heard(&manager), ["READY=1"]);
    }
}
