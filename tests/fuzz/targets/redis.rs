//! What Redis answers, and what it kept for us: errors, the slot map, fences, records.

use bytes::Bytes;
use lockstep::lsn::{Lsn, Snapshot};
use lockstep::resync::asked::Question;
use lockstep::resync::cursor;
use lockstep::sink::fence::{self, Fence};
use lockstep::sink::reply::{NodeError, Reply};
use lockstep::sink::slots::{Address, Topology};

use super::{corpus, plans};

pub const WORDS: &[&str] = &[
    "MOVED ",
    "ASK ",
    "TRYAGAIN",
    "CLUSTERDOWN ",
    "READONLY",
    "LOADING",
    "NOSCRIPT",
    "OOM",
    "WRONGTYPE",
    "NOAUTH",
    "NOPERM",
    "BUSY",
    "MISCONF",
    "MASTERDOWN",
    "*3\r\n",
    "$-1\r\n",
    ":16383\r\n",
    "127.0.0.1:7000",
    "::1",
];
/// Replies deeper than Redis ever nests them are cut.
const DEPTH: usize = 6;

pub fn run(input: &[u8]) {
    let asked = Address::new("127.0.0.1", 7000);
    if let Some((reply, _)) = reply(input, 0) {
        let topology = Topology::from_cluster_slots(&reply, &asked);
        let masters = topology.masters();
        for slot in [0, 1, 8_191, 16_383, u16::MAX] {
            let owner = topology.owner(slot);
            assert!(owner.is_none_or(|owner| masters.contains(owner)), "an owner who is no master");
        }
        for text in std::iter::once(&reply).chain(reply.list()).filter_map(Reply::text) {
            let fence = Fence::parse(text);
            let _ = fence.has_seen(b"0000000100000000000000ab00000003");
            let _ = fence.changed_by(&plan());
        }
    }
    let text = String::from_utf8_lossy(input);
    let error = NodeError::parse(&text);
    // Words of the server may hold data: an error says only the first.
    let told = format!("{} {} {}", error.label(), error.ends_connection(), error.doubts_topology());
    assert!(!told.is_empty() && !error.at(&asked).to_string().is_empty());
    if let Some(address) = Address::parse(&text) {
        assert_eq!(Address::parse(&address.to_string()), Some(address.clone()), "{address} reads back");
    }
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse().ok(), Some(lsn));
    }
    let _ = text.parse::<Snapshot>();
    let reached = cursor::Reached::from_text(&text);
    assert_eq!(cursor::Reached::from_text(&reached.to_text()), reached);
    let _ = (cursor::recorded(&text), serde_json::from_str::<Question>(&text).is_ok());
}

fn plan() -> lockstep::keyplan::KeyPlan {
    let user = lockstep::balance::User { user_type: "live".into(), id: "7".into(), numeric_id: true };
    static MAP: std::sync::OnceLock<lockstep::keyplan::KeyMap> = std::sync::OnceLock::new();
    MAP.get_or_init(plans::default_map).plan_absent(&user)
}

/// RESP2, as far as it is whole.
fn reply(input: &[u8], depth: usize) -> Option<(Reply, &[u8])> {
    let end = input.windows(2).position(|pair| pair == b"\r\n")?;
    let (line, rest) = (&input[..end], &input[end + 2..]);
    let (kind, word) = line.split_first()?;
    let number = || std::str::from_utf8(word).ok()?.parse::<i64>().ok();
    match kind {
        b'+' | b'-' => Some((Reply::Text(Bytes::copy_from_slice(word)), rest)),
        b':' => Some((Reply::Int(number()?), rest)),
        b'$' => match usize::try_from(number()?) {
            Err(_) => Some((Reply::Nil, rest)),
            Ok(length) => {
                let (text, rest) = rest.split_at_checked(length)?;
                Some((Reply::Text(Bytes::copy_from_slice(text)), rest.get(2..)?))
            }
        },
        b'*' if depth < DEPTH => {
            let (mut items, mut rest) = (Vec::new(), rest);
            for _ in 0..number()? {
                let (item, behind) = reply(rest, depth + 1)?;
                items.push(item);
                rest = behind;
            }
            Some((Reply::List(items), rest))
        }
        _ => None,
    }
}

/// What real servers answered, and what we keep there ourselves.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> =
        super::files(&corpus().join("redis")).into_iter().map(|(_, bytes)| bytes).collect();
    let plan = plan();
    let fence = fence::text(&plan, 1, plan.position);
    seeds.push([format!("${}\r\n", fence.len()).as_bytes(), &fence[..], b"\r\n"].concat());
    seeds.push(b"$60\r\n0000000100000000000000ab00000003000000000000000a.4:1000-:2:vv\r\n".to_vec());
    seeds.push(
        cursor::Reached { up_to: Some("7".into()), ..cursor::Reached::default() }.to_text().into_bytes(),
    );
    seeds.push(cursor::record("users(id)").into_bytes());
    seeds.extend(
        [&br#"{"users":[["live","7"]],"tables":["public.users"]}"#[..], b"700:710:701,705", b"16/B374D848"]
            .map(<[u8]>::to_vec),
    );
    seeds
}
