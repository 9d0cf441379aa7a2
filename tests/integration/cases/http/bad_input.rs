//! Questions that are none, and askers who may not: a clear answer each, and no word of theirs or of a row in the log.

use serde_json::Value;

use super::{Answer, CLUSTER_INFO, STATUS, consistency, force_refresh, parts, raw};
use crate::harness::{On, Setup, World};

/// Method and path of every guarded call.
fn guarded() -> [(&'static str, String); 3] {
    [("GET", consistency(7)), ("POST", force_refresh(7)), ("GET", CLUSTER_INFO.to_owned())]
}

async fn answer(world: &World, method: &str, path: &str, headers: &str) -> Answer {
    let (status, body) = world.lockstep.http_with(method, path, headers).await.expect("an answer");
    Answer::read(status, &body)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_operators_token_is_let_through() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    let token = "an-operators-token-of-the-tests-0123456789";
    for (method, path) in guarded() {
        for headers in [
            String::new(),
            "Authorization: Bearer\r\n".to_owned(),
            format!("Authorization: Basic {token}\r\n"),
            format!("Authorization: Bearer {token}0\r\n"),
            format!("Authorization: Bearer {}\r\n", &token[1..]),
            format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n"),
        ] {
            let refused = answer(&world, method, &path, &headers).await;
            assert_eq!(refused.status, 401, "{headers:?} {}", refused.json);
        }
        let right = format!("authorization: bearer {token}\r\n");
        assert_eq!(answer(&world, method, &path, &right).await.status, 200, "{path}");
    }
    let told =
        raw(world.lockstep.http_port(), format!("GET {CLUSTER_INFO} HTTP/1.0\r\n\r\n").as_bytes()).await;
    assert!(parts(&told).1.to_lowercase().contains("www-authenticate: bearer"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_token_is_configured_nobody_is_let_through() {
    let world = World::set_up(Setup::on(On::Single)).await;
    let without: Vec<String> = world
        .lockstep
        .configuration()
        .lines()
        .filter(|line| !line.contains("token_file"))
        .map(str::to_owned)
        .collect();
    world.lockstep.configure(&without.join("\n"));
    world.lockstep.init().await;
    world.lockstep.run().await;
    for (method, path) in guarded() {
        let refused = answer(&world, method, &path, "Authorization: Bearer anything-at-all\r\n").await;
        assert_eq!(refused.status, 403, "{}", refused.json);
        assert!(refused.message().contains("set http.token_file"), "{}", refused.json);
    }
    assert_eq!(answer(&world, "GET", STATUS, "").await.status, 200, "it shows no data");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_rate_are_asked_to_come_later() {
    let world = World::set_up(Setup::on(On::Single)).await;
    let slow = world.lockstep.configuration().replace("[http]\n", "[http]\nrequests_per_second = 2\n");
    world.lockstep.configure(&slow);
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    let ask = || async {
        let bearer = "Authorization: Bearer an-operators-token-of-the-tests-0123456789\r\n";
        let request = format!("GET {} HTTP/1.0\r\n{bearer}\r\n", consistency(7));
        raw(world.lockstep.http_port(), request.as_bytes()).await
    };
    let answers = futures_util::future::join_all((0..20).map(|_| ask())).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| parts(answer).0).collect();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
    let granted = statuses.iter().filter(|status| **status == 200).count();
    assert!((2..=6).contains(&granted), "{statuses:?}");
    let later = answers.iter().map(|answer| parts(answer)).find(|(status, ..)| *status == 429).unwrap();
    assert!(later.1.to_lowercase().contains("retry-after: 1"), "{}", later.1);
    Answer::read(429, later.2);
    // Guesses use none of it up, and what shows no data is not counted.
    assert_eq!(answer(&world, "GET", STATUS, "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_question_that_is_none_is_told_in_an_envelope() {
    let world = World::set_up(Setup::on(On::Single)).await;
    super::asked_often(&world);
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    let of_user = |id: &str, query: &str| format!("{}{query}", consistency(id));
    let long = "x".repeat(7_000);
    let wrong = [
        // Arguments.
        (400, "GET", of_user("abc", "")),
        (400, "GET", of_user("007", "")),
        (400, "GET", of_user("7.0", "")),
        (400, "GET", of_user("99999999999999999999", "")),
        (400, "GET", of_user("%7B7%7D", "")),
        (400, "GET", of_user("7%00", "")),
        (400, "GET", of_user("7%0d%0aX-Injected:%201", "")),
        (400, "GET", of_user("%ff", "")),
        (400, "GET", of_user("7'%20OR%201=1--", "")),
        (400, "GET", of_user(&long, "")),
        (400, "GET", of_user("7", "?userType=")),
        (400, "GET", of_user("7", "?userType")),
        (400, "GET", of_user("7", "?userType=a:b")),
        (400, "GET", of_user("7", "?userType=%7Blive%7D")),
        (400, "GET", of_user("7", "?userType=%ff")),
        (400, "GET", of_user("7", "?userType=%00")),
        (400, "GET", of_user("7", &format!("?userType={long}"))),
        (400, "GET", of_user("7", "?userType=live&userType=demo")),
        (400, "POST", format!("{}?userType=live&userType=live", force_refresh(7))),
        (400, "POST", force_refresh("abc")),
        // Not of the column's type, so that it is nobody's.
        (404, "GET", of_user("7", "?userType=*")),
        (404, "GET", of_user("7", "?userType=live'%20OR%20'1'='1")),
        (404, "GET", of_user("-1", "")),
        // Paths and methods.
        (404, "GET", "/".to_owned() + &long),
        (404, "GET", "/api".to_owned()),
        (400, "GET", of_user("", "")),
        (404, "GET", "/api/redis-health/user/7/consistency/".to_owned()),
        (404, "GET", "/api/redis-health/user/7/../../status".to_owned()),
        (404, "GET", "//api/redis-health/status".to_owned()),
        (405, "POST", STATUS.to_owned()),
        (405, "DELETE", CLUSTER_INFO.to_owned()),
        (405, "GET", force_refresh(7)),
        (405, "PUT", consistency(7)),
        (405, "BREW", "/healthz".to_owned()),
        (414, "GET", format!("/{long}{long}")),
        (414, "GET", of_user("7", &format!("?userType={long}{long}"))),
    ];
    for (status, method, path) in wrong {
        let answer = super::ask(&world.lockstep, method, &path).await;
        assert_eq!(answer.status, status, "{method} {path:.80}: {}", answer.json);
        assert!(answer.message().len() < 200 && !answer.message().contains("xxx"), "{}", answer.json);
    }
    let port = world.lockstep.http_port();
    let told = raw(port, format!("GET {} HTTP/1.0\r\n\r\n", force_refresh(7)).as_bytes()).await;
    assert!(parts(&told).1.to_lowercase().contains("allow: post"), "{told}");
    assert_eq!(super::get(&world, &consistency(7)).await.status, 200, "it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_neither_needed_nor_held() {
    let world = World::running(On::Single).await;
    let port = world.lockstep.http_port();
    let post = |headers: &str, body: &str| {
        let head =
            format!("POST {STATUS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n\r\n{body}");
        async move { raw(port, head.as_bytes()).await }
    };
    let small = post("Content-Length: 3", "abc").await;
    assert_eq!(parts(&small).0, 405, "{small}");
    for large in [
        post(&format!("Content-Length: {}", 100 << 20), "abc").await,
        post("Content-Length: 20000", &"x".repeat(20_000)).await,
        post("Transfer-Encoding: chunked", &format!("5000\r\n{}\r\n0\r\n\r\n", "x".repeat(0x5000))).await,
    ] {
        let (status, _, body) = parts(&large);
        Answer::read(status, body);
        assert!(matches!(status, 408 | 413), "{large}");
    }
    // The rest of it never comes.
    let slow = post("Content-Length: 10", "abc").await;
    let (status, _, body) = parts(&slow);
    assert_eq!((status, Answer::read(status, body).status), (408, 408), "{slow}");
    for torn in ["POST", "\0\0\0\0\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET /a b HTTP/1.1\r\n\r\n"] {
        let told = raw(port, torn.as_bytes()).await;
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 4"), "{torn:?}: {told}");
    }
    let huge = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let told = raw(port, huge.as_bytes()).await;
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 431"), "{told}");
    assert_eq!(world.lockstep.http("GET", "/healthz").await.unwrap().0, 200);
}

/// Texts that stand in rows, questions and configurations of this test and nowhere else.
const PRIVATE: [&str; 6] =
    ["ann@example.com", "31337.5", "41414.5", "user-4711", "an-operators-token", "a-guessed-token"];

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_log_nor_an_error_holds_a_word_of_a_row_or_a_question() {
    let schema = include_str!("../../harness/schema.sql");
    let schema =
        schema.replace("id                  int", "id text").replace("user_id        int", "user_id text");
    let config = format!("{}[log]\nlevel = \"info,lockstep=debug\"\n", super::UNHEALED);
    let setup = Setup { schema: Some(schema), config, ..Setup::on(On::Single) };
    let world = World::running_as(setup).await;
    let insert = "INSERT INTO users (id, user_type, email, wallet_balance)";
    world.sql(&format!("{insert} VALUES ('user-4711', 'live', 'ann@example.com', 31337.5)")).await;
    world.caught_up().await;
    world.store.set("user_balance:live:user-4711", "41414.5").await;
    let mut errors = Vec::new();
    for (method, path, headers) in [
        ("GET", consistency("user-4711%7B"), None),
        ("GET", format!("{}?userType=user-4711", consistency("user-4711")), None),
        ("GET", consistency("user-4711"), Some("Authorization: Bearer a-guessed-token\r\n")),
        ("GET", "/user-4711".to_owned(), None),
        ("DELETE", consistency("user-4711"), None),
    ] {
        let (status, body) = match headers {
            None => world.lockstep.http(method, &path).await.unwrap(),
            Some(headers) => world.lockstep.http_with(method, &path, headers).await.unwrap(),
        };
        assert!(status >= 400, "{status} {body}");
        errors.push(body);
    }
    let found = super::compared(&world, "user-4711").await;
    assert_eq!(found["redis_balance_cache"]["wallet_balance"], Value::from(41414.5));
    assert_eq!(super::post(&world, &force_refresh("user-4711")).await.status, 200);
    world.sql("UPDATE users SET wallet_balance = 'NaN'").await;
    world.caught_up().await;
    errors.push(super::post(&world, &force_refresh("user-4711")).await.json.to_string());
    world.store.single().pause();
    let away = super::get(&world, &consistency("user-4711")).await;
    assert!(away.status >= 500, "{}", away.json);
    errors.push(away.json.to_string());
    world.store.single().resume();
    world.lockstep.wait_ready().await;
    let log = world.lockstep.log();
    assert!(log.contains("an operator had the keys of a user written again"), "{log}");
    for said in errors.iter().chain([&log]) {
        let found: Vec<&str> = PRIVATE.into_iter().filter(|text| said.contains(text)).collect();
        assert_eq!(found, [] as [&str; 0], "in: {said}");
    }
}
