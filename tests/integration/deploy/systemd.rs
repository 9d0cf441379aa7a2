//! The systemd unit, and what the service manager is told.

use std::os::unix::net::UnixDatagram;

use tempfile::TempDir;

use super::{content, read, subcommands};
use crate::harness::process::folder;
use crate::harness::{Lockstep, Mode, On, Setup, World, eventually_ok, program};

const UNIT: &str = "deploy/systemd/lockstep.service";

#[test]
fn the_unit_is_locked_in() {
    let arguments = ["security", "--offline=true", "--no-pager", "--threshold=20", UNIT];
    let said = content("systemd-analyze", &arguments);
    assert!(said.contains("Overall exposure level"), "{said}");
}

#[test]
fn systemd_understands_the_unit() {
    let folder = folder("unit-");
    let unit = read(UNIT);
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("ExecStart");
    let words: Vec<&str> = command.split_whitespace().collect();
    assert!(subcommands().iter().any(|known| known == words[1]), "{command}");
    assert!(unit.contains("\nType=notify\n") && unit.contains("\nWatchdogSec="));
    // Where the program is not installed there is nothing to start.
    let path = folder.path().join("lockstep.service");
    std::fs::write(&path, unit.replace(words[0], program())).unwrap();
    let said = content("systemd-analyze", &["verify", "--man=no", &path.display().to_string()]);
    let of_ours: Vec<&str> = said.lines().filter(|line| line.contains("lockstep.service")).collect();
    assert_eq!(of_ours, [] as [&str; 0]);
}

/// The service manager's end: everything that it was told.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
    told: Vec<String>,
}

impl Manager {
    fn new() -> Manager {
        let folder = folder("notify-");
        let socket = UnixDatagram::bind(folder.path().join("socket")).expect("a socket");
        socket.set_nonblocking(true).unwrap();
        Manager { socket, folder, told: Vec::new() }
    }

    /// Started as by this manager, which wants a sign of life every two seconds.
    fn starts(&self, lockstep: Lockstep) -> Lockstep {
        let path = self.folder.path().join("socket").display().to_string();
        lockstep.with_environment("NOTIFY_SOCKET", &path).with_environment("WATCHDOG_USEC", "2000000")
    }

    fn listen(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            self.told.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }

    /// What it was told so far does not count any more.
    fn forget(&mut self) {
        self.listen();
        self.told.clear();
    }

    /// Waits until it was told this so many times.
    async fn hears(&mut self, words: &str, times: usize) {
        let heard = eventually_ok(async || {
            self.listen();
            let heard = self.told.iter().filter(|message| message.contains(words)).count();
            if heard >= times { Ok(()) } else { Err(self.told.clone()) }
        });
        heard.await.unwrap_or_else(|told| panic!("{words:?} is not heard {times} times: {told:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told_of_start_state_life_and_stop() {
    let mut manager = Manager::new();
    let mut world = World::set_up(Setup::on(On::Single)).await;
    world.lockstep = manager.starts(Lockstep::new(&world.postgres.url(), &world.store.urls(), ""));
    world.lockstep.init().await;
    world.lockstep.spawn(&["run"]);
    manager.hears("READY=1", 1).await;
    world.lockstep.wait_ready().await;
    manager.hears("WATCHDOG=1", 3).await;

    // Neither is a reason to end it: it lives, and says what is the matter.
    manager.hears("STATUS=redis equals the database", 1).await;
    manager.forget();
    world.store.single().pause();
    world.user("live", 7, "100").await;
    manager.hears("STATUS=", 1).await;
    manager.hears("WATCHDOG=1", 5).await;
    world.store.single().resume();
    manager.hears("STATUS=redis equals the database", 1).await;
    manager.forget();
    world.postgres.stop(Mode::Fast).await;
    manager.hears("STATUS=postgres", 1).await;
    manager.hears("WATCHDOG=1", 5).await;
    world.postgres.start_again().await;
    manager.hears("STATUS=redis equals the database", 1).await;

    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    manager.listen();
    assert!(manager.told.iter().any(|message| message == "STOPPING=1"), "{:?}", manager.told);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_lives_while_it_waits_for_another_instance_or_for_redis_at_the_start() {
    let mut manager = Manager::new();
    let world = World::running(On::Single).await;
    let second = manager.starts(Lockstep::new(&world.postgres.url(), &world.store.urls(), ""));
    second.spawn(&["run"]);
    manager.hears("READY=1", 1).await;
    manager.hears("STATUS=another instance holds the slot", 1).await;
    manager.hears("WATCHDOG=1", 5).await;
    second.sigterm().await;
    world.store.single().kill9();
    manager.forget();
    second.spawn(&["run"]);
    manager.hears("STATUS=", 1).await;
    manager.hears("WATCHDOG=1", 5).await;
}
