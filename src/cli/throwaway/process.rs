//! Child processes and a folder that never outlive this program, however it ends.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How long a child may take to obey the signal that ends it, before it is killed.
const GRACE: Duration = Duration::from_secs(10);
/// How long a program with one task may take for it.
const ONE_TASK: Duration = Duration::from_secs(120);
/// Pause between two looks at a child or a server that is about to change its state.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Highest port that leaves room for a Redis Cluster bus, 10,000 above.
const LAST_PORT: u16 = 55_000;
/// Ports that are tried before giving up.
const PORT_ATTEMPTS: usize = 1_000;
/// Lines of a log that are shown when its program failed.
const TAIL_LINES: usize = 15;

/// The account that runs the servers: PostgreSQL refuses root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// The user who started this program.
    Own,
    /// User `postgres`, since root started this program.
    Postgres,
}

impl Account {
    /// The one that may run PostgreSQL here.
    pub fn for_servers() -> Account {
        match Command::new("id").arg("-u").output() {
            Ok(answer) if answer.stdout.trim_ascii() == b"0" => Account::Postgres,
            _ => Account::Own,
        }
    }
}

/// A command that gets `signal` from the kernel once this program is gone, even by `kill -9`.
///
/// It has a process group of its own: Ctrl-C reaches this program alone, which then ends its children in order.
pub fn guarded(program: impl AsRef<Path>, account: Account, signal: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal]);
    if account == Account::Postgres {
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
    }
    command.arg("--").arg(program.as_ref()).stdin(Stdio::null()).process_group(0);
    command
}

/// A running child with its log; ended on drop.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    ending: &'static str,
}

impl Process {
    /// Starts `command`; `ending` is the signal that asks it to end.
    ///
    /// Linux sends the parent-death signal when the forking *thread* ends: call this from the thread that
    /// drives the servers, never from a pool of threads.
    pub fn spawn(
        name: &'static str,
        mut command: Command,
        log: PathBuf,
        ending: &'static str,
    ) -> Result<Process> {
        let output = File::options().create(true).append(true).open(&log);
        let output = output.and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = output.map_err(|e| Error::definite(format!("{}: {e}", log.display()), ""))?;
        let child = command.stdout(out).stderr(err).spawn();
        let child = child.map_err(|e| cannot_run("setpriv", &e))?;
        Ok(Process { name, child, log, ending })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal; one that has ended gets none.
    pub fn signal(&self, name: &str) {
        // The shell's own kill: the program of that name is not on every machine.
        let script = format!("kill -s {name} {}", self.child.id());
        let _ = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status();
    }

    /// Fails with the end of its log when the process has ended by itself.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status)),
            Err(e) => Err(Error::definite(format!("{} cannot be watched: {e}", self.name), "")),
        }
    }

    /// Waits until it has ended by itself, which must be a success.
    pub async fn finishes(mut self) -> Result<()> {
        let deadline = Instant::now() + ONE_TASK;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                _ => self.still_runs()?,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(self.failure("does not come to an end"))
    }

    /// An error that shows the end of its log.
    pub fn failure(&self, fact: &str) -> Error {
        Error::definite(format!("{} {fact}", self.name), format!("its log ends with\n{}", tail(&self.log)))
    }

    fn ended(&self, status: ExitStatus) -> Error {
        self.failure(&format!("ended with {status}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let deadline = Instant::now() + GRACE;
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(self.ending);
        }
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cannot_run(program: &str, error: &std::io::Error) -> Error {
    Error::definite(format!("{program} cannot be run ({error})"), "./deploy/demo installs what is missing")
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
}

/// A temporary folder; removed on drop, and by a shell when this program did not live to do it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    remover: Child,
}

impl Folder {
    /// Makes it below the system's temporary folder, open to the servers' account only (and root).
    pub fn create(command: &str, account: Account) -> Result<Folder> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let (pid, n) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("lockstep-{command}-{pid}-{n}"));
        let failed =
            |e| Error::definite(format!("{}: {e}", path.display()), "set TMPDIR to a writable folder");
        std::fs::create_dir(&path).map_err(failed)?;
        // Its standard input ends with this program, even by SIGKILL; servers may still be writing then.
        let script = "read -r _; for n in 1 2 3 4 5 6 7 8; do rm -rf -- \"$1\" && exit; sleep 0.5; done";
        let mut remover = Command::new("sh");
        remover.args(["-c", script, "sh"]).arg(&path).process_group(0);
        remover.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let remover = remover.spawn().map_err(|e| cannot_run("sh", &e))?;
        let folder = Folder { path, remover };
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&folder.path, mode).map_err(failed_at(&folder.path))?;
        give_to_servers(account, &folder.path)?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.remover.stdin.take());
        let _ = self.remover.wait();
    }
}

/// Makes the servers' account the owner.
pub fn give_to_servers(account: Account, path: &Path) -> Result<()> {
    if account == Account::Own {
        return Ok(());
    }
    let given = Command::new("chown").arg("postgres:").arg(path).status();
    match given.map_err(|e| cannot_run("chown", &e))? {
        status if status.success() => Ok(()),
        _ => Err(Error::definite(
            format!("{} cannot be given to user postgres", path.display()),
            "start it as an ordinary user",
        )),
    }
}

/// Turns an IO error about `path` into a fact.
pub fn failed_at(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |e| Error::definite(format!("{}: {e}", path.display()), "")
}

/// A loopback port that is free now, with a free one 10,000 above it (the bus of a Redis Cluster node).
pub fn free_port() -> Result<u16> {
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    for _ in 0..PORT_ATTEMPTS {
        let held = free(0).ok();
        let port = held.and_then(|listener| Some(listener.local_addr().ok()?.port()));
        match port {
            Some(port) if port < LAST_PORT && free(port + 10_000).is_ok() => return Ok(port),
            _ => {}
        }
    }
    Err(Error::definite("no free port on 127.0.0.1", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_gone_after_its_guard() {
        let folder = Folder::create("test", Account::Own).unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_child_is_gone_after_its_guard_and_its_log_tells_why_it_ended() {
        let folder = Folder::create("test", Account::Own).unwrap();
        let mut sleeper = guarded("sleep", Account::Own, "KILL");
        sleeper.arg("1000");
        let sleeper = Process::spawn("sleep", sleeper, folder.path().join("sleep.log"), "TERM").unwrap();
        let pid = sleeper.id();
        drop(sleeper);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());

        let mut failing = guarded("sh", Account::Own, "KILL");
        failing.args(["-c", "echo out of luck; exit 3"]);
        let mut failing = Process::spawn("sh", failing, folder.path().join("sh.log"), "TERM").unwrap();
        let error = loop {
            if let Err(error) = failing.still_runs() {
                break error.to_string();
            }
        };
        assert!(error.contains("exit status: 3") && error.contains("out of luck"), "{error}");
    }
}
