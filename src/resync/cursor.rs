//! Which ranges of ids were handed out, and up to where all are loaded. No IO.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How far a load is, as Redis keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Index of the table in the configuration.
    pub table: usize,
    /// Every id up to this one is loaded; `None`: none of this table.
    pub up_to: Option<String>,
    /// What asked for the resync; `None`: it is the load.
    #[serde(default)]
    pub question: Option<String>,
    /// The publication under which the load began, as its mark.
    #[serde(default)]
    pub published: String,
    /// What tells a load from one that another instance has begun; empty: of an older version, or a resync.
    #[serde(default)]
    pub load: String,
}

impl Reached {
    /// One line of JSON.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads [`to_text`](Reached::to_text) back; what cannot be read begins again.
    pub fn from_text(text: &str) -> Reached {
        serde_json::from_str(text).unwrap_or_default()
    }
}

/// The record of a finished load: the publication under which it began.
pub fn record(published: &str) -> String {
    serde_json::json!({ "published": published }).to_string()
}

/// The publication that any record of a load names; `None` where an older version wrote it.
pub fn recorded(record: &str) -> Option<String> {
    let record: serde_json::Value = serde_json::from_str(record).ok()?;
    record.get("published")?.as_str().map(str::to_owned)
}

/// Ids in `(after, up_to]`; `None` is unbounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    number: u64,
    /// Exclusive.
    pub after: Option<String>,
    /// Inclusive; `None`: the last range.
    pub up_to: Option<String>,
}

/// The next range of one table, and what is finished.
#[derive(Debug)]
pub struct Cursor {
    handed_out: u64,
    /// Where the next range begins; `None` once the last was handed out.
    begin: Option<Option<String>>,
    /// Ranges before this number are finished.
    finished_before: u64,
    /// Finished ranges behind a hole, with their ends: at most one a worker.
    finished: BTreeMap<u64, Option<String>>,
}

impl Cursor {
    /// A cursor that begins behind `after`.
    pub fn new(after: Option<String>) -> Cursor {
        Cursor { handed_out: 0, begin: Some(after), finished_before: 0, finished: BTreeMap::new() }
    }

    /// Where the next range begins; `None` when there is none.
    pub fn begin(&self) -> Option<&Option<String>> {
        self.begin.as_ref()
    }

    /// Hands out the next range, which ends at `up_to`, or is the last.
    pub fn hand_out(&mut self, up_to: Option<String>) -> Option<Range> {
        let after = self.begin.take()?;
        let number = self.handed_out;
        self.handed_out += 1;
        self.begin = up_to.clone().map(Some);
        Some(Range { number, after, up_to })
    }

    /// Marks a range as loaded; the end of the loaded ranges when it moved without leaving a hole.
    pub fn finish(&mut self, range: Range) -> Option<String> {
        self.finished.insert(range.number, range.up_to);
        let mut reached = None;
        while let Some(up_to) = self.finished.remove(&self.finished_before) {
            self.finished_before += 1;
            reached = up_to;
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_names_its_publication() {
        let reached =
            Reached { table: 1, up_to: Some("7".into()), published: "5/6".into(), ..Reached::default() };
        assert_eq!(Reached::from_text(&reached.to_text()), reached);
        assert_eq!(recorded(&reached.to_text()).as_deref(), Some("5/6"));
        assert_eq!(recorded(&record("5/6")).as_deref(), Some("5/6"));
        assert_eq!(Reached::from_text(&record("5/6")), Reached::default(), "nothing is reached yet");
        let of_an_older_version = r#"{"table":1,"up_to":"7","question":null,"published":"5/6"}"#;
        assert_eq!(Reached::from_text(of_an_older_version), reached);
        assert_eq!(recorded("{}"), None);
    }

    #[test]
    fn ranges_follow_each_other_to_the_last() {
        let mut cursor = Cursor::new(Some("5".into()));
        let first = cursor.hand_out(Some("10".into())).unwrap();
        assert_eq!((first.after.as_deref(), first.up_to.as_deref()), (Some("5"), Some("10")));
        let last = cursor.hand_out(None).unwrap();
        assert_eq!((last.after.as_deref(), last.up_to), (Some("10"), None));
        assert!(cursor.begin().is_none() && cursor.hand_out(None).is_none());
    }

    #[test]
    fn progress_never_passes_a_range_that_is_still_out() {
        let mut cursor = Cursor::new(None);
        let ranges: Vec<Range> =
            ["1", "2", "3"].into_iter().filter_map(|end| cursor.hand_out(Some(end.into()))).collect();
        assert_eq!(cursor.finish(ranges[1].clone()), None);
        assert_eq!(cursor.finish(ranges[0].clone()).as_deref(), Some("2"));
        assert_eq!(cursor.finish(ranges[2].clone()).as_deref(), Some("3"));
    }
}
