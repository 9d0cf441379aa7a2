//! A fence, and its text: what Redis remembers of the last event applied to a user.

use bytes::Bytes;

use crate::keyplan::KeyPlan;
use crate::lsn::{Lsn, Position, Snapshot, Xid64};

/// Bytes of epoch, LSN and ordinal, which order fences.
pub const POSITION_BYTES: usize = 32;
/// Bytes of the transaction behind them.
const XID_BYTES: usize = 16;
/// The mark behind those of a user that is gone.
const TOMBSTONE: u8 = b't';
/// The mark behind those of a user whose row Redis may have lost.
const LOST: u8 = b'l';
/// Room for a fence with its watched values; more is taken when needed.
const FENCE_BYTES: usize = 96;
/// Prefix of every fence key.
pub const PREFIX: &str = "lockstep:fence:";

/// `lockstep:fence:{T:U}`, in the slot of the user's braced keys.
pub fn user_key(user_type: &str, id: &str) -> Bytes {
    format!("{PREFIX}{{{user_type}:{id}}}").into()
}

/// The fence of one key that lives in a slot of its own; `None` where no such name can exist.
pub fn own_key(key: &[u8], slot_of: impl Fn(&[u8]) -> u16) -> Option<Bytes> {
    // A key with a hash tag keeps it behind the prefix; one without becomes the tag.
    let name = |open: &[u8], close: &[u8]| Bytes::from([PREFIX.as_bytes(), open, key, close].concat());
    [name(b"", b""), name(b"{", b"}")].into_iter().find(|fence| slot_of(fence) == slot_of(key))
}

/// Appends epoch, LSN and ordinal in fixed-width lowercase hex: comparing the text compares the place.
fn write_position(epoch: u32, position: Position, out: &mut Vec<u8>) {
    write_hex(epoch.into(), 8, out);
    write_hex(position.commit_lsn.0, 16, out);
    write_hex(position.ordinal.into(), 8, out);
}

/// An xid as fences and the script write it.
pub fn xid_text(xid: Xid64) -> String {
    format!("{:016x}", xid.0)
}

/// Appends the last `digits` hex digits: every event has five such numbers, and the formatter takes its time.
fn write_hex(number: u64, digits: u32, out: &mut Vec<u8>) {
    for digit in (0..digits).rev() {
        let nibble = usize::try_from((number >> (4 * digit)) & 0xf).unwrap_or_default();
        out.push(b"0123456789abcdef".get(nibble).copied().unwrap_or(b'0'));
    }
}

/// The fence that `plan` leaves behind at `position`, as far as the plan alone knows it.
pub fn text(plan: &KeyPlan, epoch: u32, position: Position) -> Bytes {
    let mut text = Vec::with_capacity(FENCE_BYTES);
    write_position(epoch, position, &mut text);
    match plan.row_xid {
        Some(xid) => write_hex(xid.0, 16, &mut text),
        None => text.extend_from_slice(&[b'-'; 16]),
    }
    text.push(if plan.deletes_user { TOMBSTONE } else { b'.' });
    for value in &plan.watched {
        match value {
            Some(value) => {
                text.extend_from_slice(value.len().to_string().as_bytes());
                text.push(b':');
                text.extend_from_slice(value);
            }
            None => text.extend_from_slice(b"-:"),
        }
    }
    text.into()
}

/// What a fence tells of the columns that it remembers, as the script reads it.
#[derive(Debug, Default)]
pub struct Fence {
    /// Empty where there is no fence.
    position: Bytes,
    /// `None`: nothing is known, as of a deleted user.
    watched: Option<Vec<Option<Bytes>>>,
}

impl Fence {
    /// Takes a fence's text apart.
    pub fn parse(text: &Bytes) -> Fence {
        let Some((_, [mark, watched @ ..])) = text.split_at_checked(POSITION_BYTES + XID_BYTES) else {
            return Fence::default();
        };
        let position = text.slice(..POSITION_BYTES);
        let known = !is_rowless(*mark) && !watched.is_empty();
        Fence { position, watched: known.then(|| read_watched(watched)) }
    }

    /// The transaction of the last change of the row, as a fence's text tells it.
    pub fn xid(text: &[u8]) -> Option<Xid64> {
        let xid = text.get(POSITION_BYTES..POSITION_BYTES + XID_BYTES)?;
        u64::from_str_radix(std::str::from_utf8(xid).ok()?, 16).ok().map(Xid64)
    }

    /// Whether it stops a plan of the stream that stands at `position`.
    pub fn has_seen(&self, position: &[u8]) -> bool {
        *position <= *self.position
    }

    /// The bits of the watched columns that a plan changes: all of them where nothing is known.
    pub fn changed_by(&self, plan: &KeyPlan) -> u32 {
        let Some(former) = &self.watched else { return u32::MAX };
        let columns = plan.watched.iter().enumerate();
        let changed = columns.filter(|(at, value)| value.is_some() && former.get(*at) != Some(*value));
        let bit = |at: usize| u32::try_from(at).ok().and_then(|at| 1_u32.checked_shl(at)).unwrap_or(0);
        changed.fold(0, |bits, (at, _)| bits | bit(at))
    }

    /// What it tells once `plan`, of the stream or of a snapshot, has left `text` there.
    #[must_use]
    pub fn after(self, plan: &KeyPlan, text: &Bytes, streams: bool) -> Fence {
        let unknown = streams && plan.row_xid.is_none() && self.watched.is_none();
        let former = self.watched.unwrap_or_default();
        let merge = |(at, value): (usize, &Option<Bytes>)| value.clone().or_else(|| former.get(at)?.clone());
        let watched = plan.watched.iter().enumerate().map(merge).collect();
        Fence { watched: (!plan.deletes_user && !unknown).then_some(watched), ..Fence::parse(text) }
    }
}

/// What a fence tells of the last write behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The database history.
    pub epoch: u32,
    /// Where the write stood.
    pub position: Position,
    /// The transaction that made the row; `None` where the row was read from the database.
    pub xid: Option<Xid64>,
    /// Whether no row stands behind it: the user was deleted, or nothing is known of one.
    pub is_gone: bool,
    /// The balance that was written.
    pub balance: Option<Bytes>,
}

impl Written {
    /// Reads a fence's text; `None` where it is none.
    pub fn read(text: &Bytes) -> Option<Written> {
        let hex = |from: usize, digits: usize| {
            let digits = std::str::from_utf8(text.get(from..from + digits)?).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        let position = Position { commit_lsn: Lsn(hex(8, 16)?), ordinal: hex(24, 8)?.try_into().ok()? };
        let mark = text.get(POSITION_BYTES + XID_BYTES)?;
        let watched = text.get(POSITION_BYTES + XID_BYTES + 1..).unwrap_or_default();
        Some(Written {
            epoch: hex(0, 8)?.try_into().ok()?,
            position,
            xid: hex(POSITION_BYTES, XID_BYTES).map(Xid64),
            is_gone: is_rowless(*mark),
            balance: read_watched(watched).into_iter().next().flatten(),
        })
    }
}

fn is_rowless(mark: u8) -> bool {
    matches!(mark, TOMBSTONE | LOST)
}

/// The values that [`text`] wrote; what cannot be read is not known.
fn read_watched(mut text: &[u8]) -> Vec<Option<Bytes>> {
    let mut values = Vec::new();
    while let Some(colon) = text.iter().position(|byte| *byte == b':') {
        let (length, rest) = text.split_at(colon);
        let rest = rest.get(1..).unwrap_or_default();
        let length = std::str::from_utf8(length).ok().and_then(|length| length.parse().ok());
        let value = length.and_then(|length: usize| rest.split_at_checked(length));
        values.push(value.map(|(value, _)| Bytes::copy_from_slice(value)));
        text = value.map_or(rest, |(_, rest)| rest);
    }
    values
}

/// What the script is told of a snapshot: xmin, xmax, and the running ids between commas.
pub fn snapshot_texts(snapshot: &Snapshot) -> [String; 3] {
    let running: Vec<String> = snapshot.running.iter().map(|xid| xid_text(*xid)).collect();
    [xid_text(snapshot.xmin), xid_text(snapshot.xmax), running.join(",")]
}

#[cfg(test)]
mod tests {
    use super::super::node::keyslot;
    use super::*;

    #[test]
    fn texts_order_as_the_places_they_stand_for() {
        let at = |epoch, lsn, ordinal| {
            let mut text = Vec::new();
            write_position(epoch, Position { commit_lsn: Lsn(lsn), ordinal }, &mut text);
            text
        };
        assert_eq!(at(1, 0xab, 3), b"0000000100000000000000ab00000003");
        assert_eq!(at(1, 2, 3).len(), POSITION_BYTES);
        assert!(at(1, 9, 0) < at(1, 10, 0));
        assert!(at(1, 10, 9) < at(1, 10, 10));
        assert!(at(1, u64::MAX, 9) < at(2, 0, 0));
        assert!(at(1, 1 << 53, 0) < at(1, (1 << 53) + 1, 0), "digits that a double would lose");
    }

    #[test]
    fn a_fence_tells_what_was_written_last() {
        let mut plan = super::super::group::tests::plan(Vec::new());
        plan.watched = vec![Some("10.5".into()), None];
        let at = Position { commit_lsn: Lsn(0xab), ordinal: 7 };
        let told = Written::read(&text(&plan, 3, at)).unwrap();
        assert_eq!((told.epoch, told.position, told.xid), (3, at, plan.row_xid));
        assert_eq!((told.is_gone, told.balance), (false, Some("10.5".into())));
        (plan.row_xid, plan.deletes_user, plan.watched) = (None, true, vec![None]);
        let told = Written::read(&text(&plan, 3, at)).unwrap();
        assert_eq!((told.xid, told.is_gone, told.balance), (None, true, None));
        for torn in ["", "1", "0000000100000000000000ab0000000x-------.", "x"] {
            assert_eq!(Written::read(&torn.into()), None, "{torn}");
        }
    }

    #[test]
    fn a_fence_tells_what_a_later_plan_changes() {
        let of = |watched: [Option<&'static str>; 3]| {
            let mut plan = super::super::group::tests::plan(Vec::new());
            plan.watched = watched.map(|value| value.map(Bytes::from)).to_vec();
            let text = text(&plan, 1, plan.position);
            (plan, text)
        };
        let (first, written) = of([Some("1"), Some("a:2:b"), None]);
        let fence = Fence::parse(&written);
        assert!(fence.has_seen(&written[..POSITION_BYTES]));
        assert_eq!((Fence::xid(&written), Fence::xid(b"no fence")), (first.row_xid, None));
        assert!(!fence.has_seen(b"00000001000000000000001000000003"));
        assert_eq!(fence.changed_by(&first), 0);
        assert_eq!(fence.changed_by(&of([Some("2"), Some("a:2:b"), None]).0), 0b001);
        assert_eq!(fence.changed_by(&of([None, Some(""), Some("x")]).0), 0b110);
        let (second, written) = of([Some("2"), None, Some("")]);
        let fence = fence.after(&second, &written, true);
        assert_eq!(fence.changed_by(&first), 0b001, "what the second did not know is remembered");
        let (mut gone, _) = of([Some("2"), None, None]);
        gone.deletes_user = true;
        let written = text(&gone, 1, gone.position);
        for fence in
            [fence.after(&gone, &written, true), Fence::parse(&written), Fence::parse(&"no fence".into())]
        {
            assert_eq!(fence.changed_by(&first), u32::MAX);
        }
        assert!(!Fence::default().has_seen(b"0"));
        let mut completed = first.clone();
        completed.row_xid = None;
        let after = |streams| Fence::default().after(&completed, &written, streams).changed_by(&second);
        assert_eq!((after(true), after(false)), (u32::MAX, 0b101), "completed rows alone make nobody known");
    }

    #[test]
    fn a_fence_lies_in_the_slot_of_what_it_guards() {
        assert_eq!(keyslot(&user_key("live", "7")), keyslot(b"user:{live:7}:config"));
        for key in ["user_balance:live:7", "user:{live:7}:config"] {
            let fence = own_key(key.as_bytes(), keyslot).unwrap();
            assert_eq!(keyslot(&fence), keyslot(key.as_bytes()), "{key}");
        }
        assert_eq!(own_key(b"user_balance:live:7", keyslot).unwrap(), "lockstep:fence:{user_balance:live:7}");
        for key in ["a}b", "a{}b"] {
            assert_eq!(own_key(key.as_bytes(), keyslot), None, "{key}");
        }
    }
}
