//! The sink against real servers.

mod cluster;
mod derived;
mod faults;
mod fences;
mod lease;
mod node;
mod tracking;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lockstep::balance::User;
use lockstep::checkpoint::Checkpoint;
use lockstep::config;
use lockstep::keyplan::{EventJson, Guard, KeyPlan, Step, Texts};
use lockstep::lsn::{Lsn, Position, Xid64};
use lockstep::metrics::{Metrics, SinkMetrics};
use lockstep::sink::{Applied, Fencing, Flight, Options, Outcome, Sink, SinkState};

use super::harness::{Reply, Resp};

const ALWAYS: Guard = Guard::ALWAYS;
/// The balance is the first watched column.
const BALANCE_CHANGED: Guard = Guard { any_changed: 1, ..Guard::ALWAYS };

const APPLIED: Outcome = Outcome::Applied(Applied { as_update: false, retyped_keys: 0 });
const APPLIED_AS_UPDATE: Outcome = Outcome::Applied(Applied { as_update: true, retyped_keys: 0 });

async fn connect(urls: &[impl AsRef<str>]) -> Sink {
    try_connect(&config::Redis::parse(urls).unwrap()).await.unwrap()
}

async fn try_connect(redis: &config::Redis) -> Result<Sink, lockstep::error::Error> {
    connect_following(redis, &["financial_summary:"]).await
}

async fn connect_following(
    redis: &config::Redis,
    prefixes: &[&'static str],
) -> Result<Sink, lockstep::error::Error> {
    let options = Options {
        derived_prefixes: prefixes.iter().map(|prefix| Bytes::from(*prefix)).collect(),
        ..Options::new("lockstep", Metrics::new().unwrap().sink)
    };
    Sink::connect(redis, options).await
}

/// What one balance change does to all of a user's keys.
fn change(id: &str, at: u64, balance: &str) -> KeyPlan {
    let text = |text: String| Bytes::from(text);
    let tagged = format!("{{live:{id}}}");
    let balance = text(balance.to_owned());
    KeyPlan {
        user: User { user_type: Arc::from("live"), id: Arc::from(id), numeric_id: true },
        position: Position { commit_lsn: Lsn(at), ordinal: 1 },
        row_xid: Some(Xid64(at)),
        xid: Xid64(at),
        deletes_user: false,
        restores: true,
        watched: vec![Some(balance.clone())],
        doubt: None,
        published_as: None,
        rereads: false,
        whole: true,
        event: EventJson::ByBalance {
            head: text(format!("{{\"user_id\":{id},\"at\":{at},\"event_type\":\"")),
            tail: "\"}".into(),
        },
        steps: vec![
            Step::Hash {
                key: text(format!("user:{tagged}:config")),
                set: [("wallet_balance", &balance), ("balance", &balance)].into_iter().collect(),
                remove: ["email"].into_iter().collect(),
                if_exists: false,
                guard: ALWAYS,
            },
            Step::Set {
                key: text(format!("user_balance:live:{id}")),
                value: balance.clone(),
                ttl: Some(Duration::from_secs(3600)),
                guard: ALWAYS,
            },
            Step::Hash {
                key: text(format!("user:{tagged}:portfolio")),
                set: [("wallet_balance", balance)].into_iter().collect(),
                remove: Texts::default(),
                if_exists: true,
                guard: ALWAYS,
            },
            Step::Delete { key: text(format!("user_stats:live:{id}")), written: false, guard: ALWAYS },
            Step::DeletePattern {
                prefix: text(format!("financial_summary:live:{id}:")),
                suffix: Bytes::new(),
                guard: ALWAYS,
            },
            Step::PublishEvent { channel: "user_updates".into(), guard: ALWAYS },
            Step::PublishEvent { channel: "balance_updates".into(), guard: BALANCE_CHANGED },
        ],
    }
}

fn deletion(id: &str, at: u64) -> KeyPlan {
    let mut plan = change(id, at, "0");
    let keys = [format!("user:{{live:{id}}}:config"), format!("user_balance:live:{id}")];
    plan.steps =
        keys.into_iter().map(|key| Step::Delete { key: key.into(), written: true, guard: ALWAYS }).collect();
    plan.steps.push(Step::PublishEvent { channel: "balance_updates".into(), guard: ALWAYS });
    plan.watched = vec![];
    plan.event = EventJson::Fixed("{\"event_type\":\"user_deleted\"}".into());
    plan.deletes_user = true;
    plan
}

fn stream(plans: Vec<KeyPlan>) -> Flight {
    Flight { plans, fencing: Fencing::Stream, checkpoint: None }
}

fn checkpoint(applied: u64) -> Checkpoint {
    Checkpoint {
        slot: "lockstep".to_owned(),
        system_id: "7000000000000000000".to_owned(),
        timeline: 1,
        applied: Lsn(applied),
        landmark: None,
        unwatched: None,
    }
}

async fn subscribe(mut connection: Resp, channels: &[&str]) -> Resp {
    for channel in channels {
        connection.call(&["SUBSCRIBE", channel]).await.unwrap();
    }
    connection
}

/// The next `count` messages as "channel payload".
async fn messages(subscriber: &mut Resp, count: usize) -> Vec<String> {
    let mut received = Vec::new();
    while received.len() < count {
        let message = subscriber.receive().await.unwrap();
        if let [Reply::Text(kind), Reply::Text(channel), Reply::Text(payload)] = message.items()
            && kind == "message"
        {
            received.push(format!("{channel} {payload}"));
        }
    }
    received
}

async fn eventually_retrying(sink: &mut tokio::sync::watch::Receiver<SinkState>) -> String {
    let state = sink.wait_for(|state| matches!(state, SinkState::Retrying { .. })).await.unwrap();
    match &*state {
        SinkState::Retrying { fault } => fault.to_string(),
        SinkState::Connected { .. } => String::new(),
    }
}
