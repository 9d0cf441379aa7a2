//! Authentication: trust, SCRAM-SHA-256 (-PLUS), md5, and clear text where the link is private.

use std::io;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::framing::Incoming;
use super::session::Session;
use crate::config::{Postgres, Secret};
use crate::error::{Error, Result};

/// Answers the server until it says `AuthenticationOk`.
pub(super) async fn authenticate(session: &mut Session, pg: &Postgres) -> Result<()> {
    let password = || pg.password.as_ref().map(Secret::expose);
    let answer = match receive(session).await? {
        Message::AuthenticationOk => return Ok(()),
        Message::AuthenticationSasl(body) => {
            let password = password().ok_or_else(|| session.peer.no_password())?;
            return scram(session, &body, password).await;
        }
        Message::AuthenticationMd5Password(body) => {
            password().map(|password| md5_hash(pg.user.as_bytes(), password.as_bytes(), body.salt()))
        }
        // Over plain TCP the link has refused this request already.
        Message::AuthenticationCleartextPassword => password().map(str::to_owned),
        _ => {
            let fact = "the server demands an authentication method that lockstep does not speak";
            return Err(Error::definite(fact, "use scram-sha-256 in pg_hba.conf"));
        }
    };
    let answer = answer.ok_or_else(|| session.peer.no_password())?;
    frontend::password_message(answer.as_bytes(), &mut session.out)
        .map_err(|error| session.peer.lost(&error))?;
    session.send().await?;
    accepted(session).await
}

async fn scram(session: &mut Session, offer: &AuthenticationSaslBody, password: &str) -> Result<()> {
    let offered: Vec<&str> = offer.mechanisms().collect().map_err(|error| failed(session, &error))?;
    let bound = session.link.binding().map(<[u8]>::to_vec);
    // Whom the server could bind but does not offer to is told so ("y"): a downgrade in between is noticed.
    let (binding, mechanism) = match bound {
        Some(data) if offered.contains(&SCRAM_SHA_256_PLUS) => {
            (ChannelBinding::tls_server_end_point(data), SCRAM_SHA_256_PLUS)
        }
        Some(_) => (ChannelBinding::unrequested(), SCRAM_SHA_256),
        None => (ChannelBinding::unsupported(), SCRAM_SHA_256),
    };
    if !offered.contains(&mechanism) {
        return Err(session.peer.garbled("no SCRAM mechanism is offered"));
    }
    let mut exchange = ScramSha256::new(password.as_bytes(), binding);
    frontend::sasl_initial_response(mechanism, exchange.message(), &mut session.out)
        .map_err(|error| session.peer.lost(&error))?;
    session.send().await?;

    let Message::AuthenticationSaslContinue(body) = receive(session).await? else {
        return Err(session.peer.garbled("SCRAM out of step"));
    };
    exchange.update(body.data()).map_err(|error| failed(session, &error))?;
    frontend::sasl_response(exchange.message(), &mut session.out)
        .map_err(|error| session.peer.lost(&error))?;
    session.send().await?;

    let Message::AuthenticationSaslFinal(body) = receive(session).await? else {
        return Err(session.peer.garbled("SCRAM out of step"));
    };
    exchange.finish(body.data()).map_err(|error| failed(session, &error))?;
    accepted(session).await
}

async fn accepted(session: &mut Session) -> Result<()> {
    match receive(session).await? {
        Message::AuthenticationOk => Ok(()),
        _ => Err(session.peer.garbled("authentication out of step")),
    }
}

async fn receive(session: &mut Session) -> Result<Message> {
    match session.receive().await? {
        Incoming::Other(Message::ErrorResponse(body)) => Err(session.peer.refusal(&body)),
        Incoming::Other(message) => Ok(message),
        Incoming::CopyBoth | Incoming::CopyData(_) => Err(session.peer.garbled("data before login")),
    }
}

fn failed(session: &Session, error: &io::Error) -> Error {
    session.peer.garbled(&format!("SCRAM: {error}"))
}
