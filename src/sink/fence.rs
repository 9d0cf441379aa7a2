//! The text of a fence: what Redis remembers of the last event applied to a user.

use bytes::Bytes;

use crate::keyplan::KeyPlan;
use crate::lsn::{Position, Snapshot, Xid64};

/// Bytes of epoch, LSN and ordinal, which order fences.
pub const POSITION_BYTES: usize = 32;
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
    text.push(if plan.deletes_user { b't' } else { b'.' });
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

/// What the script is told of a snapshot: xmin, xmax, and the running ids between commas.
pub fn snapshot_texts(snapshot: &Snapshot) -> [String; 3] {
    let running: Vec<String> = snapshot.running.iter().map(|xid| xid_text(*xid)).collect();
    [xid_text(snapshot.xmin), xid_text(snapshot.xmax), running.join(",")]
}

#[cfg(test)]
mod tests {
    use super::super::node::keyslot;
    use super::*;
    use crate::lsn::Lsn;

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
