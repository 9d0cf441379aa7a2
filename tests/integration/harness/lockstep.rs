//! The program under test, as an operator runs it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::{Process, folder, free_port, guarded};
use super::{PATIENCE, eventually_ok, eventually_within};

/// Lines of the log that a failed test shows.
const SHOWN_LOG_LINES: usize = 120;

/// The one that `tests/run` has built optimised, else the one that was built beside the tests.
pub fn program() -> &'static str {
    static PROGRAM: LazyLock<String> = LazyLock::new(|| {
        let asked = std::env::var("LOCKSTEP_TEST_PROGRAM");
        asked.unwrap_or_else(|_| env!("CARGO_BIN_EXE_lockstep").to_owned())
    });
    &PROGRAM
}

/// One configuration and at most one running instance of it; killed on drop.
#[derive(Debug)]
pub struct Lockstep {
    process: Mutex<Option<Process>>,
    folder: TempDir,
    http_port: u16,
    token: &'static str,
    environment: Vec<(String, String)>,
    commands: AtomicU32,
}

/// Status and body of whatever answers on a port of this machine, with header lines of the test's own.
pub async fn ask(port: u16, method: &str, path: &str, headers: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    // HTTP/1.0: the answer comes in one piece and ends with the connection.
    let request = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    status.zip(body).ok_or_else(|| std::io::Error::other(format!("not HTTP: {answer:?}")))
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A command that goes on.
#[derive(Debug)]
pub struct Begun {
    pub process: Process,
    out: PathBuf,
    typed: Option<PathBuf>,
}

impl Begun {
    /// What it wrote so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    /// Types Ctrl-C on its terminal, and waits until it has ended as it should.
    pub async fn interrupt(&self) {
        let keys = self.typed.as_ref().expect("a terminal");
        std::fs::write(keys, "\u{3}").unwrap();
        assert_eq!(self.process.wait().await.code(), Some(0), "{}", self.stdout());
    }
}

impl Lockstep {
    /// `extra` is more TOML, tables of its own or keys of none.
    pub fn new(postgres_url: &str, redis_urls: &[String], extra: &str) -> Lockstep {
        let http_port = free_port();
        let token = "an-operators-token-of-the-tests-0123456789";
        let folder = folder("lockstep-");
        let token_file = folder.path().join("token");
        std::fs::write(&token_file, token).unwrap();
        std::fs::set_permissions(&token_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let lockstep = Lockstep {
            process: Mutex::new(None),
            http_port,
            token,
            environment: Vec::new(),
            commands: AtomicU32::new(0),
            folder,
        };
        lockstep.configure(&format!(
            "[postgres]\nurl = {postgres_url:?}\n[redis]\nurl = {redis_urls:?}\n\
             [http]\nlisten = \"127.0.0.1:{http_port}\"\ntoken_file = {:?}\n{extra}\n",
            token_file
        ));
        lockstep
    }

    /// Replaces the whole configuration file.
    pub fn configure(&self, toml: &str) {
        std::fs::write(self.config_path(), toml).unwrap();
    }

    pub fn configuration(&self) -> String {
        std::fs::read_to_string(self.config_path()).unwrap()
    }

    /// An environment variable of every command from now on.
    #[must_use]
    pub fn with_environment(mut self, name: &str, value: &str) -> Lockstep {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn config_path(&self) -> PathBuf {
        self.path("lockstep.toml")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a command to its end, `["check"]` for example, and says how it ended.
    pub async fn finish(&self, arguments: &[&str]) -> Finished {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (self.path(&format!("{number}.out")), self.path(&format!("{number}.err")));
        let process = self.start(arguments, File::create(&out).unwrap(), File::create(&err).unwrap());
        let code = process.wait().await.code();
        let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        Finished { code, stdout: read(&out), stderr: read(&err) }
    }

    /// Runs a command that goes on.
    pub fn begin(&self, arguments: &[&str]) -> Begun {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let out = self.path(&format!("{number}.out"));
        let err = File::create(self.path(&format!("{number}.err"))).unwrap();
        let process = self.start(arguments, File::create(&out).unwrap(), err);
        Begun { process, out, typed: None }
    }

    /// The same with a terminal, which `script` makes.
    pub fn begin_on_a_terminal(&self, arguments: &[&str]) -> Begun {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let (out, typed) = (self.path(&format!("{number}.out")), self.path(&format!("{number}.keys")));
        let made = std::process::Command::new("mkfifo").arg(&typed).status();
        assert!(made.is_ok_and(|status| status.success()));
        let program = program();
        // `exec`, because a plain sh would stay between and be ended by Ctrl-C itself, with status 130.
        let command =
            format!("exec {program} {} --config {}", arguments.join(" "), self.config_path().display());
        let mut script = guarded("script", None);
        // Opened for both, so that neither side waits for the other.
        script.args(["--quiet", "--flush", "--return", "--command", &command, "/dev/null"]);
        script.stdin(File::options().read(true).write(true).open(&typed).unwrap());
        script.stdout(File::create(&out).unwrap()).env("HOME", self.folder.path());
        Begun { process: Process::spawn(script).expect("script"), out, typed: Some(typed) }
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub async fn succeed(&self, arguments: &[&str]) -> String {
        let finished = self.finish(arguments).await;
        assert_eq!(finished.code, Some(0), "lockstep {arguments:?}: {finished:?}");
        finished.stdout
    }

    pub async fn init(&self) {
        self.succeed(&["init"]).await;
    }

    /// Starts `run` and waits until it is ready.
    pub async fn run(&self) {
        self.spawn(&["run"]);
        self.wait_ready().await;
    }

    /// Starts `run` with more arguments and does not wait.
    pub fn spawn(&self, arguments: &[&str]) {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let process = self.start(arguments, log.try_clone().unwrap(), log);
        *self.process.lock().unwrap() = Some(process);
    }

    fn start(&self, arguments: &[&str], stdout: File, stderr: File) -> Process {
        let mut command = guarded(program(), None);
        command.args(arguments).arg("--config").arg(self.config_path());
        // The developer's own variables (PGHOST, LOCKSTEP_...) must not steer a test.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.folder.path()).env("RUST_BACKTRACE", "1");
        command.envs(self.environment.iter().cloned()).current_dir(self.folder.path());
        command.stdout(stdout).stderr(stderr);
        Process::spawn(command).expect("setpriv (util-linux)")
    }

    /// Waits until `/readyz` answers 200.
    pub async fn wait_ready(&self) {
        self.wait_ready_within(PATIENCE).await;
    }

    pub async fn wait_ready_within(&self, patience: Duration) {
        let ready = eventually_within(patience, async || {
            if let Some(status) = self.exited() {
                return Ok(Err(format!("it ended: {status}")));
            }
            match self.http("GET", "/readyz").await {
                Ok((200, _)) => Ok(Ok(())),
                other => Err(format!("{other:?}")),
            }
        });
        if let Err(why) = ready.await.and_then(|ended| ended) {
            panic!("lockstep is not ready: {why}");
        }
    }

    /// Waits until `/readyz` gives a reason that holds these words.
    pub async fn is_not_ready_because(&self, words: &str) {
        let told = eventually_ok(async || match self.http("GET", "/readyz").await {
            Ok((503, body)) if body.contains(words) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        told.await.unwrap_or_else(|other| panic!("/readyz does not say {words:?}: {other}"));
    }

    /// The exit status of the instance, once there is one.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.process.lock().unwrap().as_ref().and_then(Process::exited)
    }

    /// `STOP` freezes it, `CONT` wakes it.
    pub fn signal(&self, name: &str) {
        self.process.lock().unwrap().as_ref().expect("a running lockstep").signal(name);
    }

    pub fn kill9(&self) {
        self.process.lock().unwrap().take();
    }

    /// Asks it to end and waits until it has.
    pub async fn sigterm(&self) -> ExitStatus {
        self.sigterm_while(async || ()).await
    }

    /// Asks it to end, lets something happen, and waits until it has ended.
    pub async fn sigterm_while(&self, meanwhile: impl AsyncFnOnce()) -> ExitStatus {
        let process = self.process.lock().unwrap().take().expect("a running lockstep");
        process.signal("TERM");
        meanwhile().await;
        process.wait().await
    }

    /// Highest resident memory of the running instance, in bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        self.process.lock().unwrap().as_ref().expect("a running lockstep").peak_resident_bytes()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// Status and body, with the operator's token.
    pub async fn http(&self, method: &str, path: &str) -> std::io::Result<(u16, String)> {
        self.http_with(method, path, &self.bearer()).await
    }

    /// Status and body, with header lines of the test's own.
    pub async fn http_with(&self, method: &str, path: &str, headers: &str) -> std::io::Result<(u16, String)> {
        ask(self.http_port, method, path, headers).await
    }

    /// The header line of the operator's token.
    pub fn bearer(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token)
    }

    /// All metrics by name and labels as they are printed: `lockstep_events_total{type="user_update"}`.
    pub async fn metrics(&self) -> std::io::Result<BTreeMap<String, f64>> {
        let (_, text) = self.http("GET", "/metrics").await?;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Ok(samples
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(n, v)| Some((n.to_owned(), v.parse().ok()?)))
            .collect())
    }

    /// One metric; 0 as long as it, or the program, is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        self.metrics().await.ok().and_then(|all| all.get(name).copied()).unwrap_or(0.0)
    }
}

impl Drop for Lockstep {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines.get(lines.len().saturating_sub(SHOWN_LOG_LINES)..).unwrap_or_default();
            eprintln!("--- the last lines of lockstep's log ---\n{}\n---", shown.join("\n"));
        }
    }
}
