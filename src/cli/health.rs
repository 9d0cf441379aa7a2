//! `lockstep health`

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Exit;
use super::output::say;
use crate::config::Config;
use crate::error::{Error, Result};

/// Longest time that the instance may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES: u64 = 64 << 10;

/// Ask the instance that runs here whether it lives, as a container's health check does; exit code 1 if it does not
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Ask whether it is ready: it streams, Redis holds all users and is not far behind
    #[arg(long)]
    ready: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<Exit> {
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let address = reachable(config.http.listen);
    let unanswered = |why: String| {
        Error::transient(
            format!("{address} does not answer ({why})"),
            "check that lockstep runs here with this http.listen",
        )
    };
    let answer = match tokio::time::timeout(ANSWER_TIMEOUT, ask(address, path)).await {
        Err(_) => return Err(unanswered("it takes too long".to_owned())),
        Ok(Err(error)) => return Err(unanswered(error.to_string())),
        Ok(Ok(answer)) => answer,
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let message = serde_json::from_str(body).ok().and_then(|body: serde_json::Value| {
        let message = body.get("message")?.as_str()?;
        Some(message.to_owned())
    });
    match (head.split(' ').nth(1), message) {
        (Some("200"), message) => {
            say(message.unwrap_or_default());
            Ok(Exit::Done)
        }
        (Some("503"), Some(reason)) => Err(Error::transient(reason, "")),
        _ => Err(unanswered("what answers is not lockstep".to_owned())),
    }
}

/// Where this machine reaches what listens there.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let loopback = match listen.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
    };
    let ip = if listen.ip().is_unspecified() { loopback } else { listen.ip() };
    SocketAddr::new(ip, listen.port())
}

/// The whole answer; HTTP/1.0, so that it ends with the connection.
async fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES).read_to_string(&mut answer).await?;
    Ok(answer)
}
