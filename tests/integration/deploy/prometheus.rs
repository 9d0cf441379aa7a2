//! A real Prometheus, which scrapes instances under test five times a second.

use std::process::Stdio;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::read;
use crate::harness::process::{Process, folder, free_port, guarded};
use crate::harness::{Lockstep, PATIENCE, eventually, eventually_ok};

/// How often it scrapes and evaluates.
const INTERVAL: &str = "200ms";
/// How long an alert waits, instead of what the rules say.
const FOR: &str = "600ms";

/// Killed on drop.
#[derive(Debug)]
pub struct Prometheus {
    _process: Process,
    _folder: TempDir,
    port: u16,
}

impl Prometheus {
    /// With the project's rules and configuration, in a hurry.
    pub async fn start(instances: &[&Lockstep]) -> Prometheus {
        let folder = folder("prometheus-");
        let rules: Vec<String> = read("deploy/prometheus/lockstep.rules.yml")
            .lines()
            .map(|line| match line.trim_start().strip_prefix("for: ") {
                Some(time) => line.replace(time, FOR),
                None => line.to_owned(),
            })
            .collect();
        std::fs::write(folder.path().join("lockstep.rules.yml"), rules.join("\n")).unwrap();
        let port = free_port();
        let prometheus = Prometheus { _process: spawn(&folder, port, instances), _folder: folder, port };
        eventually_ok(async || prometheus.get("/-/ready").await).await.expect("prometheus is ready");
        prometheus
    }

    async fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
            _ => Err(std::io::Error::other(answer)),
        }
    }

    async fn data(&self, path: &str) -> Result<Value, String> {
        let body = self.get(path).await.map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        Ok(answer["data"].take())
    }

    /// The series that an expression gives now.
    pub async fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let encoded = utf8_percent_encode(expression, NON_ALPHANUMERIC);
        let data = self.data(&format!("/api/v1/query?query={encoded}")).await?;
        data["result"].as_array().cloned().ok_or_else(|| format!("{data}"))
    }

    /// Every rule with its health and last error.
    pub async fn rules(&self) -> Result<Vec<Value>, String> {
        let data = self.data("/api/v1/rules").await?;
        let groups = data["groups"].as_array().ok_or("no groups")?;
        Ok(groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect())
    }

    /// State and annotations of an alert, where it is pending or fires.
    async fn alert(&self, name: &str) -> Result<Option<Value>, String> {
        let data = self.data("/api/v1/alerts").await?;
        let alerts = data["alerts"].as_array().ok_or("no alerts")?;
        Ok(alerts.iter().find(|alert| alert["labels"]["alertname"] == name).cloned())
    }

    /// Waits until the alert fires.
    pub async fn fires(&self, name: &str) -> Value {
        let fired = async || {
            let alert = self.alert(name).await.ok()??;
            (alert["state"] == "firing").then_some(alert)
        };
        eventually(&format!("{name} fires"), fired).await
    }

    /// Waits until the alert is over.
    pub async fn clears(&self, name: &str) {
        let cleared = async || matches!(self.alert(name).await, Ok(None)).then_some(());
        eventually(&format!("{name} clears"), cleared).await;
    }

    /// Names of the alerts that fire now.
    pub async fn firing(&self) -> Vec<String> {
        let data = self.data("/api/v1/alerts").await.expect("alerts");
        let alerts = data["alerts"].as_array().expect("alerts").iter();
        let firing = alerts.filter(|alert| alert["state"] == "firing");
        firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

fn spawn(folder: &TempDir, port: u16, instances: &[&Lockstep]) -> Process {
    let targets: Vec<String> = instances.iter().map(|i| format!("127.0.0.1:{}", i.http_port())).collect();
    let config = read("deploy/prometheus/prometheus.yml")
        .replace("_interval: 15s", &format!("_interval: {INTERVAL}"))
        .replace("[\"lockstep-1:9855\", \"lockstep-2:9855\"]", &format!("{targets:?}"));
    assert!(config.contains(&targets[0]) && config.contains(INTERVAL), "{config}");
    let config_path = folder.path().join("prometheus.yml");
    std::fs::write(&config_path, config).unwrap();
    let mut command = guarded("prometheus", None);
    command.arg(format!("--config.file={}", config_path.display()));
    command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Process::spawn(command).expect("prometheus: tests/run installs it")
}
