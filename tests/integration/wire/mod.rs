//! The connection to PostgreSQL against a real server.

mod login;
mod reach;
mod shutdown;
mod streaming;

use lockstep::config::Postgres;
use lockstep::error::Error;
use lockstep::wire::{Walsender, sql};

/// The configuration that `text` means, with nothing in the environment.
fn configured(text: &str) -> Postgres {
    Postgres::read(Some(text), &|_| None).unwrap_or_else(|mistakes| panic!("{mistakes:?}")).0
}

/// Both kinds of connection, because they authenticate by different code.
async fn both(text: &str) -> Result<(), Error> {
    let pg = configured(text);
    let stream = Walsender::connect(&pg).await.map(drop);
    let client = sql::connect(&pg).await.map(drop);
    if let (Err(stream), Err(client)) = (&stream, &client) {
        assert_eq!(stream.to_string(), client.to_string(), "one table of errors");
    }
    assert_eq!(stream.is_ok(), client.is_ok(), "{stream:?} {client:?}");
    stream
}

async fn refused(text: &str) -> Error {
    both(text).await.expect_err(text)
}
