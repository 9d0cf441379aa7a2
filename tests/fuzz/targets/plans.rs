//! What holds of every plan, whatever row it comes from.

use std::sync::{Arc, OnceLock};

use lockstep::balance::{Event, Mapping};
use lockstep::config::keys::BUILT_IN;
use lockstep::config::{KeyMapSpec, TableSpec};
use lockstep::keyplan::{EventJson, KeyMap, KeyPlan, Step};
use lockstep::lsn::{Lsn, Xid64};
use lockstep::pgoutput::PgTime;
use lockstep::sink::fence::Fence;
use lockstep::txn::CommitInfo;

pub fn default_mapping() -> Mapping {
    Mapping::new(&TableSpec::defaults())
}

pub fn default_map() -> KeyMap {
    let spec = KeyMapSpec::from_toml(BUILT_IN).expect("the default key map");
    KeyMap::compile(&spec, &TableSpec::defaults()).expect("the default key map")
}

pub fn commit() -> Arc<CommitInfo> {
    Arc::new(CommitInfo { commit_lsn: Lsn(0x1_0000), time: PgTime(800_000_000_000_000), xid: Xid64(700) })
}

/// Plans the event by the default map and asserts.
pub fn check_default(event: &Event) {
    static MAP: OnceLock<KeyMap> = OnceLock::new();
    let map = MAP.get_or_init(default_map);
    let plan = map.plan(event);
    for step in &plan.steps {
        if let Some((_, _, balance)) = plan.balance_of(step) {
            assert!(is_exact_decimal(balance), "a balance that is no exact decimal: {balance:?}");
        }
    }
    check(map, event);
}

/// Plans the event by any map and asserts.
pub fn check(map: &KeyMap, event: &Event) {
    let plan = map.plan(event);
    for step in &plan.steps {
        if let Step::Publish { payload, .. } = step {
            is_json(&[payload]);
        }
    }
    match &plan.event {
        EventJson::Fixed(json) if json.is_empty() => {}
        EventJson::Fixed(json) => is_json(&[json]),
        EventJson::ByBalance { head, tail } => is_json(&[head, b"balance_change", tail]),
    }
    of_fence(&plan);
}

/// The fence that the plan leaves knows the plan.
fn of_fence(plan: &KeyPlan) {
    let text = lockstep::sink::fence::text(plan, 1, plan.position);
    let fence = Fence::parse(&text);
    assert!(
        fence.has_seen(&text[..lockstep::sink::fence::POSITION_BYTES]),
        "a fence that does not stop its own plan"
    );
    if !plan.deletes_user && plan.watched.iter().all(Option::is_some) && !plan.watched.is_empty() {
        assert_eq!(fence.changed_by(plan), 0, "a plan that changes what it wrote itself");
    }
}

fn is_json(parts: &[&[u8]]) {
    let text = parts.concat();
    let parsed: Result<serde_json::Value, _> = serde_json::from_slice(&text);
    assert!(
        parsed.is_ok_and(|json| json.is_object()),
        "no JSON object: {:?}",
        String::from_utf8_lossy(&text)
    );
}

/// CONTRACT section 3: no exponent, no trailing fractional zeros, no trailing point.
fn is_exact_decimal(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(point) => (&digits[..point], Some(&digits[point + 1..])),
        None => (digits, None),
    };
    let all_digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    all_digits(whole) && fraction.is_none_or(|fraction| all_digits(fraction) && !fraction.ends_with(b"0"))
}
