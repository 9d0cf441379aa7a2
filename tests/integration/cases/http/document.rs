//! The document at `/api/openapi.json` is true: a fuzzer that reads it asks every call with arguments that are right,
//! missing, malformed, huge, hostile and repeated, and holds every answer against what the document declares.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{asked_often, parts, raw};
use crate::harness::workload::Dice;
use crate::harness::{On, Setup, World};

const TOKEN: &str = "an-operators-token-of-the-tests-0123456789";
/// Questions drawn beside those that are asked of every call.
const DRAWN: usize = 400;
/// Methods that some call is asked by, and others.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"];

/// What argument values are drawn from; as they stand in an address.
const ODD: [&str; 26] = [
    "",
    "abc",
    "007",
    "-1",
    "0",
    "7.0",
    "1e3",
    "+7",
    "%2B7",
    "99999999999999999999",
    "2147483648",
    "%00",
    "%ff",
    "%7B7%7D",
    "7%0d%0aX:%201",
    "%F0%9F%98%80",
    "a%2Fb",
    "..%2F..",
    "'%20OR%201=1--",
    "%25s%25n",
    "*",
    "live:7",
    "null",
    "true",
    "[]",
    "%C0%80",
];

struct Document(Value);

/// One call of the document.
struct Call<'d> {
    path: &'d str,
    method: String,
    operation: &'d Value,
}

#[derive(Debug, Clone)]
struct Question {
    method: String,
    address: String,
    token: Option<&'static str>,
    body: String,
}

impl Document {
    async fn fetch(world: &World) -> Document {
        let (status, body) = world.lockstep.http_with("GET", "/api/openapi.json", "").await.unwrap();
        assert_eq!(status, 200, "{body}");
        Document(serde_json::from_str(&body).unwrap())
    }

    fn calls(&self) -> Vec<Call<'_>> {
        let mut calls = Vec::new();
        for (path, item) in self.0["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                calls.push(Call { path, method: method.to_uppercase(), operation });
            }
        }
        calls
    }

    /// # Panics
    /// Where the value is not as the schema says.
    fn validate(&self, schema: &Value, value: &Value, of: &str) {
        let whole = json!({ "allOf": [schema], "components": self.0["components"] });
        let validator = jsonschema::draft202012::new(&whole).expect("a schema");
        let errors: Vec<String> = validator.iter_errors(value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{of}: {errors:#?} in {value:#}");
    }

    /// # Panics
    /// Where the answer is none that the document declares for this call.
    fn judge(&self, call: &Call<'_>, question: &Question, answer: &str) -> u16 {
        let (status, head, body) = parts(answer);
        let of =
            format!("{} {:.200} (token {:?}): {status}", question.method, question.address, question.token);
        let declared = match status {
            405 if question.method != call.method => &json!({
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Failure" } } }
            }),
            _ => &call.operation["responses"][status.to_string()],
        };
        assert!(declared.is_object(), "{of} is not declared: {body}");
        let (kind, content) = declared["content"].as_object().unwrap().iter().next().unwrap();
        assert!(head.to_lowercase().contains(&format!("content-type: {kind}")), "{of}: {head}");
        for header in declared["headers"].as_object().into_iter().flatten() {
            assert!(head.to_lowercase().contains(&header.0.to_lowercase()), "{of}: {} in {head}", header.0);
        }
        if kind == "application/json" {
            let body: Value =
                serde_json::from_str(body).unwrap_or_else(|error| panic!("{of}: {error} {body}"));
            self.validate(&content["schema"], &body, &of);
        }
        status
    }
}

impl Call<'_> {
    fn is_guarded(&self) -> bool {
        self.operation["security"].is_array()
    }

    /// With right arguments: users whom the world has, and positions that are reached.
    fn right(&self) -> Question {
        let address = self.path.replace("{userId}", "7");
        let query = match &address {
            wait if wait.ends_with("/wait") => "?lsn=0/1&timeout_ms=100",
            events if events.ends_with("/events") => "?count=1",
            _ => "",
        };
        let (method, token, body) = (self.method.clone(), Some(TOKEN), String::new());
        Question { method, address: format!("{address}{query}"), token, body }
    }

    fn draw(&self, dice: &mut Dice) -> Question {
        let mut address = self.path.to_owned();
        let mut query = Vec::new();
        for parameter in self.operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            if parameter["in"] == "path" {
                // An empty one is another path.
                let value = value(dice, "7");
                address =
                    address.replace(&format!("{{{name}}}"), if value.is_empty() { "7" } else { &value });
                continue;
            }
            let right = match name {
                "lsn" => "0/1",
                "timeout_ms" => "50",
                "count" => "1",
                _ => "live",
            };
            // Missing, once, or repeated.
            let times = [1, 1, 1, 0, 2, 3][dice.below(6) as usize];
            // Where it is missing the answer has no end.
            for _ in 0..if name == "count" { 1.max(times) } else { times } {
                let value = value(dice, right);
                query.push(if dice.below(10) == 0 { name.to_owned() } else { format!("{name}={value}") });
            }
        }
        if dice.below(4) == 0 {
            query.push(format!("{}={}", value(dice, "unknown"), value(dice, "x")));
        }
        if !query.is_empty() {
            address = format!("{address}?{}", query.join("&"));
        }
        let method = match dice.below(6) {
            0 => METHODS[dice.below(METHODS.len() as u64) as usize].to_owned(),
            _ => self.method.clone(),
        };
        let token = [Some(TOKEN), Some(TOKEN), Some(TOKEN), Some(TOKEN), None, Some("a-guess")]
            [dice.below(6) as usize];
        let body = match dice.below(8) {
            0 => "{\"userType\":\"demo\"}".to_owned(),
            1 => "\u{0}\u{7f}".repeat(500),
            2 => "x".repeat(20_000),
            _ => String::new(),
        };
        Question { method, address, token, body }
    }
}

fn value(dice: &mut Dice, right: &str) -> String {
    match dice.below(8) {
        0..=2 => right.to_owned(),
        3 => "9".repeat(1 + dice.below(9_000) as usize),
        4 => (0..1 + dice.below(40)).map(|_| format!("%{:02x}", dice.below(256))).collect(),
        _ => ODD[dice.below(ODD.len() as u64) as usize].to_owned(),
    }
}

async fn put(world: &World, question: &Question) -> String {
    let Question { method, address, token, body } = question;
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{method} {address} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}{length}\r\n");
    raw(world.lockstep.http_port(), format!("{head}{body}").as_bytes()).await
}

async fn world() -> World {
    let world = World::set_up(Setup { config: super::UNHEALED.to_owned(), ..Setup::on(On::Single) }).await;
    asked_often(&world);
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.user("live", 7, "100.5").await;
    world.user("demo", 8, "123456789012.123456").await;
    world.caught_up().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_one_that_the_document_declares() {
    let world = world().await;
    let document = Document::fetch(&world).await;
    // What differs has a form as well.
    world.store.set("user_balance:live:7", "90").await;
    for call in document.calls() {
        let right = call.right();
        assert_eq!(document.judge(&call, &right, &put(&world, &right).await), 200, "{right:?}");
        for token in [None, Some("a-guess")].into_iter().filter(|_| call.is_guarded()) {
            let question = Question { token, ..call.right() };
            assert_eq!(document.judge(&call, &question, &put(&world, &question).await), 401);
        }
        for method in METHODS.into_iter().filter(|method| *method != call.method) {
            let question = Question { method: method.to_owned(), ..call.right() };
            let status = document.judge(&call, &question, &put(&world, &question).await);
            assert!(matches!(status, 401 | 405), "{question:?}: {status}");
        }
    }
    let mut dice = Dice(20_261);
    let mut statuses: BTreeMap<u16, u32> = BTreeMap::new();
    for drawn in 0..DRAWN {
        let calls = document.calls();
        // The calls with arguments more often.
        let with_arguments = |call: &&Call<'_>| call.operation["parameters"].is_array();
        let of: Vec<&Call<'_>> = match drawn % 4 {
            0 => calls.iter().collect(),
            _ => calls.iter().filter(with_arguments).collect(),
        };
        let call = of[dice.below(of.len() as u64) as usize];
        let question = call.draw(&mut dice);
        let status = document.judge(call, &question, &put(&world, &question).await);
        *statuses.entry(status).or_default() += 1;
    }
    println!("{statuses:?}");
    for status in [200, 400, 401, 404, 405, 413, 414] {
        assert!(statuses.contains_key(&status), "{status} never came: {statuses:?}");
    }
    // Nothing of it harmed anybody.
    world.credit(7, "1").await;
    world.caught_up().await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("101.5"));
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_every_answer_while_redis_is_down() {
    let world = world().await;
    let document = Document::fetch(&world).await;
    world.store.single().kill9();
    world.lockstep.is_not_ready_because("redis").await;
    for call in document.calls() {
        let right = call.right();
        let status = document.judge(&call, &right, &put(&world, &right).await);
        let alive = [
            "/healthz",
            "/metrics",
            "/api/openapi.json",
            "/api/redis-health/cluster-info",
            "/api/lockstep/state",
            "/api/lockstep/events",
            "/api/lockstep/recent",
        ]
        .contains(&call.path);
        assert!(alive == (status == 200), "{right:?}: {status}");
    }
    world.store.single().start_again().await;
    world.lockstep.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_has_every_call_of_the_readme_and_no_other() {
    let world = world().await;
    let document = Document::fetch(&world).await;
    document.validate(
        &json!({ "type": "object", "required": ["openapi", "info", "paths"] }),
        &document.0,
        "it",
    );
    assert!(document.0["openapi"].as_str().unwrap().starts_with("3.1."));
    let readme = include_str!("../../../../README.md");
    let section =
        readme.split("\n## HTTP\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let rows = section.lines().filter(|line| line.starts_with("| `GET ") || line.starts_with("| `POST "));
    let mut told: Vec<String> = rows
        .map(|row| row.split('`').nth(1).unwrap().split('?').next().unwrap().replace(":userId", "{userId}"))
        .collect();
    let mut declared: Vec<String> =
        document.calls().iter().map(|call| format!("{} {}", call.method, call.path)).collect();
    told.sort();
    declared.sort();
    assert_eq!(told, declared);
}

/// Names and kinds of a JSON value, without what it says.
fn form(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), form(value))).collect(),
        Value::Array(items) => items.first().map(form).into_iter().collect(),
        Value::String(_) => "text".into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) => "bool".into(),
        Value::Null => Value::Null,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_readme_are_answers() {
    let world = world().await;
    world.sql("UPDATE users SET account_number = 'ACC00000007' WHERE id = 7").await;
    world.caught_up().await;
    world.store.set("user_balance:live:7", "90.25").await;
    let readme = include_str!("../../../../README.md");
    let section =
        readme.split("\n## HTTP\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let mut examples = 0;
    for block in section.split("```console\n").skip(1) {
        let (command, shown) =
            block.split("```").next().and_then(|block| block.split_once('\n')).expect("a command");
        let method = if command.contains("-X POST") { "POST" } else { "GET" };
        let address = command.split("127.0.0.1:9855").nth(1).expect("an address").trim_end_matches('"');
        let (_, body) = world.lockstep.http(method, address).await.unwrap();
        println!("{command}\n{body}");
        let told: Value = serde_json::from_str(&body).unwrap();
        // What is left out of an example is shown as a text of three dots.
        let shown: Value = serde_json::from_str(shown).unwrap_or_else(|error| panic!("{error}: {shown}"));
        assert_eq!(form(&pruned(&told, &shown)), form(&pruned(&shown, &told)), "{command}");
        examples += 1;
    }
    assert!(examples >= 3, "{examples}");
}

/// Without what the other one shows as three dots.
fn pruned(value: &Value, other: &Value) -> Value {
    let dots = Value::from("...");
    if *value == dots || *other == dots {
        return Value::Null;
    }
    match (value, other) {
        (Value::Object(fields), Value::Object(others)) => {
            let field = |(name, value): (&String, &Value)| {
                (name.clone(), pruned(value, others.get(name).unwrap_or(&Value::Null)))
            };
            fields.iter().map(field).collect()
        }
        (Value::Array(items), Value::Array(others)) => match (items.first(), others.first()) {
            (Some(item), Some(other)) => vec![pruned(item, other)].into(),
            _ => value.clone(),
        },
        _ => value.clone(),
    }
}
