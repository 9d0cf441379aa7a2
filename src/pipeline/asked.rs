//! Resyncs that somebody asked for, through the stream itself: whoever may write to the database can ask, whether
//! Lockstep runs or not, and the question has its place in commit order.
//!
//! What was asked is kept in Redis before PostgreSQL may forget it, and taken out when it is done.

use tokio::sync::watch;

use crate::lsn::Lsn;

/// Questions that wait; one more makes all of them one question for everything.
const MAX_ASKED: usize = 64;
/// The question for everything.
const EVERYTHING: &str = "{}";

/// The prefix of the logical messages that ask the instance on `slot`.
pub fn prefix(slot: &str) -> String {
    format!("lockstep:{slot}")
}

/// What is asked at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Questions {
    /// Oldest first: the commit's LSN, a space, and a JSON object.
    pub lines: Vec<String>,
    /// How far the first of them had come when this process took over.
    pub progress: Option<String>,
}

/// What was asked and is not done.
#[derive(Debug)]
pub struct Asked {
    lines: Vec<String>,
    told: watch::Sender<Questions>,
}

impl Asked {
    /// Nothing was asked yet; `told` learns what Redis keeps.
    pub fn new(told: watch::Sender<Questions>) -> Asked {
        Asked { lines: Vec::new(), told }
    }

    /// Takes a message in; the record that Redis is to keep, unless it is no question or known.
    pub fn take(&mut self, message: &[u8], commit_lsn: Lsn) -> Option<String> {
        let text = std::str::from_utf8(message).ok().filter(|text| !text.contains('\n'));
        let Some(text) = text else {
            tracing::warn!(position = %commit_lsn, "a logical message to lockstep is no line of text: it is left alone");
            return None;
        };
        let line = format!("{commit_lsn} {text}");
        if self.lines.contains(&line) {
            return None;
        }
        if self.lines.len() >= MAX_ASKED {
            self.lines = vec![format!("{commit_lsn} {EVERYTHING}")];
        } else {
            self.lines.push(line);
        }
        self.record()
    }

    /// What Redis keeps, read at the start of a session.
    pub fn remember(&mut self, record: Option<&str>, progress: Option<String>) {
        self.lines = record.into_iter().flat_map(str::lines).map(str::to_owned).collect();
        self.told.send_modify(|questions| questions.progress = progress);
        self.tell();
    }

    /// A question is done; the record that is left, `None` where nothing is.
    pub fn finish(&mut self, line: &str) -> Option<String> {
        self.lines.retain(|known| known != line);
        self.tell();
        self.record()
    }

    /// Tells what Redis keeps now.
    pub fn tell(&self) {
        self.told.send_modify(|questions| questions.lines.clone_from(&self.lines));
    }

    fn record(&self) -> Option<String> {
        (!self.lines.is_empty()).then(|| self.lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_kept_once_until_it_is_done() {
        let (told, heard) = watch::channel(Questions::default());
        let mut asked = Asked::new(told);
        let record = asked.take(b"{\"tables\":[]}", Lsn(16)).unwrap();
        assert_eq!(record, "0/10 {\"tables\":[]}");
        assert_eq!(asked.take(b"{\"tables\":[]}", Lsn(16)), None, "the stream says it again after a restart");
        asked.take(b"{}", Lsn(17)).unwrap();
        asked.remember(Some("0/10 a\n0/11 b"), None);
        assert_eq!(heard.borrow().lines, ["0/10 a", "0/11 b"]);
        assert_eq!(asked.finish("0/10 a").as_deref(), Some("0/11 b"));
        assert_eq!(asked.finish("0/11 b"), None);
        assert!(heard.borrow().lines.is_empty());
    }

    #[test]
    fn too_many_questions_become_one_for_everything() {
        let mut asked = Asked::new(watch::channel(Questions::default()).0);
        for lsn in 0..=MAX_ASKED as u64 {
            asked.take(b"{\"users\":[]}", Lsn(lsn)).unwrap();
        }
        assert_eq!(asked.record().unwrap(), format!("0/{MAX_ASKED:X} {{}}"));
        assert_eq!(asked.take(b"\xff", Lsn(1)), None);
        assert_eq!(asked.take(b"a\nb", Lsn(1)), None);
    }
}
