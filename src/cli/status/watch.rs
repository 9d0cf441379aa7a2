//! `lockstep status --watch`: the status again every second, until Ctrl-C.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::direct::{self, Status};
use super::rates::Rates;
use super::{ask, json, note_faults, rows, show};
use crate::cli::Exit;
use crate::cli::output::columns;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::console::state::State;

/// How often it is drawn.
const DRAW: Duration = Duration::from_secs(1);
/// How long is used what the two sides said, while an instance answers: each look makes connections.
const SIDES_USED: Duration = Duration::from_secs(5);

/// Cursor to the corner; the rest of the screen cleared; the rest of the line cleared.
const HOME: &str = "\x1b[H";
const CLEAR: &str = "\x1b[J";
const CLEAR_LINE: &str = "\x1b[K";
/// A line that is too long ends at the edge, or is continued on the next one.
const CUT: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// The last look.
#[derive(Default)]
struct Seen {
    sides: Option<(Instant, Status)>,
    instance: Option<State>,
}

pub(super) async fn run(config: &Config, as_json: bool) -> Result<Exit> {
    let listen = |kind| {
        signal(kind).map_err(|error| Error::definite(format!("signals cannot be received: {error}"), ""))
    };
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let on_terminal = io::stdout().is_terminal();
    let mut pace = interval(DRAW);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen::default();
    if on_terminal && !as_json {
        write(&format!("{CUT}{HOME}{CLEAR}"));
    }
    loop {
        let look = async {
            pace.tick().await;
            text(config, &mut seen, (as_json, on_terminal)).await
        };
        let text = tokio::select! {
            text = look => text?,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        };
        // A reader that has gone (`| head`) ends it.
        if !write(&text) {
            break;
        }
    }
    if on_terminal && !as_json {
        write(WRAP);
    }
    Ok(Exit::Done)
}

/// Looks, and says what is to be written.
async fn text(config: &Config, seen: &mut Seen, (as_json, on_terminal): (bool, bool)) -> Result<String> {
    let now = ask(&config.http).await;
    let known = seen.sides.as_ref().filter(|(at, _)| now.is_some() && at.elapsed() < SIDES_USED);
    let mut status = match known {
        Some((_, status)) => status.clone(),
        None => {
            let (status, _) = direct::look(config).await;
            seen.sides = Some((Instant::now(), status.clone()));
            status
        }
    };
    note_faults(&mut status, now.as_ref());
    let before = std::mem::replace(&mut seen.instance, now.clone());
    let (now, before) = (now.as_ref(), before.as_ref());
    match (as_json, on_terminal) {
        (true, _) => Ok(format!("{}\n", json(&status, now, false)?)),
        (false, true) => Ok(screen(&columns(&rows(config, &status, now, before)))),
        (false, false) => Ok(match now {
            Some(state) => format!("{}\n", show::line(state, &Rates::between(before, state))),
            None => format!("{}\n", without(&status)),
        }),
    }
}

/// One line where no instance answers.
fn without(status: &Status) -> String {
    let state = status.state.as_deref().unwrap_or("unknown");
    let wrong = status.faults.first().map(|fault| format!(", {fault}")).unwrap_or_default();
    format!("{} no instance, slot: {state}{wrong}", crate::inspect::now_iso())
}

/// Drawn over the last screen, so that nothing flickers.
fn screen(lines: &[String]) -> String {
    let mut text = HOME.to_owned();
    for line in lines {
        let _ = writeln!(text, "{line}{CLEAR_LINE}");
    }
    text + CLEAR
}

/// Whether it could be written.
fn write(text: &str) -> bool {
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}
