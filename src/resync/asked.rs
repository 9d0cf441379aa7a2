//! Resyncs that somebody asked for: all users again, those of some tables, or single ones.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::cursor::Reached;
use super::load::{Pass, described, pass_over};
use super::table::Table;
use super::{Reader, repair, sweep};
use crate::backoff::Backoff;
use crate::balance::{Kind, Reread, User};
use crate::error::Result;
use crate::pipeline::asked::Questions;
use crate::pipeline::{Errand, Finished};
use crate::sink::LoadMark;
use crate::wire::Lease;

/// First delay before a resync is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest delay before a resync is tried again.
const RETRY_LIMIT: Duration = Duration::from_secs(5);

/// What is to be read again; empty: everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Tables of users, `schema.name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// Type and id of single users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<(String, String)>,
    /// Also what is in quarantine: its users, and whole tables that have rows which touch no key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quarantined: bool,
}

/// Does what is asked, one after the other, until the sender is gone.
pub async fn serve(mut reader: Reader, mut asked: watch::Receiver<Questions>) -> Result<()> {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT, 2);
    while asked.wait_for(|questions| !questions.lines.is_empty()).await.is_ok() {
        let Questions { lines, progress } = asked.borrow().clone();
        let Some(line) = lines.into_iter().next() else { continue };
        let running = reader.metrics.running.with_label_values(&["resync"]);
        running.set(1);
        let done = answer(&mut reader, &line, progress.as_deref()).await;
        running.set(0);
        match done {
            Err(fault) if fault.is_transient() => {
                reader.note_fault(&fault, backoff.attempts());
                tokio::time::sleep(backoff.next_delay()).await;
            }
            Err(fault) => return Err(fault),
            Ok(()) => {
                backoff.reset();
                reader.note_read();
            }
        }
    }
    Ok(())
}

async fn answer(reader: &mut Reader, line: &str, progress: Option<&str>) -> Result<()> {
    let text = line.split_once(' ').map_or("", |(_, text)| text);
    match serde_json::from_str::<Question>(text) {
        Ok(question) => {
            let (users, tables) = (question.users.len(), question.tables.join(", "));
            tracing::info!(users, tables, quarantined = question.quarantined, "resync");
            let (users, tables) = what(reader, &question).await?;
            if !users.is_empty() {
                read_users(reader, &users).await?;
            }
            if question == Question::default() || !tables.is_empty() {
                read_tables(reader, line, &tables, progress).await?;
            }
        }
        Err(error) => {
            tracing::warn!(line, %error, "a question to lockstep is not understood: it is left alone")
        }
    }
    reader.keep(LoadMark::Resync, None).await?;
    let line = line.to_owned();
    reader.errand(|done| Errand::Finished(Finished { line, done })).await
}

/// The users and the tables of users that are to be read.
async fn what(reader: &Reader, question: &Question) -> Result<(Vec<(String, String)>, Vec<String>)> {
    let Question { mut users, mut tables, quarantined } = question.clone();
    if quarantined {
        let open = reader.errand(Errand::Quarantined).await?;
        users.extend(open.users);
        let followed = |table: &String| {
            reader.config.tables.iter().any(|spec| spec.is_users() && spec.to_string() == *table)
        };
        for table in open.tables {
            match followed(&table) {
                true => tables.push(table),
                // No key depends on a row of it that has passed.
                false => reader.rereads(table).await?,
            }
        }
    }
    Ok((users, tables))
}

async fn read_tables(reader: &Reader, line: &str, tables: &[String], progress: Option<&str>) -> Result<()> {
    let reached = progress.map(Reached::from_text);
    let reached = reached.filter(|reached| reached.question.as_deref() == Some(line));
    let pass = Pass {
        kind: Kind::Reread(Reread::Resync),
        mark: LoadMark::Resync,
        what: "reading users again",
        of: Reached { question: Some(line.to_owned()), ..Reached::default() },
    };
    let only = (!tables.is_empty()).then_some(tables);
    pass_over(reader, pass, only, reached.unwrap_or_default()).await
}

/// Users who are there are written, the keys of those who are not are removed.
async fn read_users(reader: &mut Reader, users: &[(String, String)]) -> Result<()> {
    let tables: Vec<Table> = described(reader).await?.into_iter().map(|(_, table)| table).collect();
    let users: HashSet<User> =
        users.iter().filter_map(|(user_type, id)| sweep::user(&tables, user_type, id)).collect();
    repair::read_again(reader, &users, Kind::Reread(Reread::Resync)).await?;
    let config = Arc::clone(&reader.config);
    let users: Vec<User> = users.into_iter().collect();
    let gone = sweep::remove_absent(reader, &mut Lease::new(&config.postgres), &tables, &users).await?;
    reader.metrics.users_removed.inc_by(gone);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_says_what_is_to_be_read_again() {
        assert_eq!(serde_json::from_str::<Question>("{}").unwrap(), Question::default());
        let one = Question { users: vec![("live".into(), "7".into())], ..Question::default() };
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(text, r#"{"users":[["live","7"]]}"#);
        assert_eq!(serde_json::from_str::<Question>(&text).unwrap(), one);
        let quarantined = Question { quarantined: true, ..Question::default() };
        assert_eq!(serde_json::to_string(&quarantined).unwrap(), r#"{"quarantined":true}"#);
        assert!(serde_json::from_str::<Question>(r#"{"user":[]}"#).is_err(), "a typo is not everything");
    }
}
