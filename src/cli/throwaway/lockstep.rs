//! Lockstep itself, as an operator runs it: `init`, then `run`, as processes of this same program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::cluster::RedisSide;
use super::process::{Account, LOOK_EVERY, Process, failed_at, free_port, guarded};
use super::servers::Postgres;
use crate::config::Shard;
use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// How long the load of all users may take.
const READY: Duration = Duration::from_secs(60);
/// How long one answer over HTTP may take.
const ANSWER: Duration = Duration::from_secs(2);
/// How long it may wait for a position before it answers.
const WAIT: Duration = Duration::from_secs(1);
/// Bytes of an HTTP answer that are read.
const ANSWER_BYTES: u64 = 1 << 20;

/// Lockstep with a configuration and a slot.
#[derive(Debug)]
pub struct Installed {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    config: PathBuf,
}

/// A running `lockstep run`.
#[derive(Debug)]
pub struct Lockstep {
    process: Process,
    port: u16,
    config: PathBuf,
}

/// What `/metrics` says that is shown.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Events applied since the start.
    pub events: f64,
    /// Users that the running or last load has read.
    pub loaded: f64,
    /// Age of the oldest commit that Redis does not hold.
    pub lag_seconds: f64,
    /// Resident memory in bytes.
    pub memory_bytes: f64,
    /// Whether every foreign write is announced.
    pub watches: bool,
}

impl Installed {
    /// Writes the configuration, with more lines of TOML at its end, and runs `init`.
    pub async fn init(
        folder: &Path,
        postgres: &Postgres,
        redis: &RedisSide,
        more: &str,
    ) -> Result<Installed> {
        let port = free_port()?;
        let config = folder.join("lockstep.toml");
        let urls: Vec<String> = redis.urls().iter().map(|url| format!("\"{url}\"")).collect();
        let text = format!(
            "[http]\nlisten = \"127.0.0.1:{port}\"\n\n[postgres]\nurl = \"{}\"\n\n[redis]\nurl = [{}]\n{more}",
            postgres.url(),
            urls.join(", ")
        );
        let program = std::env::current_exe().map_err(|e| {
            Error::definite(format!("this program does not find itself ({e})"), "start it by its full path")
        })?;
        let installed = Installed { program, folder: folder.to_owned(), port, config };
        installed.configured(&text).await
    }

    /// The same for a part of the users, beside it.
    pub async fn shard(&self, shard: Shard) -> Result<Installed> {
        let text = std::fs::read_to_string(&self.config).map_err(failed_at(&self.config))?;
        let port = free_port()?;
        let part = format!("[postgres]\nshards = {}\nshard = {}\n", shard.count(), shard.index());
        let text = text.replacen("[postgres]\n", &part, 1);
        let text = text.replacen(&format!(":{}\"", self.port), &format!(":{port}\""), 1);
        let config = self.folder.join(format!("{}.toml", shard.name("lockstep")));
        let (program, folder) = (self.program.clone(), self.folder.clone());
        Installed { program, folder, port, config }.configured(&text).await
    }

    /// Another instance of the same slot, with a configuration that differs; nothing is to be installed for it.
    pub fn beside(&self, name: &str, differs: impl Fn(&str) -> String) -> Result<Installed> {
        let text = std::fs::read_to_string(&self.config).map_err(failed_at(&self.config))?;
        let port = free_port()?;
        let text = differs(&text.replacen(&format!(":{}\"", self.port), &format!(":{port}\""), 1));
        let config = self.folder.join(format!("{name}.toml"));
        std::fs::write(&config, text).map_err(failed_at(&config))?;
        let (program, folder) = (self.program.clone(), self.folder.clone());
        Ok(Installed { program, folder, port, config })
    }

    async fn configured(self, text: &str) -> Result<Installed> {
        std::fs::write(&self.config, text).map_err(failed_at(&self.config))?;
        let log = self.folder.join("init.log");
        Process::spawn("lockstep init", self.command("init"), log, "TERM")?.finishes().await?;
        Ok(self)
    }

    /// Starts `run`.
    pub fn run(&self) -> Result<Lockstep> {
        let log = self.config.with_extension("log");
        let process = Process::spawn("lockstep run", self.command("run"), log, "TERM")?;
        Ok(Lockstep { process, port: self.port, config: self.config.clone() })
    }

    /// Its configuration.
    pub fn config(&self) -> &Path {
        &self.config
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = guarded(&self.program, Account::Own, "TERM");
        without_settings_of_the_caller(&mut command);
        command.arg(subcommand).arg("--config").arg(&self.config);
        command
    }
}

impl Lockstep {
    /// Runs `init`, starts `run` and waits until it is ready.
    pub async fn start(folder: &Path, postgres: &Postgres, redis: &RedisSide) -> Result<Lockstep> {
        let mut lockstep = Installed::init(folder, postgres, redis, "").await?.run()?;
        lockstep.is_ready(READY).await?;
        Ok(lockstep)
    }

    /// Waits until every user is loaded and the stream is followed.
    pub async fn is_ready(&mut self, patience: Duration) -> Result<()> {
        self.says(patience, "become ready", |answer| answer.split(' ').nth(1) == Some("200")).await
    }

    /// Waits until it waits for the slot, which another instance has.
    pub async fn stands_by(&mut self, patience: Duration) -> Result<()> {
        let is_behind = |answer: &str| answer.contains("another instance holds the slot");
        self.says(patience, "stand by", is_behind).await
    }

    /// Waits until `/readyz` answers so.
    async fn says(&mut self, patience: Duration, what: &str, so: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let answer = self.get("/readyz").await.unwrap_or_default();
            if so(&answer) {
                return Ok(());
            }
            self.process.still_runs()?;
            if Instant::now() >= deadline {
                let said = answer.split_once("\r\n\r\n").map_or("nothing", |(_, body)| body);
                return Err(self.process.failure(&format!("does not {what} (/readyz says {said})")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether Redis holds this position; where it does not, that is said after about a second.
    pub async fn holds(&mut self, lsn: Lsn) -> Result<bool> {
        self.process.still_runs()?;
        let path = format!("/api/redis-health/wait?lsn={lsn}&timeout_ms={}", WAIT.as_millis());
        let answer = self.get(&path).await.unwrap_or_default();
        match answer.split(' ').nth(1) {
            Some("200") => return Ok(true),
            // It has waited as long as it was to.
            Some("504") => {}
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
        Ok(false)
    }

    /// Fails when it has ended.
    pub fn still_runs(&mut self) -> Result<()> {
        self.process.still_runs()
    }

    /// What it measures now; `None` while it does not answer.
    pub async fn measured(&self) -> Option<Measured> {
        let answer = self.get("/metrics").await?;
        let metrics = parse(&answer);
        let of = |name: &str| metrics.get(name).copied().unwrap_or_default();
        Some(Measured {
            events: of("lockstep_events_total"),
            loaded: of("lockstep_load_users"),
            lag_seconds: of("lockstep_replication_lag_seconds"),
            memory_bytes: of("process_resident_memory_bytes"),
            watches: of("lockstep_foreign_writes_watched") > 0.0,
        })
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its configuration.
    pub fn config(&self) -> &Path {
        &self.config
    }

    async fn get(&self, path: &str) -> Option<String> {
        let exchange = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.take(ANSWER_BYTES).read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        tokio::time::timeout(ANSWER, exchange).await.ok()?.ok()
    }
}

/// Variables of the caller's shell must not lead it to a real database.
fn without_settings_of_the_caller(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let ours = name.to_str().is_some_and(|name| name.starts_with("PG") || name.starts_with("LOCKSTEP_"));
        if ours {
            command.env_remove(name);
        }
    }
}

/// Sums of the series of each metric, over their labels.
fn parse(exposition: &str) -> BTreeMap<&str, f64> {
    let mut sums = BTreeMap::new();
    for line in exposition.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or(series);
        if let Ok(value) = value.parse::<f64>() {
            *sums.entry(name).or_default() += value;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_metric_are_summed() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# TYPE a counter\na{type=\"x y\"} 2\na{type=\"z\"} 3\nb 0.5\n";
        let sums = parse(text);
        assert_eq!((sums.get("a"), sums.get("b")), (Some(&5.0), Some(&0.5)));
    }
}
