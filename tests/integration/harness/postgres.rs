//! A private PostgreSQL server.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::process::{Process, folder, free_port, guarded};
use super::tls::Certificates;
use super::versions::postgres_major;
use super::{eventually, eventually_ok};

/// How a server differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Lines for `postgresql.conf`, behind the harness' own: `("wal_level", "replica")`.
    pub settings: Vec<(String, String)>,
    /// `pg_hba.conf` instead of trust for everybody. The harness itself comes in by the unix socket as
    /// `postgres`, which stays trusted.
    pub hba: Option<String>,
    /// Whether the server offers TLS, with certificates of its own authority.
    pub tls: bool,
    /// Whether it has a system identifier of its own: all others are copies of one server.
    pub unrelated: bool,
}

impl PostgresOptions {
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> PostgresOptions {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// How to shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Waits for clients.
    Smart,
    /// Disconnects clients.
    Fast,
    /// Without a checkpoint: recovers at the next start.
    Immediate,
}

/// A server with its own data folder; killed and removed on drop.
#[derive(Debug)]
pub struct Postgres {
    process: Mutex<Option<Process>>,
    folder: TempDir,
    port: Mutex<u16>,
    certificates: Option<Certificates>,
}

impl Drop for Postgres {
    /// A server that is killed leaves its shared memory to the machine, which has room for some thousands.
    fn drop(&mut self) {
        const LAST_MOMENTS: Duration = Duration::from_secs(5);
        let Some(process) = self.process.get_mut().ok().and_then(Option::take) else { return };
        process.signal("CONT");
        process.signal("QUIT");
        let since = Instant::now();
        while process.exited().is_none() && since.elapsed() < LAST_MOMENTS {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Postgres {
    pub async fn start(options: PostgresOptions) -> Postgres {
        let folder = folder("pg-");
        let data = folder.path().join("data");
        match options.unrelated {
            true => initialise(folder.path()),
            false => copy(template(), &data),
        }
        let certificates = options.tls.then(|| Certificates::write(folder.path(), "lockstep"));
        give_to_server_user(folder.path());
        std::fs::write(data.join("postgresql.conf"), configuration(&options, folder.path())).unwrap();
        let hba = options.hba.as_deref().unwrap_or(TRUST_EVERYBODY);
        std::fs::write(data.join("pg_hba.conf"), format!("local all postgres trust\n{hba}\n")).unwrap();
        let port = Mutex::new(free_port());
        let postgres = Postgres { process: Mutex::new(None), folder, port, certificates };
        postgres.start_again().await;
        postgres
    }

    /// A streaming standby of a running server, without its slots. Not every package of the server has `pg_basebackup`.
    pub async fn standby_of(primary: &Postgres) -> Postgres {
        let folder = folder("pg-");
        let data = folder.path().join("data");
        let (start, stop) = match postgres_major() {
            ..15 => ("pg_start_backup('standby', true, false)", "pg_stop_backup(false)"),
            _ => ("pg_backup_start('standby', true)", "pg_backup_stop(false)"),
        };
        let session = primary.client().await;
        rows(&session, &format!("SELECT {start}")).await;
        copy(&primary.data(), &data);
        let label = rows(&session, &format!("SELECT labelfile FROM {stop}")).await;
        std::fs::write(data.join("backup_label"), label[0][0].as_deref().expect("a label")).unwrap();
        std::fs::write(data.join("standby.signal"), "").unwrap();
        std::fs::remove_file(data.join("postmaster.pid")).unwrap();
        std::fs::remove_dir_all(data.join("pg_replslot")).unwrap();
        std::fs::create_dir(data.join("pg_replslot")).unwrap();
        let follows = format!(
            "host={} port={} user=postgres dbname=postgres",
            primary.socket_dir().display(),
            primary.port()
        );
        let options = PostgresOptions::default().set("primary_conninfo", &follows);
        std::fs::write(data.join("postgresql.conf"), configuration(&options, folder.path())).unwrap();
        give_to_server_user(folder.path());
        let port = Mutex::new(free_port());
        let postgres = Postgres { process: Mutex::new(None), folder, port, certificates: None };
        postgres.start_again().await;
        postgres
    }

    /// Has a standby keep up with its primary's failover slots, as it can since version 17; to an older one the slot is
    /// given as it is now.
    pub async fn keeps_slot(&self, primary: &Postgres, slot: &str) {
        if postgres_major() < 17 {
            self.stop(Mode::Fast).await;
            let at = |server: &Postgres| server.data().join("pg_replslot").join(slot);
            copy(&at(primary), &at(self));
            return self.start_again().await;
        }
        primary.sql("SELECT pg_create_physical_replication_slot('standby')").await;
        for setting in
            ["primary_slot_name = 'standby'", "hot_standby_feedback = on", "sync_replication_slots = on"]
        {
            self.sql(&format!("ALTER SYSTEM SET {setting}")).await;
        }
        self.sql("SELECT pg_reload_conf()").await;
    }

    /// Keeps a copy of the files of a server that was stopped.
    pub fn keep_files(&self) {
        copy(&self.data(), &self.folder.path().join("kept"));
    }

    /// Puts the copy back.
    pub fn restore_files(&self) {
        std::fs::remove_dir_all(self.data()).unwrap();
        copy(&self.folder.path().join("kept"), &self.data());
    }

    /// Puts the copy back and has the next start go on from there with the WAL written since, up to a restore point: a new
    /// timeline begins there.
    pub fn restore_files_up_to(&self, restore_point: &str) {
        let archive = self.folder.path().join("archive");
        copy(&self.data().join("pg_wal"), &archive);
        self.restore_files();
        let mut text = std::fs::read_to_string(self.data().join("postgresql.conf")).unwrap();
        text.push_str(&format!(
            "restore_command = 'cp \"{}/%f\" \"%p\"'\nrecovery_target_name = '{restore_point}'\n\
             recovery_target_action = 'promote'\n",
            archive.display()
        ));
        std::fs::write(self.data().join("postgresql.conf"), text).unwrap();
        std::fs::write(self.data().join("recovery.signal"), "").unwrap();
        give_to_server_user(self.folder.path());
    }

    /// Starts it after [`stop`](Self::stop) or [`kill9`](Self::kill9), on the same port.
    pub async fn start_again(&self) {
        const ATTEMPTS: u32 = 10;
        for _ in 0..ATTEMPTS {
            if self.try_start().await {
                return;
            }
            // Only a first start may move: clients know the port of a later one.
            if !self.log().contains("ready to accept connections") {
                *self.port.lock().unwrap() = free_port();
            }
        }
        panic!("postgres does not start:\n{}", self.log());
    }

    async fn try_start(&self) -> bool {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = guarded(program("postgres"), server_user());
        command.arg("-D").arg(self.data()).args(["-p", &self.port().to_string()]);
        command.stdout(Stdio::null()).stderr(log);
        let process = Process::spawn(command).expect("setpriv (util-linux)");
        let accepts = eventually("postgres starts", async || match process.exited() {
            Some(_) => Some(false),
            None => self.connect().await.is_ok().then_some(true),
        });
        let started = accepts.await;
        *self.process.lock().unwrap() = started.then_some(process);
        started
    }

    /// Shuts down and says how long that took.
    pub async fn stop(&self, mode: Mode) -> Duration {
        let process = self.process.lock().unwrap().take().expect("a running server");
        let since = Instant::now();
        process.signal(match mode {
            Mode::Smart => "TERM",
            Mode::Fast => "INT",
            Mode::Immediate => "QUIT",
        });
        process.wait().await;
        since.elapsed()
    }

    /// As a crash of the machine would: no process of it is left.
    pub fn kill9(&self) {
        self.process.lock().unwrap().take();
    }

    /// `STOP` freezes the postmaster, `CONT` wakes it, `HUP` reloads its configuration.
    pub fn signal(&self, name: &str) {
        if let Some(process) = self.process.lock().unwrap().as_ref() {
            process.signal(name);
        }
    }

    pub fn port(&self) -> u16 {
        *self.port.lock().unwrap()
    }

    pub fn socket_dir(&self) -> &Path {
        self.folder.path()
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The certificates of a server with TLS.
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("a server started with `tls`")
    }

    /// The superuser over TCP.
    pub fn url(&self) -> String {
        self.url_for("postgres", "postgres")
    }

    pub fn url_for(&self, user: &str, database: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/{database}", self.port())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("postgres.log")
    }

    /// A superuser's connection over the unix socket.
    pub async fn client(&self) -> Client {
        self.connect().await.expect("a connection")
    }

    pub async fn client_of(&self, user: &str, database: &str) -> Client {
        self.connect_as(user, database).await.expect("a connection")
    }

    async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        self.connect_as("postgres", "postgres").await
    }

    async fn connect_as(&self, user: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
        self.door(user, database).client().await
    }

    /// A way in over the unix socket for tasks that outlive a borrow.
    pub fn door(&self, user: &str, database: &str) -> Door {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.socket_dir()).port(self.port()).user(user).dbname(database);
        Door(config)
    }

    /// Runs statements; more than one without BEGIN is one transaction, as the protocol has it.
    pub async fn sql(&self, statements: &str) {
        let client = self.client().await;
        client.batch_execute(statements).await.unwrap_or_else(|e| panic!("{statements}: {e:?}"));
    }

    /// Rows as PostgreSQL prints them.
    pub async fn rows(&self, query: &str) -> Vec<Vec<Option<String>>> {
        rows(&self.client().await, query).await
    }

    /// The first column of the first row.
    pub async fn value(&self, query: &str) -> Option<String> {
        self.rows(query).await.into_iter().next()?.into_iter().next()?
    }

    pub async fn create_database(&self, name: &str) {
        self.sql(&format!("CREATE DATABASE {name}")).await;
    }

    /// Waits until a query's first value is `wanted`.
    pub async fn eventually_value(&self, query: &str, wanted: &str) {
        let waited = eventually_ok(async || match self.value(query).await {
            Some(value) if value == wanted => Ok(()),
            other => Err(other),
        });
        waited.await.unwrap_or_else(|last| panic!("{query}: {last:?}, not {wanted}"));
    }
}

/// Where a server is entered, whether it runs or not.
#[derive(Debug, Clone)]
pub struct Door(tokio_postgres::Config);

impl Door {
    pub async fn client(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.0.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// Rows as PostgreSQL prints them, through a connection of the test's own.
pub async fn rows(client: &Client, query: &str) -> Vec<Vec<Option<String>>> {
    try_rows(client, query).await.unwrap_or_else(|e| panic!("{query}: {e:?}"))
}

pub async fn try_rows(
    client: &Client,
    query: &str,
) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
    let messages = client.simple_query(query).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.map(|row| (0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect()).collect())
}

const TRUST_EVERYBODY: &str = "local all all trust\nlocal replication all trust\n\
    host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust";

fn configuration(options: &PostgresOptions, folder: &Path) -> String {
    // Safe from a crash of the server is enough here: nobody pulls the plug of a test.
    let mut text = format!(
        "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nwal_level = logical\n\
         max_wal_senders = 10\nmax_replication_slots = 10\nmax_slot_wal_keep_size = 4GB\nmax_wal_size = 1GB\n\
         max_connections = 60\nshared_buffers = 32MB\nfsync = off\nfull_page_writes = off\njit = off\n\
         checkpoint_timeout = 1h\ntimezone = 'UTC'\nlog_line_prefix = '%m [%p] %a '\n",
        folder.display()
    );
    if options.tls {
        let file = |name: &str| folder.join(name).display().to_string();
        text.push_str(&format!(
            "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\nssl_ca_file = '{}'\n",
            file("server.pem"),
            file("server.key"),
            file("authority.pem")
        ));
    }
    for (name, value) in &options.settings {
        text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
    }
    text
}

/// The user who runs the server: PostgreSQL refuses root.
fn server_user() -> Option<&'static str> {
    static ROOT: OnceLock<bool> = OnceLock::new();
    ROOT.get_or_init(|| output("id", &["-u"]).as_deref() == Some("0")).then_some("postgres")
}

/// One of the server's programs.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let chosen = || std::env::var_os("LOCKSTEP_TEST_POSTGRES").map(PathBuf::from);
    FOLDER.get_or_init(|| chosen().unwrap_or_else(programs_folder)).join(name)
}

/// Debian keeps the servers' programs out of PATH, each version in its own folder; the newest is taken.
fn programs_folder() -> PathBuf {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = debian.map(|entry| entry.path().join("bin")).collect();
    found.sort_by_key(|path| path.parent().and_then(|p| p.file_name()?.to_str()?.parse::<u32>().ok()));
    found.insert(0, output("pg_config", &["--bindir"]).unwrap_or_default().into());
    let complete =
        found.into_iter().rfind(|path| path.join("postgres").exists() && path.join("initdb").exists());
    complete.expect("the PostgreSQL server programs: install the package \"postgresql\"")
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// An initialised data folder that servers copy: initdb takes longer than all else.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let folder = folder("pg-template-").keep();
        initialise(&folder);
        folder.join("data")
    })
}

/// Makes the data folder of a new server.
fn initialise(folder: &Path) {
    give_to_server_user(folder);
    let mut initdb = guarded(program("initdb"), server_user());
    initdb.arg("-D").arg(folder.join("data"));
    initdb.args(["-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]);
    // The caller's folder may be closed to the server's user.
    run(initdb.current_dir("/"));
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to));
}

fn give_to_server_user(path: &Path) {
    if let Some(user) = server_user() {
        run(Command::new("chown").arg("-R").arg(format!("{user}:")).arg(path));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
