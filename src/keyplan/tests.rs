//! CONTRACT sections 3 and 4, line by line.

use std::sync::Arc;

use super::*;
use crate::balance::{Amount, Completed, Event, Field, Kind, Reread, Value};
use crate::config::keys::{BUILT_IN, KeyMapSpec};
use crate::config::{Shard, TableKind, TableSpec, UserType};
use crate::lsn::Lsn;
use crate::pgoutput::PgTime;
use crate::txn::CommitInfo;

const EXAMPLE: &str = include_str!("../../deploy/example-keymap.toml");

fn tables() -> Vec<TableSpec> {
    let kind = TableKind::Users { id_column: "id".into(), balance_column: "wallet_balance".into() };
    let user_type = UserType::Column("user_type".into());
    vec![TableSpec {
        schema: "public".into(),
        name: "users".into(),
        kind,
        user_type,
        columns: None,
        shard: Shard::WHOLE,
    }]
}

fn map(text: &str) -> KeyMap {
    KeyMap::compile(&KeyMapSpec::from_toml(text).unwrap(), &tables()).unwrap()
}

fn number(text: &str) -> Value {
    Value::Number(Amount::parse(text).unwrap())
}

fn fields(pairs: &[(&str, Value)]) -> Vec<Field> {
    pairs.iter().map(|(name, value)| Field { name: (*name).into(), value: value.clone() }).collect()
}

/// An event of user live:123.
fn event(kind: Kind, columns: &[(&str, Value)]) -> Event {
    let commit = CommitInfo {
        commit_lsn: Lsn(0x16_0000_0010),
        time: PgTime(821_788_200_000_000),
        xid: Xid64(7 << 32 | 9),
    };
    Event {
        user: User { user_type: "live".into(), id: "123".into(), numeric_id: true },
        kind,
        position: Position { commit_lsn: commit.commit_lsn, ordinal: 2 },
        commit: Arc::new(commit),
        fields: fields(columns),
        balance_column: "wallet_balance".into(),
        changed: None,
        completed: Vec::new(),
        doubt: None,
    }
}

fn paid(kind: &str, amount: &str, admin: bool) -> Completed {
    let admin = if admin { number("5") } else { Value::Null };
    Completed {
        fields: fields(&[
            ("transaction_id", Value::Text("TX\"1".into())),
            ("type", Value::Text(kind.into())),
            ("amount", number(amount)),
            ("status", Value::Text("completed".into())),
            ("admin_id", admin),
            ("created_at", Value::Text("2026-01-15T10:29:59.000Z".into())),
        ]),
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The steps in a short notation; a guard is shown where there is one.
fn shown(plan: &KeyPlan) -> Vec<String> {
    let when = |guard: &Guard| match guard {
        g if *g == Guard::ALWAYS => String::new(),
        g => format!(" if any={} none={} wrong={}", g.any_changed, g.none_changed, g.stored_balance_differs),
    };
    let step = |step: &Step| match step {
        Step::Hash { key, if_exists, guard, .. } => {
            format!("hash {}{}{}", text(key), if *if_exists { " if exists" } else { "" }, when(guard))
        }
        Step::Set { key, value, ttl, guard } => {
            format!("set {} {} {}s{}", text(key), text(value), ttl.unwrap_or_default().as_secs(), when(guard))
        }
        Step::Delete { key, guard, .. } => format!("delete {}{}", text(key), when(guard)),
        Step::DeletePattern { prefix, suffix, guard } => {
            format!("delete {}*{}{}", text(prefix), text(suffix), when(guard))
        }
        Step::PublishEvent { channel, guard } => format!("event {}{}", text(channel), when(guard)),
        Step::Publish { channel, payload, guard } => {
            format!("publish {} {}{}", text(channel), text(payload), when(guard))
        }
    };
    plan.steps.iter().map(step).collect()
}

fn set_fields(plan: &KeyPlan) -> Vec<(String, String)> {
    let Some(Step::Hash { set, .. }) = plan.steps.first() else { panic!("no hash first") };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    set.iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn json(plan: &KeyPlan) -> serde_json::Value {
    let whole = match &plan.event {
        EventJson::Fixed(whole) => text(whole),
        EventJson::ByBalance { head, tail } => format!("{}balance_change{}", text(head), text(tail)),
    };
    serde_json::from_str(&whole).unwrap()
}

const WRITES: [&str; 7] = [
    "hash user:{live:123}:config",
    "set user_balance:live:123 10000.5 3600s",
    "hash user:{live:123}:portfolio if exists",
    "delete user_margin_calc:live:123",
    "delete user_stats:live:123",
    "delete user:live:123:config",
    "delete financial_summary:live:123:*",
];

fn balance() -> Vec<(&'static str, Value)> {
    vec![("wallet_balance", number("10000.500000")), ("email", Value::Null), ("leverage", number("100"))]
}

#[test]
fn an_admin_deposit_reaches_every_key_and_both_channels() {
    let mut deposit = event(Kind::Updated, &balance());
    deposit.completed.push(paid("deposit", "500.00", true));
    let plan = map(BUILT_IN).plan(&deposit);
    let mut expected = WRITES.map(str::to_owned).to_vec();
    expected.extend(["event user_updates".to_owned(), "event balance_updates".to_owned()]);
    assert_eq!(shown(&plan), expected, "one hash command, guards none");
    let set = set_fields(&plan);
    for (name, value) in [
        ("id", "123"),
        ("user_type", "live"),
        ("wallet_balance", "10000.5"),
        ("balance", "10000.5"),
        ("leverage", "100"),
        ("last_balance_update", "2026-01-15T10:30:00.000Z"),
        ("last_updated", "2026-01-15T10:30:00.000Z"),
        ("last_transaction_id", "TX\"1"),
        ("last_transaction_at", "2026-01-15T10:29:59.000Z"),
        ("last_deposit_amount", "500"),
        ("last_admin_action", "deposit"),
    ] {
        assert!(set.contains(&(name.to_owned(), value.to_owned())), "{name} {value} not in {set:?}");
    }
    let event = json(&plan);
    assert_eq!(event["event_type"], "balance_change");
    assert_eq!(event["updated_fields"]["last_deposit_amount"], 500);
    assert_eq!(event["removed_fields"][0], "email");
    assert_eq!(plan.watched, [Some(Bytes::from_static(b"10000.5"))]);
    assert_eq!(plan.row_xid, Some(Xid64(7 << 32 | 9)));
}

#[test]
fn an_admin_withdrawal_is_told_as_a_positive_amount() {
    let mut withdrawal = event(Kind::Updated, &balance());
    withdrawal.completed.push(paid("withdraw", "-500.25", true));
    let set = set_fields(&map(BUILT_IN).plan(&withdrawal));
    assert!(set.contains(&("last_withdrawal_amount".into(), "500.25".into())));
    assert!(set.contains(&("last_admin_action".into(), "withdrawal".into())));
}

#[test]
fn without_an_admin_the_action_fields_stay() {
    let mut profit = event(Kind::Updated, &balance());
    profit.completed.push(paid("deposit", "1", false));
    let set = set_fields(&map(BUILT_IN).plan(&profit));
    assert!(set.iter().any(|(name, _)| name == "last_transaction_id"));
    assert!(!set.iter().any(|(name, _)| name == "last_admin_action" || name == "last_deposit_amount"));
}

#[test]
fn a_bare_update_is_a_balance_change_only_where_the_fence_says_so() {
    let plan = map(BUILT_IN).plan(&event(Kind::Updated, &balance()));
    assert_eq!(
        shown(&plan)[7..],
        ["event user_updates", "event balance_updates if any=1 none=0 wrong=false"]
    );
    assert!(matches!(plan.event, EventJson::ByBalance { .. }));
    assert_eq!(json(&plan)["operation_type"], serde_json::Value::Null);
}

#[test]
fn a_known_old_row_decides_without_the_fence_and_tells_only_what_changed() {
    let mut update = event(Kind::Updated, &balance());
    update.changed = Some(vec!["leverage".into()]);
    let plan = map(BUILT_IN).plan(&update);
    assert_eq!(shown(&plan)[7..], ["event user_updates"]);
    let event = json(&plan);
    assert_eq!(event["event_type"], "user_update");
    assert_eq!(event["updated_fields"]["leverage"], 100);
    assert_eq!(event["updated_fields"]["balance"], 10000.5);
    assert_eq!(event["removed_fields"], serde_json::json!([]), "email did not change");
    update.changed = Some(vec!["wallet_balance".into()]);
    assert_eq!(json(&map(BUILT_IN).plan(&update))["event_type"], "balance_change");
}

#[test]
fn the_event_reads_as_the_contract_shows_it() {
    let mut deposit = event(Kind::Updated, &[("wallet_balance", number("10000.5"))]);
    deposit.completed.push(paid("deposit", "123456789012.123456", true));
    let EventJson::Fixed(whole) = map(BUILT_IN).plan(&deposit).event else { panic!("not fixed") };
    assert_eq!(
        text(&whole),
        concat!(
            r#"{"user_id":123,"user_type":"live","updated_fields":{"id":123,"user_type":"live","#,
            r#""wallet_balance":10000.5,"balance":10000.5,"last_balance_update":"2026-01-15T10:30:00.000Z","#,
            r#""last_updated":"2026-01-15T10:30:00.000Z","last_transaction_id":"TX\"1","#,
            r#""last_transaction_at":"2026-01-15T10:29:59.000Z","last_deposit_amount":"123456789012.123456","#,
            r#""last_admin_action":"deposit"},"event_type":"balance_change","#,
            r#""timestamp":"2026-01-15T10:30:00.000Z","source":"cdc","#,
            r#""event_id":"0000001600000010-00000002-u","commit_lsn":"16/10","xid":9,"operation_type":"deposit","#,
            r#""removed_fields":[],"transactions":[{"transaction_id":"TX\"1","type":"deposit","#,
            r#""amount":"123456789012.123456","balance_before":null,"balance_after":null,"status":"completed","#,
            r#""admin_id":5,"reference_id":null}]}"#
        )
    );
}

#[test]
fn a_new_user_writes_the_same_keys_and_both_channels() {
    let plan = map(BUILT_IN).plan(&event(Kind::Created, &balance()));
    assert_eq!(shown(&plan)[..7], WRITES);
    assert_eq!(shown(&plan)[7..], ["event user_updates", "event balance_updates"]);
    assert_eq!(json(&plan)["event_type"], "user_created");
}

#[test]
fn a_deleted_user_loses_every_key_and_is_told_on_balance_updates_only() {
    let plan = map(BUILT_IN).plan(&event(Kind::Deleted, &[]));
    assert!(plan.deletes_user);
    let steps = shown(&plan);
    for key in [
        "user:{live:123}:config",
        "user_balance:live:123",
        "user:{live:123}:portfolio",
        "financial_summary:live:123:*",
    ] {
        assert!(steps.contains(&format!("delete {key}")), "{key} not in {steps:?}");
    }
    assert_eq!(steps.len(), 8);
    assert_eq!(steps[7], "event balance_updates");
    let event = json(&plan);
    assert_eq!(
        (&event["event_type"], &event["updated_fields"]),
        (&"user_deleted".into(), &serde_json::json!({}))
    );
    assert_eq!(event["event_id"], "0000001600000010-00000002-d-live:123", "a truncate has many");
}

#[test]
fn a_completed_row_alone_sets_the_last_fields_if_the_hash_exists() {
    let mut alone = event(Kind::Completed, &[]);
    alone.completed.push(paid("deposit", "5", true));
    let plan = map(BUILT_IN).plan(&alone);
    assert_eq!(shown(&plan), ["hash user:{live:123}:config if exists", "event user_updates"]);
    assert_eq!(set_fields(&plan).len(), 4);
    assert_eq!(json(&plan)["event_type"], "user_update");
    assert_eq!((plan.row_xid, &plan.watched), (None, &vec![None]));
}

#[test]
fn the_first_load_publishes_nothing_and_takes_its_times_from_the_row() {
    let mut columns = balance();
    let plan = map(BUILT_IN).plan(&event(Kind::Loaded, &columns));
    assert_eq!(shown(&plan)[..2], WRITES[..2]);
    assert!(!shown(&plan).iter().any(|step| step.starts_with("event")));
    assert!(!set_fields(&plan).iter().any(|(name, _)| name == "last_updated"), "never the clock");
    columns.push(("updated_at", Value::Text("2026-01-01T00:00:00.000Z".into())));
    let set = set_fields(&map(BUILT_IN).plan(&event(Kind::Loaded, &columns)));
    assert!(set.contains(&("last_balance_update".into(), "2026-01-01T00:00:00.000Z".into())));
}

#[test]
fn what_was_read_again_is_told_only_where_the_stored_balance_was_wrong() {
    let healed = map(BUILT_IN).plan(&event(Kind::Reread(Reread::Heal), &balance()));
    let guarded = "if any=0 none=0 wrong=true";
    let last = shown(&healed).split_off(shown(&healed).len() - 2);
    assert_eq!(last, [format!("event user_updates {guarded}"), format!("event balance_updates {guarded}")]);
    assert_eq!(
        (&json(&healed)["operation_type"], &json(&healed)["event_type"]),
        (&"heal".into(), &"balance_change".into())
    );
    let forced = map(BUILT_IN).plan(&event(Kind::Reread(Reread::ForceRefresh), &balance()));
    assert!(shown(&forced).contains(&"event balance_updates".to_owned()));
    assert_eq!(json(&forced)["operation_type"], "force_refresh");
}

#[test]
fn a_row_without_a_time_of_its_own_is_told_at_the_last_commit_and_leaves_the_time_fields_alone() {
    let mut read = event(Kind::Reread(Reread::Repair), &balance());
    let told = map(BUILT_IN).plan(&read);
    assert_eq!(json(&told)["timestamp"], "2026-01-15T10:30:00.000Z");
    assert!(
        set_fields(&told).iter().all(|(name, _)| name != "last_updated" && name != "last_balance_update")
    );
    Arc::make_mut(&mut read.commit).time = PgTime::UNKNOWN;
    assert!(json(&map(BUILT_IN).plan(&read))["timestamp"].is_null(), "no time rather than a false one");
}

#[test]
fn an_undecodable_value_deletes_the_keys_and_publishes_nothing() {
    let mut doubtful = event(Kind::Updated, &balance());
    doubtful.doubt =
        Some(crate::balance::Doubt::Undecodable { table: "public.users".into(), column: "margin".into() });
    let plan = map(BUILT_IN).plan(&doubtful);
    assert_eq!(plan.steps, map(BUILT_IN).keys_of(&doubtful.user));
    assert!(!plan.deletes_user && plan.doubt == doubtful.doubt);
    assert_eq!(plan.watched, [None]);
}

#[test]
fn an_unsent_column_is_left_alone() {
    let plan = map(BUILT_IN)
        .plan(&event(Kind::Updated, &[("wallet_balance", number("1")), ("email", Value::Unchanged)]));
    let Step::Hash { set, remove, .. } = &plan.steps[0] else { panic!("no hash") };
    assert!(remove.is_empty() && !set.iter().any(|(name, _)| name == b"email"));
}

#[test]
fn the_example_map_says_what_the_applications_do_elsewhere() {
    let map = map(EXAMPLE);
    assert_eq!(map.watched().iter().map(|name| &**name).collect::<Vec<_>>(), ["balance", "group"]);
    let mut columns = balance();
    columns.push(("group", Value::Text("vip".into())));
    let mut deposit = event(Kind::Updated, &columns);
    deposit.completed.push(paid("deposit", "5", true));
    let steps = shown(&map.plan(&deposit));
    for expected in [
        "hash user_portfolio:{live:123} if exists".to_owned(),
        "delete user_summary:live:123".to_owned(),
        "delete user_group_config:live:123 if any=2 none=0 wrong=false".to_owned(),
        "delete margin_requirements:live:123 if any=2 none=0 wrong=false".to_owned(),
        "delete spread_config:live:123 if any=2 none=0 wrong=false".to_owned(),
    ] {
        assert!(steps.contains(&expected), "{expected} not in {steps:#?}");
    }
    let force = r#"publish portfolio_force_recalc {"type":"FORCE_PORTFOLIO_RECALC","users":[{"user_type":"live","user_id":"123"}],"reason":"deposit","#;
    assert!(steps.iter().any(|step| step.starts_with(force)), "{steps:#?}");
    assert!(
        steps.iter().any(|step| step.starts_with("publish group_updates {")
            && step.ends_with("if any=2 none=0 wrong=false"))
    );
    deposit.changed = Some(vec!["leverage".into()]);
    assert!(
        !shown(&map.plan(&deposit)).iter().any(|step| step.contains("group")),
        "the group is known not to have changed"
    );
    let set = set_fields(&map.plan(&event(Kind::Updated, &balance())));
    assert!(set.contains(&("email".into(), "none".into())), "a default stands for NULL: {set:?}");
}

#[test]
fn every_mistake_of_a_map_is_told_with_its_cure() {
    let wrong = r#"
        keys = [
            { hash = "a:$type:$id", fields = { x = "$nonsense" }, defaults = { y = "1" } },
            { string = "a:$type:$id", value = "$balance" },
            { delete_pattern = "p:$type:$id*" },
            { publish = "c", on = ["loaded"], when = { "transaction.colour" = "red" } },
            { publish = "c", on = ["balance_change"], when_changed = ["group"] },
            { delete = ["x:$id"], on = ["user_deleted"] },
        ]"#;
    let faults = KeyMap::compile(&KeyMapSpec::from_toml(wrong).unwrap(), &tables()).unwrap_err();
    let told: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
    for fact in [
        "entry 1: no followed table of users has the column nonsense",
        "entry 1: defaults names y",
        "entry 2: \"a:$type:$id\" is used as two kinds of key",
        "entry 3: \"p:$type:$id*\" does not separate the user and *",
        "entry 4: a publish waits on loaded",
        "entry 4: $transaction.colour is not known",
        "entry 5: waits on balance_change alone",
        "entry 6: \"x:$id\" does not name $type and $id",
        "entry 6: a write waits on user_deleted",
    ] {
        assert!(told.contains(fact), "{fact} is not in\n{told}");
    }
    assert!(faults.iter().all(|fault| !fault.cure.is_empty()));
}

proptest::proptest! {
    #[test]
    fn the_event_is_json_whatever_the_texts_hold(id in "\\PC{1,20}", value in "(?s).{0,30}", amount in "-?[0-9]{1,30}(\\.[0-9]{1,20})?") {
        let mut update = event(Kind::Updated, &[("wallet_balance", number(&amount)), ("email", Value::Text(value.as_str().into()))]);
        update.user = User { user_type: "li\"ve".into(), id: id.as_str().into(), numeric_id: false };
        let plan = map(BUILT_IN).plan(&update);
        let event = json(&plan);
        proptest::prop_assert_eq!(&event["user_id"], id.as_str());
        proptest::prop_assert_eq!(&event["updated_fields"]["email"], value.as_str());
        // The text itself: serde_json's own reading of long fractions is not exact.
        let canonical = Amount::parse(&amount).unwrap();
        let number = if canonical.fits_double() { canonical.as_str().to_owned() } else { format!("\"{}\"", canonical.as_str()) };
        let EventJson::ByBalance { head, .. } = &plan.event else { panic!("not by balance") };
        let told = format!(",\"balance\":{number},");
        proptest::prop_assert!(text(head).contains(&told), "{} has no {}", text(head), told);
    }
}
