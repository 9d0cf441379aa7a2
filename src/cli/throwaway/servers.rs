//! A throwaway PostgreSQL and Redis on loopback.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::process::{Account, LOOK_EVERY, Process, failed_at, free_port, give_to_servers, guarded};
use crate::error::{Error, Result};

/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(60);
/// The platform's database.
const DATABASE: &str = "platform";

/// A running PostgreSQL server with one database.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    port: u16,
    password: String,
}

impl Postgres {
    /// Makes a data folder and starts a server on it.
    pub async fn start(folder: &Path, account: Account) -> Result<Postgres> {
        let programs = programs()?;
        let data = folder.join("postgresql");
        let password = password()?;
        let secret = folder.join("password");
        let written = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&secret);
        let written = written.and_then(|mut file| std::io::Write::write_all(&mut file, password.as_bytes()));
        written.map_err(failed_at(&secret))?;
        give_to_servers(account, &secret)?;
        let mut initdb = guarded(programs.join("initdb"), account, "KILL");
        initdb.arg("-D").arg(&data).arg(format!("--pwfile={}", secret.display())).args([
            "--no-sync",
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        // The caller's folder may be closed to the servers' account.
        initdb.current_dir("/");
        Process::spawn("initdb", initdb, folder.join("initdb.log"), "KILL")?.finishes().await?;

        let port = free_port()?;
        let mut server = guarded(programs.join("postgres"), account, "QUIT");
        server.current_dir("/").arg("-D").arg(&data).args(["-p", &port.to_string()]);
        for setting in settings(folder) {
            server.args(["-c", &setting]);
        }
        // Immediate shutdown: the data folder is thrown away anyway.
        let process = Process::spawn("postgresql", server, folder.join("postgresql.log"), "QUIT")?;
        let mut postgres = Postgres { process, port, password };
        let client = postgres.answers().await?;
        client.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await.map_err(sql)?;
        Ok(postgres)
    }

    async fn answers(&mut self) -> Result<Client> {
        let deadline = Instant::now() + START;
        loop {
            match connect(&self.url_of("postgres")).await {
                Ok(client) => return Ok(client),
                Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
                Err(e) => return Err(self.process.failure(&format!("does not answer ({e})"))),
            }
            self.process.still_runs()?;
        }
    }

    /// The superuser's URL of the platform's database.
    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgresql://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// A connection to the platform's database.
    pub async fn connect(&self) -> Result<Client> {
        connect(&self.url()).await
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn settings(folder: &Path) -> [String; 8] {
    [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("unix_socket_directories={}", folder.display()),
        "wal_level=logical".to_owned(),
        "max_slot_wal_keep_size=8GB".to_owned(),
        // The comparison reads the commit time of a row.
        "track_commit_timestamp=on".to_owned(),
        "shared_buffers=64MB".to_owned(),
        "max_wal_size=1GB".to_owned(),
        "timezone=UTC".to_owned(),
    ]
}

/// A connection to this URL, which the runtime of the caller keeps going.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(sql)?;
    // Ends with its client.
    tokio::spawn(connection);
    Ok(client)
}

/// An error of SQL that is not Lockstep's; its rows are made up, nothing in it is secret.
pub fn sql(error: tokio_postgres::Error) -> Error {
    let fact = error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned());
    Error::definite(format!("postgresql: {fact}"), "")
}

/// Debian keeps the servers' programs out of PATH, a folder for each version: the newest is taken.
fn programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|entry| entry.path()).collect();
    versions.sort_by_key(|path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
    let debian = versions.into_iter().rev().map(|path| path.join("bin"));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = debian.chain(std::env::split_paths(&on_path));
    let found = folders.find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists());
    found.ok_or_else(|| {
        Error::definite("the PostgreSQL server is not installed", "./deploy/demo installs what is missing")
    })
}

/// Other accounts of this machine must not become superuser of it.
fn password() -> Result<String> {
    let random = Path::new("/dev/urandom");
    let mut bytes = [0_u8; 12];
    let read = std::fs::File::open(random).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(failed_at(random))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A running Redis server.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    /// Starts a server, or an empty cluster node.
    pub async fn start(folder: &Path, account: Account, cluster: bool) -> Result<Redis> {
        let port = free_port()?;
        let name = format!("redis-{port}");
        let mut command = guarded("redis-server", account, "KILL");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.arg("--dir").arg(folder).args(["--repl-diskless-sync-delay", "0"]);
        if cluster {
            command.args(["--cluster-enabled", "yes", "--cluster-config-file", &format!("{name}.conf")]);
        }
        let process = Process::spawn("redis", command, folder.join(format!("{name}.log")), "TERM")?;
        let mut redis = Redis { process, port };
        redis.answers().await?;
        Ok(redis)
    }

    async fn answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        while redis_cli(self.port, &["ping"]).as_deref() != Some("PONG") {
            self.process.still_runs()?;
            if Instant::now() >= deadline {
                return Err(self.process.failure("does not answer"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// The answer of one command, without its last newline.
pub fn redis_cli(port: u16, arguments: &[&str]) -> Option<String> {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(arguments).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
