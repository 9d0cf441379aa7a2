//! Ready-made commands: what the plans of the same events say, as the plain commands that an application would send.
//!
//! They hold no fence, nothing is atomic, and nobody asks whether an event was seen before: less cannot be sent.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::backlog::Backlog;
use super::stream;
use super::world::World;
use crate::balance::{Event, Kind, Mapping, Output};
use crate::cli::throwaway::process::failed_at;
use crate::error::{Error, Result};
use crate::keyplan::{EventJson, KeyPlan, Step};
use crate::lsn::Xid64;
use crate::pgoutput::{Message, PgTime};
use crate::resync::read::{self, Which};
use crate::resync::{self, table};
use crate::txn::{Assembler, CommitInfo, Window};
use crate::wire::sql;

/// Users that are read at a time.
const CHUNK_USERS: usize = 10_000;

/// Commands in a file, as Redis reads them.
#[derive(Debug)]
pub struct Commands {
    /// The file.
    pub path: PathBuf,
    /// How many.
    pub commands: u64,
    /// Events whose commands these are.
    pub events: u64,
}

/// Writes the commands of a backlog.
pub async fn of_backlog(world: &World, backlog: &Backlog) -> Result<Commands> {
    let limits = &world.config.stream;
    let window = Window { rows: limits.window_rows, bytes: limits.window_bytes };
    // Any transaction id of the server's life will do: it is young.
    let mut assembler = Assembler::new(window, Xid64(0), "");
    let mut mapping = Mapping::new(&world.config.tables);
    let mut writer = Writer::create(&world.folder.path().join("commands"))?;
    stream::read(&world.config.postgres, backlog.end, |message: Bytes| {
        let Some(transaction) = assembler.push(Message::decode(message)?)? else { return Ok(()) };
        for output in mapping.events(&transaction) {
            if let Output::Event(event) = output {
                writer.plan(&world.key_map.plan(&event))?;
            }
        }
        Ok(())
    })
    .await?;
    let commands = writer.finish()?;
    if commands.events == backlog.events {
        return Ok(commands);
    }
    let (found, written) = (commands.events, backlog.events);
    Err(Error::definite(format!("{found} events of {written} are in the stream"), "report this as a bug"))
}

/// Writes the commands of the first load of all users.
pub async fn of_users(world: &World) -> Result<Commands> {
    let mut mapping = Mapping::new(&world.config.tables);
    let mut writer = Writer::create(&world.folder.path().join("users"))?;
    let postgres = sql::connect(&world.config.postgres).await?;
    for spec in world.config.tables.iter().filter(|spec| spec.is_users()) {
        let table = table::describe(&postgres, spec).await?;
        let mut after = None;
        loop {
            let up_to = read::hop(&postgres, &table, after.as_deref(), CHUNK_USERS).await?;
            let which = Which::Range { after, up_to: up_to.clone() };
            let rows = read::read(&postgres, &table, &which).await?;
            // What is read has no commit of its own.
            let commit =
                CommitInfo { commit_lsn: rows.read_before, time: PgTime(0), xid: rows.snapshot.xmax };
            let kind = (Kind::Loaded, &Arc::new(commit));
            let plan = |event: &Event| world.key_map.plan(event);
            for plan in resync::plans(&mut mapping, &table, &rows, kind, plan).0 {
                writer.plan(&plan)?;
            }
            match up_to {
                Some(id) => after = Some(id),
                None => break,
            }
        }
    }
    writer.finish()
}

/// Encodes plans into a file.
pub struct Writer {
    file: BufWriter<File>,
    done: Commands,
}

impl Writer {
    /// A new file.
    pub fn create(path: &Path) -> Result<Writer> {
        let file = File::create(path).map_err(failed_at(path))?;
        Ok(Writer {
            file: BufWriter::new(file),
            done: Commands { path: path.to_owned(), commands: 0, events: 0 },
        })
    }

    /// The commands of one event.
    pub fn plan(&mut self, plan: &KeyPlan) -> Result<()> {
        self.done.events += 1;
        // One DEL for all keys that go.
        let mut gone: Vec<&[u8]> = Vec::new();
        for step in &plan.steps {
            match step {
                // The servers are new: nobody has left such a hash, nor a key that matches.
                Step::Hash { if_exists: true, .. } | Step::DeletePattern { .. } => {}
                Step::Hash { key, set, remove, .. } => {
                    let pairs = set.iter().flat_map(|(field, value)| [field, value]);
                    self.of_key(b"HSET", key, pairs.collect())?;
                    self.of_key(b"HDEL", key, remove.iter().collect())?;
                }
                Step::Set { key, value, ttl, .. } => {
                    let seconds = ttl.map(|ttl| ttl.as_secs().to_string());
                    let ttl = seconds.iter().flat_map(|seconds| [&b"EX"[..], seconds.as_bytes()]);
                    let value: &[u8] = value;
                    self.of_key(b"SET", key, std::iter::once(value).chain(ttl).collect())?;
                }
                Step::Delete { key, .. } => gone.push(key),
                Step::PublishEvent { .. } | Step::Publish { .. } => {}
            }
        }
        if let Some((first, others)) = gone.split_first() {
            self.command(&[&[&b"DEL"[..], *first], others].concat())?;
        }
        for step in &plan.steps {
            match (step, &plan.event) {
                (Step::PublishEvent { channel, .. }, EventJson::Fixed(event)) => {
                    self.command(&[b"PUBLISH", channel, event])?;
                }
                (Step::PublishEvent { channel, .. }, EventJson::ByBalance { head, tail }) => {
                    let event = [&**head, b"balance_change", tail].concat();
                    self.command(&[b"PUBLISH", channel, &event])?;
                }
                (Step::Publish { channel, payload, .. }, _) => {
                    self.command(&[b"PUBLISH", channel, payload])?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What was written.
    pub fn finish(mut self) -> Result<Commands> {
        self.file.flush().map_err(failed_at(&self.done.path))?;
        Ok(self.done)
    }

    /// A command about a key, unless there is nothing to say.
    fn of_key(&mut self, name: &[u8], key: &[u8], words: Vec<&[u8]>) -> Result<()> {
        match words.is_empty() {
            true => Ok(()),
            false => self.command(&[&[name, key], &*words].concat()),
        }
    }

    /// One command, in Redis's own encoding.
    pub fn command(&mut self, words: &[&[u8]]) -> Result<()> {
        self.done.commands += 1;
        encode(&mut self.file, words).map_err(failed_at(&self.done.path))
    }
}

/// A command as Redis reads it.
pub fn encode(to: &mut impl Write, words: &[&[u8]]) -> std::io::Result<()> {
    write!(to, "*{}\r\n", words.len())?;
    for word in words {
        write!(to, "${}\r\n", word.len())?;
        to.write_all(word)?;
        to.write_all(b"\r\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut bytes = Vec::new();
        encode(&mut bytes, &[b"SET", b"a b", b""]).unwrap();
        assert_eq!(bytes, b"*3\r\n$3\r\nSET\r\n$3\r\na b\r\n$0\r\n\r\n");
    }
}
