//! The history of a timeline: <https://www.postgresql.org/docs/current/protocol-replication.html>.

use super::walsender::Walsender;
use crate::error::Result;
use crate::lsn::Lsn;

/// Where a promotion began a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// The timeline before it.
    pub parent: u32,
    /// The end of what both have in common.
    pub at: Lsn,
}

impl Walsender {
    /// Where `timeline` began; `None` for the first, and where the file says nothing that is understood.
    ///
    /// # Errors
    /// The server's: it may have lost the file.
    pub async fn fork(&mut self, timeline: u32) -> Result<Option<Fork>> {
        if timeline <= 1 {
            return Ok(None);
        }
        let rows = self.query(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let content = rows.first().and_then(|row| row.get(1)?.as_deref());
        Ok(content.and_then(last_fork))
    }
}

/// The last line's: parent, position and reason, between tabs.
fn last_fork(content: &str) -> Option<Fork> {
    let mut lines = content.lines().map(str::trim);
    let mut columns = lines.rfind(|line| !line.is_empty() && !line.starts_with('#'))?.split_whitespace();
    Some(Fork { parent: columns.next()?.parse().ok()?, at: columns.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_begins_where_the_last_line_of_its_history_says() {
        let content = "1\t0/3005C60\tno recovery target specified\n\n# a remark\n2\t1/A0\tbefore 2026\n";
        assert_eq!(last_fork(content), Some(Fork { parent: 2, at: Lsn(0x1_0000_00A0) }));
        for nothing in ["", "# a remark\n", "2", "x\t0/1", "2\tthere"] {
            assert_eq!(last_fork(nothing), None, "{nothing:?}");
        }
    }
}
