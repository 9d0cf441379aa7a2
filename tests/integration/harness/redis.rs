//! A private Redis server.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::{TlsConnector, rustls};

use super::eventually;
use super::process::{Process, folder, free_port, guarded};
use super::resp::{Reply, Resp};
use super::tls::Certificates;

/// How a server differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// More lines for `redis.conf`.
    pub config: Vec<String>,
    /// `requirepass`.
    pub password: Option<String>,
    /// `user` lines without the word: `"lockstep on >pw ~* &* +@all"`.
    pub acl: Vec<String>,
    /// Only TLS, with a certificate of its own authority.
    pub tls: bool,
    /// Keep data over restarts.
    pub append_only: bool,
    /// A cluster node without slots.
    pub cluster: bool,
}

/// The user that the README lists, word for word; its password is `PASSWORD`.
pub fn readme_user() -> String {
    let readme = include_str!("../../../README.md");
    let rules = readme.split("ACL SETUSER ").nth(1).and_then(|rest| rest.split("```").next());
    rules.expect("the ACL in the README").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A server with its own folder; killed and removed on drop.
#[derive(Debug)]
pub struct Redis {
    process: Mutex<Option<Process>>,
    folder: TempDir,
    port: Mutex<u16>,
    options: RedisOptions,
    certificates: Option<Certificates>,
}

impl Redis {
    pub async fn start(options: RedisOptions) -> Redis {
        let folder = folder("redis-");
        let certificates = options.tls.then(|| Certificates::write(folder.path(), "lockstep"));
        let port = Mutex::new(free_port());
        let redis = Redis { process: Mutex::new(None), folder, port, options, certificates };
        redis.start_again().await;
        redis
    }

    /// Starts it after [`kill9`](Self::kill9) or [`stop`](Self::stop), on the same port.
    pub async fn start_again(&self) {
        const ATTEMPTS: u32 = 10;
        for _ in 0..ATTEMPTS {
            if self.try_start().await {
                return;
            }
            // Only a first start may move: clients know the port of a later one.
            if !self.log().contains("Ready to accept connections") {
                *self.port.lock().unwrap() = free_port();
            }
        }
        panic!("redis does not start:\n{}", self.log());
    }

    async fn try_start(&self) -> bool {
        let path = self.folder.path().join("redis.conf");
        std::fs::write(&path, self.configuration()).unwrap();
        let mut command = guarded(server_program(), None);
        command.arg(path).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::spawn(command).expect("setpriv (util-linux)");
        let answers = eventually("redis starts", async || match process.exited() {
            Some(_) => Some(false),
            None => matches!(self.ping().await, Some(Reply::Text(_))).then_some(true),
        });
        let started = answers.await;
        *self.process.lock().unwrap() = started.then_some(process);
        started
    }

    async fn ping(&self) -> Option<Reply> {
        self.connect().await.ok()?.call(&["PING"]).await.ok()
    }

    fn configuration(&self) -> String {
        let (options, port) = (&self.options, self.port());
        let plain_port = if options.tls { 0 } else { port };
        let mut lines = vec![
            format!("port {plain_port}\nbind 127.0.0.1\nprotected-mode no\ndaemonize no"),
            format!("dir {}\nlogfile redis.log\nsave \"\"", self.folder.path().display()),
            format!("appendonly {}", if options.append_only { "yes" } else { "no" }),
            // A replica is wanted at once; waiting for more of them is for networks.
            "enable-debug-command yes\nrepl-diskless-sync-delay 0".to_owned(),
        ];
        if let Some(tls) = &self.certificates {
            let (cert, key, ca) = (tls.server.display(), tls.server_key.display(), tls.authority.display());
            lines.push(format!("tls-port {port}\ntls-cert-file {cert}\ntls-key-file {key}"));
            lines.push(format!("tls-ca-cert-file {ca}\ntls-auth-clients no"));
        }
        if options.cluster {
            lines.push(
                "cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-node-timeout 2000\n\
                 cluster-replica-validity-factor 0"
                    .to_owned(),
            );
        }
        lines.extend(options.password.iter().map(|password| format!("requirepass {password}")));
        lines.extend(options.acl.iter().map(|user| format!("user {user}")));
        lines.extend(options.config.iter().cloned());
        lines.join("\n") + "\n"
    }

    /// Ends it as `kill -9` does; what was not on disk is lost.
    pub fn kill9(&self) {
        self.process.lock().unwrap().take();
    }

    /// Ends it in an orderly way.
    pub async fn stop(&self) {
        let process = self.process.lock().unwrap().take().expect("a running server");
        process.signal("TERM");
        process.wait().await;
    }

    pub async fn restart(&self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Becomes a replica of `master`, and waits until it holds what that one holds.
    pub async fn follow(&self, master: &Redis) {
        self.call(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).await;
        eventually("the replica is linked", async || {
            let info = self.call(&["INFO", "replication"]).await.text()?;
            info.contains("master_link_status:up").then_some(())
        })
        .await;
    }

    /// A replica that learns nothing more from its master: it is refused there until it is promoted.
    pub async fn lag_behind(&self) {
        self.call(&["CONFIG", "SET", "masterauth", "unknown-to-the-master"]).await;
        self.call(&["CLIENT", "KILL", "TYPE", "master"]).await;
        eventually("the link to the master is down", async || {
            let info = self.call(&["INFO", "replication"]).await.text()?;
            info.contains("master_link_status:down").then_some(())
        })
        .await;
    }

    /// One that [lagged behind](Self::lag_behind) will be let in again where it is a replica.
    pub async fn catch_up(&self) {
        self.call(&["CONFIG", "SET", "masterauth", ""]).await;
    }

    /// Freezes it: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        if let Some(process) = self.process.lock().unwrap().as_ref() {
            process.signal(name);
        }
    }

    pub fn is_running(&self) -> bool {
        self.process.lock().unwrap().is_some()
    }

    pub fn port(&self) -> u16 {
        *self.port.lock().unwrap()
    }

    /// The certificates of a server with TLS.
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("a server started with `tls`")
    }

    /// As the configuration takes it, with the password if there is one.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls { "rediss" } else { "redis" };
        let login = self.options.password.as_ref().map(|p| format!("default:{p}@")).unwrap_or_default();
        format!("{scheme}://{login}127.0.0.1:{}", self.port())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("redis.log")
    }

    /// A new connection, logged in.
    pub async fn client(&self) -> Resp {
        self.connect().await.expect("a connection")
    }

    async fn connect(&self) -> std::io::Result<Resp> {
        let stream = TcpStream::connect(("127.0.0.1", self.port())).await?;
        stream.set_nodelay(true)?;
        let mut resp = match &self.certificates {
            None => Resp::new(stream),
            Some(tls) => Resp::new(connector(tls).connect(loopback(), stream).await?),
        };
        if let Some(password) = &self.options.password {
            resp.call(&["AUTH", password]).await?;
        }
        Ok(resp)
    }

    /// One command over a new connection.
    ///
    /// # Panics
    /// On an error reply.
    pub async fn call(&self, command: &[&str]) -> Reply {
        let reply = self.client().await.call(command).await.expect("an answer");
        assert!(!matches!(reply, Reply::Error(_)), "{command:?}: {reply:?}");
        reply
    }

    /// So many keys of others that a look through all of them takes three hundred steps for each prefix.
    pub async fn write_idle_keys(&self) {
        let write = "for n = 1, 300000 do redis.call('SET', 'session:' .. n, '') end";
        self.client().await.call(&["EVAL", write, "0"]).await.expect("idle keys");
    }

    /// How often a command was executed, by whomever.
    pub async fn calls(&self, command: &str) -> u64 {
        let Reply::Text(stats) = self.call(&["INFO", "commandstats"]).await else { panic!("INFO is a text") };
        let of = format!("cmdstat_{command}:calls=");
        let calls = stats.lines().find_map(|line| line.strip_prefix(&of)?.split(',').next());
        calls.map_or(0, |calls| calls.parse().expect("a number"))
    }

    pub async fn get(&self, key: &str) -> Option<String> {
        self.call(&["GET", key]).await.text()
    }

    pub async fn hash(&self, key: &str) -> BTreeMap<String, String> {
        pairs(&self.call(&["HGETALL", key]).await)
    }

    pub async fn exists(&self, key: &str) -> bool {
        self.call(&["EXISTS", key]).await == Reply::Integer(1)
    }

    /// What the `redis-cli` program prints.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port().to_string()]);
        if let Some(tls) = &self.certificates {
            command.arg("--tls").arg("--cacert").arg(&tls.authority);
        }
        if let Some(password) = &self.options.password {
            command.args(["--no-auth-warning", "-a", password]);
        }
        let output = command.args(arguments).stdin(Stdio::null()).output().expect("redis-cli");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "redis-cli {arguments:?}: {text}");
        text
    }
}

/// The one that `tests/matrix` asks for, else the machine's.
fn server_program() -> OsString {
    std::env::var_os("LOCKSTEP_TEST_REDIS").unwrap_or_else(|| "redis-server".into())
}

/// The field-value pairs of an HGETALL.
pub fn pairs(reply: &Reply) -> BTreeMap<String, String> {
    reply.items().chunks(2).filter_map(|pair| Some((pair.first()?.text()?, pair.get(1)?.text()?))).collect()
}

fn loopback() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").expect("an address")
}

fn connector(tls: &Certificates) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&tls.authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    TlsConnector::from(Arc::new(builder.unwrap().with_root_certificates(roots).with_no_client_auth()))
}
