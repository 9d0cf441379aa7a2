//! Walking over keys in bounded steps, for TRUNCATE and for keys of users who are gone.

use bytes::Bytes;

use super::Sink;
use super::derived::{read_scan, scan_command};
use super::slots::Address;
use crate::error::Result;

/// Where a walk stands; [`Walk::new`] is its begin.
#[derive(Debug, Clone, Default)]
pub struct Walk(Option<Place>);

#[derive(Debug, Clone)]
struct Place {
    cursor: Bytes,
    /// The node being scanned, then those still to come.
    nodes: Vec<Address>,
    /// The connections that it was begun over.
    doubts: u64,
}

impl Walk {
    /// A walk over every master.
    pub fn new() -> Walk {
        Walk::default()
    }
}

impl Sink {
    /// The next keys that match `glob`, about a thousand looked at per step, and where to go on; `None` at
    /// the end. A key may come twice, and does where a master was connected again; one that is there all the time comes at
    /// least once, unless its slot moves meanwhile.
    ///
    /// # Errors
    /// The node's; the same step can be tried again.
    pub async fn walk(&mut self, glob: &[u8], walk: Walk) -> Result<(Vec<Bytes>, Option<Walk>)> {
        let masters = self.lanes.topology().masters();
        let doubts = self.lanes.doubts();
        // The successor of a node, and one that was restarted, knows nothing of its cursor: from the beginning.
        let place = walk.0.filter(|place| place.doubts == doubts);
        let begin = || Place { cursor: Bytes::from_static(b"0"), nodes: masters, doubts };
        let Place { cursor, mut nodes, doubts } = place.unwrap_or_else(begin);
        let Some(address) = nodes.first().cloned() else { return Ok((Vec::new(), None)) };
        let command = scan_command(cursor, Bytes::copy_from_slice(glob));
        let reply = self.lanes.ask(&address, command).await?;
        let (next, keys) = read_scan(&reply);
        let cursor = next.unwrap_or_else(|| {
            nodes.remove(0);
            Bytes::from_static(b"0")
        });
        let on = (!nodes.is_empty()).then_some(Walk(Some(Place { cursor, nodes, doubts })));
        Ok((keys, on))
    }
}
