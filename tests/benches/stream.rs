//! What PostgreSQL 15 sent for a deposit (`tests/corpus/pgoutput/contract15.hex`), for one user after the other.

use bytes::Bytes;

const RECORDED: &str = include_str!("../corpus/pgoutput/contract15.hex");
/// The deposit in it: its lines from Begin to Commit, and where the description of `user_transactions` ends.
const DEPOSIT: std::ops::Range<usize> = 6..12;
/// The user's id as it was recorded, a column of one byte.
const SEVEN: &[u8] = b"t\0\0\0\x017";
/// WAL of one transaction, in bytes.
const STEP: u64 = 0x100;

/// The descriptions of both tables, and the messages of `events` transactions.
pub fn of(events: u32) -> Vec<Bytes> {
    let recorded: Vec<Vec<u8>> = RECORDED.lines().map(bytes_of).collect();
    let kind = |message: &&Vec<u8>| message[0];
    let mut messages: Vec<Bytes> = recorded[..DEPOSIT.end]
        .iter()
        .filter(|message| b"RY".contains(&kind(message)))
        .map(|message| Bytes::copy_from_slice(message))
        .collect();
    let deposit: Vec<&Vec<u8>> =
        recorded[DEPOSIT].iter().filter(|message| b"BUIC".contains(&kind(message))).collect();
    assert_eq!(deposit.iter().map(kind).collect::<Vec<u8>>(), b"BUIC");
    for event in 0..events {
        messages.extend(deposit.iter().map(|message| match message[0] {
            b'B' => later(message, &[1], event),
            b'C' => later(message, &[2, 10], event),
            _ => of_user(message, 10_000 + event),
        }));
    }
    messages
}

fn bytes_of(line: &str) -> Vec<u8> {
    (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect()
}

/// A message whose positions in the WAL, at these places, are `event` transactions on.
fn later(message: &[u8], places: &[usize], event: u32) -> Bytes {
    let mut message = message.to_vec();
    for place in places {
        let position = &mut message[*place..*place + 8];
        let moved = u64::from_be_bytes((&*position).try_into().unwrap()) + STEP * u64::from(event);
        position.copy_from_slice(&moved.to_be_bytes());
    }
    message.into()
}

/// A row of another user.
fn of_user(message: &[u8], user: u32) -> Bytes {
    let at = message.windows(SEVEN.len()).position(|part| part == SEVEN).unwrap();
    let id = user.to_string();
    let length = u32::try_from(id.len()).unwrap().to_be_bytes();
    [&message[..=at], &length, id.as_bytes(), &message[at + SEVEN.len()..]].concat().into()
}
