//! The console as a person sees it, in a real Chromium.

use serde_json::json;

use super::UNHEALED;
use crate::cases::config_of;
use crate::harness::browser::{Browser, DARK, DESKTOP, PHONE};
use crate::harness::workload::Workload;
use crate::harness::world::quote;
use crate::harness::{On, Setup, World, eventually, eventually_ok};

const TOKEN: &str = "an-operators-token-of-the-tests-0123456789";
const MASK: &str = "•••";

on_both!(the_page_shows_both_sides_and_masks_who_and_how_much);

fn open(world: &World) -> Browser {
    Browser::open(&address(world), DESKTOP)
}

fn address(world: &World) -> String {
    format!("http://127.0.0.1:{}/", world.lockstep.http_port())
}

/// The operator types the token.
async fn identify(browser: &Browser) {
    browser.fill("token", TOKEN);
    browser.press(&["Enter"]);
    browser.says("token-note", "token accepted").await;
}

/// Asks for a user until the answer says this: of one who changes meanwhile, all may be on its way.
async fn look_up(browser: &Browser, id: &str, says: &str) {
    let answered = eventually_ok(async || {
        browser.fill("user-id", id);
        browser.press(&["Enter"]);
        let said =
            eventually("an answer", async || Some(browser.text("user-says")).filter(|said| said != "asking"));
        let said = said.await;
        if said.contains(says) { Ok(()) } else { Err(said) }
    });
    answered.await.unwrap_or_else(|said| panic!("of {id} it is not said that {says:?}, but {said:?}"));
}

/// Waits until an expression of the page is true.
async fn is_so(browser: &Browser, expression: &str) {
    eventually(expression, async || (browser.evaluate(expression) == json!(true)).then_some(())).await;
}

/// A user with an amount that is found nowhere else.
async fn unhealed(on: On) -> World {
    let world = World::running_as(Setup { config: UNHEALED.to_owned(), ..Setup::on(on) }).await;
    world.user("live", 7, "7654321.25").await;
    world.credit(7, "4321.5").await;
    world.caught_up().await;
    world
}

async fn the_page_shows_both_sides_and_masks_who_and_how_much(on: On) {
    let world = unhealed(on).await;
    let browser = open(&world);
    browser.says("overall", "ready").await;
    browser.says("postgres", "reachable").await;
    browser.says("slot", "in use").await;
    browser.says("stream", "streaming").await;
    browser.says("load", "loaded").await;
    let (answer, masters) = if on == On::Cluster { ("all 3 answer", 3) } else { ("answers", 1) };
    browser.says("redis", answer).await;
    let nodes = browser.evaluate("document.querySelectorAll('#nodes tr').length");
    assert_eq!(nodes, json!(masters));
    let mapped = browser.evaluate("document.querySelectorAll('#slot-map rect:not(.away)').length");
    assert!(if on == On::Cluster { mapped.as_u64() >= Some(3) } else { mapped == json!(0) }, "{mapped}");
    let events = browser.says("events", "balance_change").await;
    assert!(events.contains(MASK) && events.contains("user_created"), "{events}");
    is_so(
        &browser,
        "document.querySelectorAll('#c-latency path')[0].getAttribute('d') !== null || samples.length > 2",
    )
    .await;
    // Not even to the browser is sent what it must not show.
    let page = browser.evaluate("document.documentElement.outerHTML + JSON.stringify(states)");
    let page = page.as_str().unwrap();
    for secret in ["7658642", "4321.5", "live7@example.com", "live:7"] {
        assert!(!page.contains(secret), "{secret}");
    }
    identify(&browser).await;
    let events = browser.says("events", "live:7").await;
    assert!(events.contains("7658642.75") && events.contains("4321.5") && !events.contains(MASK), "{events}");
    browser.click("forget");
    let events = browser.says("events", MASK).await;
    assert!(!events.contains("7658642.75"), "{events}");
    let own = address(&world);
    let outside: Vec<String> = browser
        .asked()
        .into_iter()
        .filter(|url| !url.starts_with(&own) && !url.starts_with("data:"))
        .collect();
    assert_eq!(outside, [] as [&str; 0]);
    assert_eq!(browser.complaints(), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_looks_a_user_up_and_writes_it_again_by_keys_alone() {
    let world = unhealed(On::Single).await;
    world.store.set("user_balance:live:7", "90").await;
    let browser = open(&world);
    browser.says("overall", "ready").await;
    let tab_to = |id: &str| {
        for _ in 0..20 {
            if browser.focus() == id {
                return;
            }
            browser.press(&["Tab"]);
        }
        panic!("no way to #{id} by the tab key");
    };
    tab_to("user-id");
    browser.press(&["7", "Enter"]);
    browser.says("user-says", "token is missing or wrong").await;
    browser.evaluate("document.activeElement.blur(); window.getSelection().removeAllRanges(); document.querySelector('.skip').focus()");
    tab_to("token");
    browser.press(&["a-guess", "Enter"]);
    browser.says("token-note", "token is missing or wrong").await;
    browser.press(&[TOKEN, "Enter"]);
    browser.says("token-note", "token accepted").await;
    tab_to("user-id");
    browser.press(&["Enter"]);
    browser.says("user-says", "differs").await;
    let keys = browser.text("user-keys");
    assert!(keys.contains("foreign") && keys.contains("7658642.75") && keys.contains("90"), "{keys}");
    assert_eq!(browser.evaluate("document.querySelectorAll('tr.differs').length"), json!(1));
    browser.screenshot("console-user-differs");
    tab_to("refresh");
    browser.press(&["Enter"]);
    let said = browser.says("user-says", "written again").await;
    browser.says("user-says", "redis holds what the database holds").await;
    assert_eq!(browser.focus(), "refresh", "{said}");
    assert_eq!(browser.evaluate("document.querySelectorAll('tr.differs').length"), json!(0));
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("7658642.75"));
    // Whatever has the focus can be told from the rest by its name.
    let unnamed = "[...document.querySelectorAll('input, button, a, [tabindex=\"0\"], progress, meter')].filter(e => \
        !(e.labels && e.labels.length) && !e.ariaLabel && !e.getAttribute('aria-labelledby') && !e.innerText && !e.hidden).length";
    assert_eq!(browser.evaluate(unnamed), json!(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_shown_and_goes_by_itself() {
    let world = unhealed(On::Single).await;
    let browser = open(&world);
    browser.says("overall", "ready").await;
    world.store.single().kill9();
    browser.says("overall", "not ready").await;
    browser.says("redis", "away").await;
    let alerts = browser.says("alerts", "redis").await;
    assert!(alerts.contains(&world.store.single().port().to_string()), "{alerts}");
    browser.look_as(DARK);
    browser.screenshot("console-redis-away");
    world.store.single().start_again().await;
    browser.says("overall", "ready").await;
    is_so(&browser, "document.getElementById('alerts').childElementCount === 0").await;
    world.lockstep.kill9();
    browser.says("overall", "no answer").await;
    browser.says("alerts", "the last that was heard").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn markup_from_the_data_stays_text() {
    const MARKUP: &str = "<img src=x onerror=\"window.struck=1\"><script>window.struck=1</script>";
    let world = unhealed(On::Single).await;
    world.sql(&format!("UPDATE users SET email = {} WHERE id = 7", quote(MARKUP))).await;
    world.caught_up().await;
    world.store.hset(&config_of("live:7"), "status", MARKUP).await;
    let entry = json!({
        "state": "open", "user": ["live", MARKUP], "table": MARKUP, "reason": MARKUP, "commit_lsn": "0/1", "row": 1,
        "xid": 1, "committed_at": "2026-01-15T10:30:00.000Z", "count": 1,
    });
    world.store.set("lockstep:quarantine:lockstep", &entry.to_string()).await;
    let browser = open(&world);
    browser.says("overall", "ready").await;
    identify(&browser).await;
    let quarantine = browser.says("quarantine", MARKUP).await;
    assert_eq!(quarantine.matches(MARKUP).count(), 3, "{quarantine}");
    look_up(&browser, "7", "differs").await;
    assert!(browser.text("user-keys").contains(MARKUP));
    look_up(&browser, MARKUP, "userId is no value").await;
    assert_eq!(browser.evaluate("window.struck"), serde_json::Value::Null);
    assert_eq!(browser.evaluate("document.querySelectorAll('img, main script').length"), json!(0));
    assert_eq!(browser.complaints(), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fits_a_desk_and_a_phone_by_day_and_by_night() {
    let world = World::running(On::Cluster).await;
    for id in 1..=20 {
        world.user("live", id, "10000.5").await;
    }
    let workload = Workload::start(&world.postgres, 2, 1, 20).await;
    workload.progress(50).await;
    let browser = open(&world);
    browser.says("overall", "ready").await;
    identify(&browser).await;
    look_up(&browser, "7", "redis").await;
    browser.says("user-keys", "user_balance:live:7").await;
    is_so(&browser, "samples.length >= 15").await;
    for (view, name) in [(DESKTOP, "light"), (DARK, "dark"), (PHONE, "phone")] {
        browser.look_as(view);
        let back = if view.dark { "rgb(16, 20, 24)" } else { "rgb(246, 247, 248)" };
        // Where the window ends the page does.
        let expected = json!([true, view.width, back]);
        let seen = eventually_ok(async || {
            let seen = browser.evaluate(
                "[document.documentElement.scrollWidth <= window.innerWidth, window.innerWidth, \
                 getComputedStyle(document.body).backgroundColor]",
            );
            if seen == expected { Ok(()) } else { Err(seen) }
        });
        seen.await.unwrap_or_else(|seen| panic!("{name}: {seen} is not {expected}"));
        let picture = browser.screenshot(&format!("console-{name}"));
        assert!(std::fs::metadata(picture).unwrap().len() > 10_000);
        browser.evaluate("window.scrollTo(0, 0)");
        browser.screenshot_of_window(&format!("console-{name}-window"));
    }
    workload.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_shown_as_it_goes() {
    let config = "[load]\nusers_per_second = 20\nchunk_rows = 10\n".to_owned();
    let world = World::loading_as(Setup { config, ..Setup::on(On::Single) }, 5_000).await;
    let browser = open(&world);
    browser.says("load", "load is running").await;
    browser.says("overall", "not ready").await;
    browser.says("alerts", "users are still being loaded").await;
    assert_eq!(
        browser.evaluate("document.getElementById('overall').dataset.state"),
        json!("warn"),
        "nothing is wrong"
    );
    let read = "Number(document.querySelector('#load-facts dd').innerText)";
    let before = browser.evaluate(read).as_f64().expect("users that were read");
    is_so(&browser, &format!("{read} > {before}")).await;
    assert_eq!(browser.evaluate("document.getElementById('load-progress').hidden"), json!(false));
}
