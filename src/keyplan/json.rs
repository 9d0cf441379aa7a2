//! The event as JSON: CONTRACT section 4, names and order as shown there.

use std::io::Write;

use bytes::Bytes;

use super::EventJson;
use super::template::{Scope, Shown, Source, write_json_text};
use crate::balance::{Event, Kind, Reread};
use crate::config::keys::On;
use crate::config::tables::{TOLD_TRANSACTION_COLUMNS, TRANSACTION_COLUMNS};

/// The fields of the event, written as they are planned.
#[derive(Debug)]
pub(super) struct Fields {
    updated: Vec<u8>,
    removed: Vec<u8>,
}

/// Room for the fields of an event; more is taken when needed.
const FIELDS_BYTES: usize = 768;
const REMOVED_BYTES: usize = 128;
/// Room for the rest of it, one completed row included.
const ENVELOPE_BYTES: usize = 640;

impl Fields {
    pub(super) fn new() -> Fields {
        Fields { updated: Vec::with_capacity(FIELDS_BYTES), removed: Vec::with_capacity(REMOVED_BYTES) }
    }

    pub(super) fn set(&mut self, name: &str, value: Shown<'_>) {
        self.updated.push(if self.updated.is_empty() { b'{' } else { b',' });
        write_json_text(name, &mut self.updated);
        self.updated.push(b':');
        value.write_json(&mut self.updated);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.removed.push(if self.removed.is_empty() { b'[' } else { b',' });
        write_json_text(name, &mut self.removed);
    }
}

/// Writes the whole event; `on` is `None` where only the fence can tell its type.
pub(super) fn write(scope: &Scope<'_>, fields: &Fields, on: Option<On>) -> EventJson {
    let event = scope.event;
    let mut out = Vec::with_capacity(fields.updated.len() + fields.removed.len() + ENVELOPE_BYTES);
    out.extend_from_slice(b"{\"user_id\":");
    scope.value(&Source::Id).write_json(&mut out);
    out.extend_from_slice(b",\"user_type\":");
    write_json_text(&event.user.user_type, &mut out);
    out.extend_from_slice(b",\"updated_fields\":");
    out.extend_from_slice(if fields.updated.is_empty() { b"{" } else { &fields.updated });
    out.extend_from_slice(b"},\"event_type\":\"");
    let Some(on) = on else {
        let mut tail = Vec::with_capacity(ENVELOPE_BYTES);
        write_tail(scope, fields, &mut tail);
        return EventJson::ByBalance { head: Bytes::from(out), tail: Bytes::from(tail) };
    };
    out.extend_from_slice(event_type(on).as_bytes());
    write_tail(scope, fields, &mut out);
    EventJson::Fixed(Bytes::from(out))
}

/// `event_type` in the JSON.
pub(super) fn event_type(on: On) -> &'static str {
    match on {
        On::UserCreated => "user_created",
        On::UserUpdate => "user_update",
        On::UserDeleted => "user_deleted",
        On::BalanceChange | On::Loaded | On::Reread => "balance_change",
    }
}

fn write_tail(scope: &Scope<'_>, fields: &Fields, out: &mut Vec<u8>) {
    let event = scope.event;
    let position = event.position;
    out.extend_from_slice(b"\",\"timestamp\":");
    match scope.time {
        Some(time) => write_json_text(time, out),
        None if event.commit.time.is_unknown() => out.extend_from_slice(b"null"),
        None => write_json_text(&crate::balance::time::commit_iso(event.commit.time), out),
    }
    let letter = match event.kind {
        Kind::Deleted => 'd',
        Kind::Loaded | Kind::Reread(_) => 'r',
        Kind::Created | Kind::Updated | Kind::Completed => 'u',
    };
    let id = format_args!("{:016x}-{:08x}-{letter}", position.commit_lsn.0, position.ordinal);
    print(out, format_args!(",\"source\":\"cdc\",\"event_id\":\"{id}"));
    if letter != 'u' || scope.is_shard {
        // The users of a truncated table share its position, rows that were read the stream's, and each shard counts the
        // rows that it was sent: the user tells them apart.
        let mut user = Vec::new();
        write_json_text(&format!("-{}:{}", event.user.user_type, event.user.id), &mut user);
        out.extend_from_slice(user.get(1..user.len().saturating_sub(1)).unwrap_or_default());
    }
    let xid = event.commit.xid.0 & 0xFFFF_FFFF;
    print(
        out,
        format_args!("\",\"commit_lsn\":\"{}\",\"xid\":{xid},\"operation_type\":", position.commit_lsn),
    );
    match event.kind {
        Kind::Reread(why) => write_json_text(word(why), out),
        _ => scope.value(&Source::Transaction("type".into())).write_json(out),
    }
    out.extend_from_slice(b",\"removed_fields\":");
    out.extend_from_slice(if fields.removed.is_empty() { b"[" } else { &fields.removed });
    out.extend_from_slice(b"],\"transactions\":[");
    for (index, row) in event.completed.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"{" } else { b",{" });
        for (index, name) in TRANSACTION_COLUMNS.into_iter().take(TOLD_TRANSACTION_COLUMNS).enumerate() {
            print(out, format_args!("{}\"{name}\":", if index == 0 { "" } else { "," }));
            let known = row.fields.iter().find(|field| *field.name == *name);
            known.map_or(Shown::Null, |field| Shown::of(&field.value)).write_json(out);
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
}

fn print(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let written = out.write_fmt(text);
    debug_assert!(written.is_ok(), "a Vec takes everything");
}

/// `operation_type` of a row that was read again.
fn word(why: Reread) -> &'static str {
    match why {
        Reread::Resync => "resync",
        Reread::Repair => "repair",
        Reread::Heal => "heal",
        Reread::ForceRefresh => "force_refresh",
    }
}

/// Whether the event is published as changed without asking the stored balance.
pub(super) fn is_unconditional(event: &Event) -> bool {
    event.kind == Kind::Reread(Reread::ForceRefresh)
}
