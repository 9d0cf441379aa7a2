use std::sync::Arc;

use super::super::node::keyslot;
use super::super::slots::{Address, Master};
use super::*;
use crate::balance::User;
use crate::keyplan::{EventJson, Guard};
use crate::lsn::{Lsn, Position, Xid64};

pub fn plan(steps: Vec<Step>) -> KeyPlan {
    KeyPlan {
        user: User { user_type: Arc::from("live"), id: Arc::from("7"), numeric_id: true },
        position: Position { commit_lsn: Lsn(16), ordinal: 2 },
        row_xid: Some(Xid64(9)),
        xid: Xid64(9),
        deletes_user: false,
        restores: true,
        watched: vec![Some("10.5".into())],
        doubt: None,
        event: EventJson::Fixed("{}".into()),
        published_as: None,
        rereads: false,
        whole: true,
        steps,
    }
}

pub fn steps() -> Vec<Step> {
    let guard = Guard::ALWAYS;
    vec![
        Step::Hash {
            key: "user:{live:7}:config".into(),
            set: [("balance", "10.5")].into_iter().collect(),
            remove: ["email"].into_iter().collect(),
            if_exists: false,
            guard,
        },
        Step::Set { key: "user_balance:live:7".into(), value: "10.5".into(), ttl: None, guard },
        Step::Delete { key: "user_stats:live:7".into(), written: false, guard },
        Step::PublishEvent { channel: "user_updates".into(), guard },
    ]
}

fn cluster() -> Topology {
    let master = Master { address: Address::new("a", 1), id: "a".into(), ranges: vec![(0, 16383)] };
    Topology::Cluster { masters: vec![master], complete: true }
}

#[test]
fn on_one_redis_a_plan_is_one_part() {
    let parts = cut(&plan(steps()), 0, &Topology::Single(Address::new("a", 1)), &["x".into()]).unwrap();
    assert_eq!(parts.main.unwrap().steps, [0, 1, 2, 3]);
    assert!(parts.others.is_empty() && parts.deletes.is_empty());
}

#[test]
fn in_a_cluster_keys_of_other_slots_come_before() {
    let mut steps = steps();
    let (prefix, suffix) = ("financial_summary:live:7:".into(), "".into());
    steps.push(Step::DeletePattern { prefix, suffix, guard: Guard::ALWAYS });
    let parts = cut(&plan(steps), 0, &cluster(), &["financial_summary:live:7:a".into()]).unwrap();
    let main = parts.main.unwrap();
    assert_eq!(main.steps, [0, 3, 4]);
    assert_eq!(main.slot, keyslot(b"user:{live:7}:config"));
    let [own] = parts.others.as_slice() else { panic!("{:?}", parts.others) };
    assert_eq!(own.fence, "lockstep:fence:{user_balance:live:7}");
    assert_eq!(own.slot, keyslot(&own.fence));
    assert_eq!(parts.deletes, ["user_stats:live:7", "financial_summary:live:7:a"]);
}

#[test]
fn in_a_cluster_a_guarded_delete_waits_for_the_users_fence() {
    let guard = Guard { any_changed: 2, ..Guard::ALWAYS };
    let (prefix, suffix) = (Bytes::from("summary:live:7:"), Bytes::new());
    let steps = vec![
        Step::Delete { key: "user_group:live:7".into(), written: false, guard },
        Step::DeletePattern { prefix, suffix, guard },
    ];
    let parts = cut(&plan(steps), 0, &cluster(), &["summary:live:7:a".into()]).unwrap();
    assert!(parts.deletes.is_empty() && parts.others.is_empty());
    assert_eq!(parts.guarded, [(guard, "user_group:live:7".into()), (guard, "summary:live:7:a".into())]);
}

#[test]
fn the_delete_of_a_key_that_events_write_is_fenced_as_they_are() {
    let guard = Guard::ALWAYS;
    let gone = plan(vec![Step::Delete { key: "user_balance:live:7".into(), written: true, guard }]);
    let parts = cut(&gone, 0, &cluster(), &[]).unwrap();
    assert_eq!(parts.others.len(), 1);
    assert!(parts.deletes.is_empty());
}

#[test]
fn only_keys_between_prefix_and_suffix_match() {
    assert!(matches(b"financial_summary:live:12:x", b"financial_summary:live:12:", b""));
    assert!(!matches(b"financial_summary:live:123:x", b"financial_summary:live:12:", b""));
    assert!(!matches(b"a:b", b"a:b", b":b"), "prefix and suffix do not overlap");
}
