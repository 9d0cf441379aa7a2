//! The stream: pgoutput messages to transactions, to events, to plans.

use bytes::Bytes;
use lockstep::balance::Output;
use lockstep::lsn::Xid64;
use lockstep::pgoutput::Message;
use lockstep::txn::{Assembler, Window};

use super::{corpus, pieces, plans};

/// Small, so that short inputs are more than one.
const WINDOW: Window = Window { rows: 5, bytes: 2_000 };

pub const WORDS: &[&str] = &[
    "public",
    "users",
    "user_transactions",
    "wallet_balance",
    "completed",
    "live",
    "NaN",
    "-0.000000",
    "1e5",
];

/// Messages, each a piece.
pub fn run(input: &[u8]) {
    let mut mapping = plans::default_mapping();
    let mut assembler = Assembler::new(WINDOW, Xid64(700), "lockstep:s");
    for piece in pieces::split(input) {
        let Ok(message) = Message::decode(Bytes::copy_from_slice(piece)) else { continue };
        // A stream that breaks the protocol is closed.
        let Ok(window) = assembler.push(message) else { return };
        let Some(transaction) = window else { continue };
        assert!(transaction.rows.len() <= WINDOW.rows.max(1), "{} rows in a window", transaction.rows.len());
        for output in mapping.events(&transaction) {
            if let Output::Event(event) = output {
                plans::check_default(&event);
            }
        }
    }
}

/// Whole recordings, and each message behind what describes its tables.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (path, bytes) in super::files(&corpus().join("pgoutput")) {
        if path.extension().is_some_and(|extension| extension == "hex") {
            let messages = pieces::from_hex(&String::from_utf8_lossy(&bytes));
            for part in messages.chunks(40) {
                seeds.push(pieces::join(part));
            }
            seeds.push(pieces::join(&messages));
        }
    }
    seeds
}
