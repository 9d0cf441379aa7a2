//! Child processes that never outlive the tests, their folders and their ports.

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};

use tempfile::TempDir;

use super::eventually;

/// A command whose process the kernel kills once the tests are gone, however they went.
pub fn guarded(program: impl AsRef<Path>, user: Option<&str>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some(user) = user {
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--init-groups"]);
    }
    command.arg("--").arg(program.as_ref()).stdin(Stdio::null()).process_group(0);
    command
}

/// A running child; killed with its own children on drop.
#[derive(Debug)]
pub struct Process(Mutex<Child>);

impl Process {
    /// Starts the command from a thread that lives as long as the tests: the parent-death signal of
    /// Linux fires when the forking thread ends, not the process.
    pub fn spawn(command: Command) -> io::Result<Process> {
        type Request = (Command, mpsc::Sender<io::Result<Child>>);
        static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
        let spawner = SPAWNER.get_or_init(|| {
            let (requests, inbox) = mpsc::channel::<Request>();
            std::thread::spawn(move || {
                for (mut command, reply) in inbox {
                    let _ = reply.send(command.spawn());
                }
            });
            requests
        });
        let (reply, answer) = mpsc::channel();
        spawner.send((command, reply)).expect("the spawner lives as long as the tests");
        answer.recv().expect("the spawner answers").map(|child| Process(Mutex::new(child)))
    }

    pub fn pid(&self) -> u32 {
        self.0.lock().unwrap().id()
    }

    /// The exit status, once there is one.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.0.lock().unwrap().try_wait().unwrap()
    }

    pub async fn wait(&self) -> ExitStatus {
        eventually(&format!("process {} ends", self.pid()), async || self.exited()).await
    }

    /// Sends a signal by name, `STOP` for example; nothing to a process that has ended.
    pub fn signal(&self, name: &str) {
        if self.exited().is_none() {
            kill(name, &[self.pid()]);
        }
    }

    /// Ends the process and its children at once, and waits until they are gone.
    pub fn kill9(&self) {
        if self.exited().is_some() {
            return;
        }
        let pid = self.pid();
        let children = children_of(pid);
        let mut child = self.0.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
        kill("KILL", &children);
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        status_kib(self.pid(), "VmRSS:") * 1024
    }

    /// Highest resident memory so far, in bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        status_kib(self.pid(), "VmHWM:") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn status_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The shell's own `kill`: the program of that name is not on every machine.
fn kill(signal: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let script = format!("kill -s {signal} {}", pids.join(" "));
    let _ = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status();
}

fn children_of(parent: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (name) state ppid ...": the name may hold anything, so count from its last bracket.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A folder below the one folder of this test run; removed on drop.
pub fn folder(prefix: &str) -> TempDir {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    let run = RUN.get_or_init(run_folder);
    readable_folder(prefix).tempdir_in(run).expect("a temporary folder")
}

/// Other users must reach it: PostgreSQL refuses to run as root.
fn readable_folder(prefix: &str) -> tempfile::Builder<'_, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).permissions(std::fs::Permissions::from_mode(0o755));
    builder
}

/// Makes the run's folder, and a shell that removes it once the tests are gone: its standard input ends
/// then, even by SIGKILL.
fn run_folder() -> PathBuf {
    static REMOVER: OnceLock<Child> = OnceLock::new();
    let path = readable_folder("lockstep-test-").tempdir().expect("a temporary folder").keep();
    REMOVER.get_or_init(|| {
        let script = "read -r _; for n in 1 2 3 4 5; do rm -rf -- \"$1\" && exit; sleep 0.2; done";
        let mut remover = Command::new("sh");
        remover.args(["-c", script, "sh"]).arg(&path).process_group(0);
        remover.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        remover.spawn().expect("sh")
    });
    path
}

/// A port that nobody listens on now, nor on the port 10,000 above it (Redis Cluster's bus). Below the
/// range that the kernel gives to outgoing connections; another program may still be quicker, so who
/// uses it tries again with the next.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run side by side begin at different places.
    let start = std::process::id().wrapping_mul(797);
    let candidates = std::iter::repeat_with(|| {
        let n = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(start) % COUNT;
        (FIRST + n) as u16
    });
    let is_free =
        |port: &u16| [*port, *port + 10_000].iter().all(|p| TcpListener::bind(("127.0.0.1", *p)).is_ok());
    candidates.take(COUNT as usize).find(is_free).expect("a free port on 127.0.0.1")
}
