//! Ordinary SQL by tokio-postgres, over the same sockets and TLS as the stream.

use std::convert::Infallible;
use std::error::Error as _;
use std::future::{Ready, ready};
use std::io;

use tokio_postgres::Client;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tracing::{Instrument, Span};

use super::link::Link;
use super::session::options;
use super::socket;
use super::sqlstate::Peer;
use super::trace::Trace;
use crate::config::{Endpoint, Postgres};
use crate::error::{Error, Result};

/// Connects at the first endpoint that can be reached, and spawns the task that drives the connection.
///
/// # Errors
/// As [`Walsender::connect`](super::Walsender::connect).
pub async fn connect(pg: &Postgres) -> Result<Client> {
    let mut last = Error::definite("no postgres server is named", "set postgres.url");
    for endpoint in &pg.endpoints {
        let span = Trace::span("sql", endpoint);
        let start = |link| start(pg, endpoint, span.clone(), link);
        match socket::log_in(pg, endpoint, start).instrument(span.clone()).await {
            Err(error) if error.is_transient() => last = error,
            done => return done,
        }
    }
    Err(last)
}

async fn start(pg: &Postgres, endpoint: &Endpoint, span: Span, link: Link) -> Result<Client> {
    let mut config = tokio_postgres::Config::new();
    config
        .user(&pg.user)
        .dbname(&pg.database)
        .application_name(&pg.application_name)
        .options(options(pg, ""));
    if let Some(password) = &pg.password {
        config.password(password.expose());
    }
    // "Direct": the link is encrypted already, so no SSLRequest is to be sent; only the binding is asked for.
    match link.is_tls() {
        true => config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct),
        false => config.ssl_mode(SslMode::Disable),
    };
    let peer = Peer::new(pg, Some(endpoint));
    let (client, connection) =
        config.connect_raw(link, Established).await.map_err(|error| translate(&peer, &error))?;
    let trace = Trace::connected(span);
    let driver = async move {
        // Each statement's caller is told by its own error.
        if let Err(error) = connection.await {
            trace.within(|| tracing::debug!(error = %translate(&peer, &error), "the connection ended"));
        }
        drop(trace);
    };
    tokio::spawn(driver);
    Ok(client)
}

fn translate(peer: &Peer, error: &tokio_postgres::Error) -> Error {
    if let Some(server) = error.as_db_error() {
        return peer.error(server.code().code(), server.message());
    }
    let cause = error.source();
    if let Some(io) = cause.and_then(|cause| cause.downcast_ref::<io::Error>()) {
        return peer.lost(io);
    }
    match cause.map(ToString::to_string) {
        Some(why) if why == "password missing" => peer.no_password(),
        _ if error.is_closed() => peer.closed(),
        Some(why) => Error::definite(format!("postgres: {error} ({why})"), ""),
        None => Error::definite(format!("postgres: {error}"), ""),
    }
}

/// Hands tokio-postgres a link that is encrypted already.
struct Established;

impl TlsConnect<Link> for Established {
    type Stream = Link;
    type Error = Infallible;
    type Future = Ready<Result<Link, Infallible>>;

    fn connect(self, stream: Link) -> Self::Future {
        ready(Ok(stream))
    }
}

impl TlsStream for Link {
    fn channel_binding(&self) -> ChannelBinding {
        match self.binding() {
            Some(data) => ChannelBinding::tls_server_end_point(data.to_vec()),
            None => ChannelBinding::none(),
        }
    }
}
