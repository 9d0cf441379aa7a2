//! The console: one page for whoever has to find out at night what is wrong, and the facts that it shows.
//!
//! Nothing is read or kept for it while nobody looks, except the latest events, which are a few references. Whoever
//! looks shares what another one was told within a second; a listener who is slow is told less often.
//!
//! What is open to everybody says nothing of users: whom an event is about and how much is told to the operator's token
//! only, by calls of their own.

pub mod state;

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{MissedTickBehavior, timeout};

use super::Facts;
use super::envelope::{envelope, later, no_answer};
use crate::catalog::Slot;
use crate::config;
use crate::inspect::event_time;
use state::State;

/// Most who are told every second; more ask again later.
const MAX_LISTENERS: usize = 32;
/// How often a listener is told.
const TELL: Duration = Duration::from_secs(1);
/// Most often that a listener may ask to be told before the end.
const MAX_TOLD: u32 = 3_600;
/// How long a state is used for the next one who asks.
const USED: Duration = Duration::from_millis(900);
/// How long is used what the database said of the slot.
const SLOT_USED: Duration = Duration::from_secs(4);
/// How long the database may take for it.
const SLOT_ANSWER: Duration = Duration::from_secs(2);

/// No other source than this program, no text that becomes a script, and in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What those who look share.
pub(super) struct Console {
    postgres: config::Postgres,
    started: Instant,
    listeners: Arc<Semaphore>,
    /// The state as JSON, and when it was so.
    state: Mutex<Option<(Instant, Arc<State>)>>,
    slot: Mutex<Option<(Instant, Looked)>>,
}

/// What the database said of the slot, or why it did not.
#[derive(Debug, Clone)]
pub(super) struct Looked {
    slot: state::Slot,
    fault: Option<String>,
}

impl Console {
    pub(super) fn new(config: &config::Config) -> Console {
        Console {
            postgres: config.postgres.clone(),
            started: Instant::now(),
            listeners: Arc::new(Semaphore::new(MAX_LISTENERS)),
            state: Mutex::default(),
            slot: Mutex::default(),
        }
    }

    /// Since the start.
    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whoever comes while another one asks waits for the same answer.
    async fn state(&self, facts: &Facts) -> Arc<State> {
        let mut known = self.state.lock().await;
        if let Some((_, state)) = known.as_ref().filter(|(at, _)| at.elapsed() < USED) {
            return Arc::clone(state);
        }
        let masters = async {
            match facts.inspector.get() {
                Some(inspector) => Some(inspector.masters().await),
                None => None,
            }
        };
        let (looked, masters) = tokio::join!(self.look(facts), masters);
        let state = Arc::new(State::read(facts, looked, masters));
        *known = Some((Instant::now(), Arc::clone(&state)));
        state
    }

    async fn look(&self, facts: &Facts) -> Looked {
        let mut known = self.slot.lock().await;
        let mut looked = match known
            .as_ref()
            .filter(|(at, looked)| at.elapsed() < if looked.fault.is_none() { SLOT_USED } else { USED })
        {
            Some((_, looked)) => looked.clone(),
            None => {
                let answer = timeout(SLOT_ANSWER, Slot::look(&self.postgres)).await;
                let looked = match answer {
                    Ok(Ok(slot)) => Looked { slot: self.told(Some(slot)), fault: None },
                    Ok(Err(fault)) => Looked { slot: self.told(None), fault: Some(fault.to_string()) },
                    Err(_) => {
                        let fault = format!("postgres did not answer within {} s", SLOT_ANSWER.as_secs());
                        Looked { slot: self.told(None), fault: Some(fault) }
                    }
                };
                *known = Some((Instant::now(), looked.clone()));
                looked
            }
        };
        // Where the database is away this is the last that was heard.
        if looked.fault.is_some() {
            let heard = facts.metrics.stream.slot_retained_bytes.get();
            looked.slot.retained_bytes = u64::try_from(heard).unwrap_or(0);
        }
        looked
    }

    /// A slot as it is told; `None`: it is not known whether it is there.
    fn told(&self, asked: Option<Option<Slot>>) -> state::Slot {
        let (exists, slot) = (asked.as_ref().map(Option::is_some), asked.flatten());
        let slot = slot.as_ref();
        state::Slot {
            name: self.postgres.slot.clone(),
            exists,
            active: slot.map(|slot| slot.holder.is_some()),
            wal_status: slot.and_then(|slot| slot.wal_status.clone()),
            lost_because: slot.and_then(Slot::lost_because).map(str::to_owned),
            restart_lsn: slot.and_then(|slot| slot.restart_lsn).map(|lsn| lsn.to_string()),
            confirmed_flush_lsn: slot.and_then(|slot| slot.confirmed_flush).map(|lsn| lsn.to_string()),
            retained_bytes: slot.map_or(0, |slot| u64::try_from(slot.retained_bytes).unwrap_or(0)),
            retained_max_bytes: self.postgres.retained_wal_max,
            given_up: 0,
        }
    }
}

/// What everybody may see.
pub(super) fn open() -> Router<Facts> {
    Router::new()
        .route("/", get(async || asset("text/html; charset=utf-8", include_str!("page.html"))))
        .route("/console.css", get(async || asset("text/css; charset=utf-8", include_str!("style.css"))))
        .route(
            "/console.js",
            get(async || asset("text/javascript; charset=utf-8", include_str!("script.js"))),
        )
        .route("/api/lockstep/state", get(tell_state))
        .route("/api/lockstep/events", get(tell_events))
}

/// What only the operator may.
pub(super) fn guarded() -> Router<Facts> {
    Router::new()
        .route("/api/lockstep/recent", get(recent))
        .route("/api/lockstep/quarantine", get(quarantine))
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}

async fn tell_state(Shared(facts): Shared<Facts>) -> Response {
    let state = facts.console.state(&facts).await;
    let message = match (state.state.as_str(), state.reasons.as_slice()) {
        ("standby", _) => "another instance holds the slot; this one waits for it",
        (_, [first, ..]) => first,
        (_, []) => "ready",
    };
    envelope(StatusCode::OK, message, &*state)
}

/// How often to tell before the end.
#[derive(Debug, Deserialize)]
struct Arguments {
    count: Option<NonZeroU32>,
}

async fn tell_events(
    Shared(facts): Shared<Facts>,
    arguments: Result<Query<Arguments>, QueryRejection>,
) -> Response {
    let count = match arguments {
        Ok(Query(Arguments { count })) if count.is_none_or(|count| count.get() <= MAX_TOLD) => count,
        _ => {
            let message = format!("count is no whole number from 1 to {MAX_TOLD}");
            return envelope(StatusCode::BAD_REQUEST, &message, &json!({}));
        }
    };
    let Ok(place) = Arc::clone(&facts.console.listeners).try_acquire_owned() else {
        let message = format!("{MAX_LISTENERS} listeners are told already: ask /api/lockstep/state");
        return later(StatusCode::TOO_MANY_REQUESTS, &message);
    };
    let mut pace = tokio::time::interval(TELL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let left = count.map(NonZeroU32::get);
    // The next state is made when the last one was taken: a slow listener misses some, and holds nothing up.
    let states = stream::unfold((facts, pace, left, place), async |(facts, mut pace, left, place)| {
        if left == Some(0) {
            return None;
        }
        pace.tick().await;
        let state = facts.console.state(&facts).await;
        let text = serde_json::to_string(&*state).unwrap_or_default();
        let told = Ok::<_, Infallible>(Bytes::from(format!("data: {text}\n\n")));
        Some((told, (facts, pace, left.map(|left| left - 1), place)))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(states)).into_response()
}

/// An event with all that was published.
#[derive(Serialize)]
struct Told {
    event_type: &'static str,
    committed_at: String,
    commit_lsn: String,
    /// As it was published, digit for digit; `null` where the key map publishes none.
    event: Option<Box<RawValue>>,
}

async fn recent(Shared(facts): Shared<Facts>) -> Response {
    let latest = facts.health.recent().latest().into_iter().map(|happened| Told {
        event_type: happened.event_type,
        committed_at: event_time(happened.committed),
        commit_lsn: happened.commit_lsn.to_string(),
        event: RawValue::from_string(happened.text()).ok(),
    });
    let events: Vec<Told> = latest.collect();
    envelope(StatusCode::OK, "the latest events, the latest first", &json!({ "events": events }))
}

async fn quarantine(Shared(facts): Shared<Facts>) -> Response {
    let inspector = match facts.inspector() {
        Ok(inspector) => inspector,
        Err(answer) => return *answer,
    };
    match inspector.quarantine().await {
        Ok(entries) => envelope(
            StatusCode::OK,
            "what is not right yet, the latest first",
            &json!({ "entries": entries }),
        ),
        Err(why) => no_answer(&why),
    }
}
