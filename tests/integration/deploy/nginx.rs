//! The four health routes under the application's own origin, by a real nginx with the project's snippet.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{content, read};
use crate::harness::lockstep::ask;
use crate::harness::process::{Process, folder, free_port, guarded};
use crate::harness::{Lockstep, On, World, eventually, eventually_ok};

const STATUS: &str = "/api/redis-health/status";
const CLUSTER_INFO: &str = "/api/redis-health/cluster-info";
const CONSISTENCY: &str = "/api/redis-health/user/7/consistency?userType=live";
const FORCE_REFRESH: &str = "/api/redis-health/user/7/force-refresh?userType=live";

/// What the application answers to every path of its own.
const APPLICATION: &str = "the application";

/// The application's web server; killed on drop.
struct Nginx {
    _process: Process,
    _folder: TempDir,
    port: u16,
}

impl Nginx {
    async fn start(instances: &[&Lockstep]) -> Nginx {
        let (folder, port) = (folder("nginx-"), free_port());
        let at = |name: &str| folder.path().join(name).display().to_string();
        let servers: String = instances
            .iter()
            .map(|instance| format!("server 127.0.0.1:{} max_fails=0;\n", instance.http_port()))
            .collect();
        let (snippet, upstream) = (read("deploy/nginx/lockstep.conf"), read("deploy/nginx/upstream.conf"));
        let one = "server 127.0.0.1:9855 max_fails=0;\n";
        assert!(upstream.contains(one), "{upstream}");
        std::fs::write(at("lockstep.conf"), snippet).unwrap();
        std::fs::write(at("upstream.conf"), upstream.replace(one, &servers)).unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|of| format!("{of}_temp_path {};\n", at(of)))
            .concat();
        let configuration = format!(
            "daemon off;\nworker_processes 1;\npid {};\nerror_log {} info;\nevents {{}}\nhttp {{\n\
             access_log off;\n{temporary}include upstream.conf;\nserver {{\nlisten 127.0.0.1:{port};\n\
             include lockstep.conf;\nlocation / {{ return 404 \"{APPLICATION}\"; }}\n}}\n}}\n",
            at("pid"),
            at("log")
        );
        let file = at("nginx.conf");
        std::fs::write(&file, configuration).unwrap();
        // Debian's is where only root looks.
        let program = ["/usr/sbin/nginx", "nginx"].into_iter().find(|p| std::path::Path::new(p).exists());
        let program = program.unwrap_or("nginx");
        let log = at("log");
        content(program, &["-e", &log, "-t", "-q", "-c", &file]);
        let mut command = guarded(program, None);
        command.args(["-e", &log, "-c", &file]);
        let nginx = Nginx { _process: Process::spawn(command).expect("nginx"), _folder: folder, port };
        let answers = eventually_ok(async || ask(port, "GET", "/", "").await).await;
        assert_eq!(answers.expect("nginx answers"), (404, APPLICATION.to_owned()));
        nginx
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        ask(self.port, method, path, headers).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// An answer of Lockstep in its envelope.
    async fn answer(&self, method: &str, path: &str, headers: &str) -> (u16, Value) {
        let (status, body) = self.ask(method, path, headers).await;
        let answer: Value =
            serde_json::from_str(&body).unwrap_or_else(|_| panic!("{method} {path}: {status} {body}"));
        assert_eq!(answer["success"], json!(status == 200), "{method} {path}: {status} {answer}");
        (status, answer)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_four_health_routes_answer_under_the_applications_origin_to_who_has_the_token() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100.5").await;
    world.caught_up().await;
    let nginx = Nginx::start(&[&world.lockstep]).await;
    let bearer = world.lockstep.bearer();
    let (status, answer) = nginx.answer("GET", STATUS, "").await;
    assert_eq!((status, &answer["data"]["replication"]["state"]), (200, &json!("streaming")));
    let (status, answer) = nginx.answer("GET", CONSISTENCY, &bearer).await;
    assert_eq!((status, &answer["data"]["is_consistent"]), (200, &json!(true)), "{answer}");
    let (status, answer) = nginx.answer("POST", FORCE_REFRESH, &bearer).await;
    assert_eq!((status, &answer["data"]["user_id"]), (200, &json!(7)), "{answer}");
    let (status, answer) = nginx.answer("GET", CLUSTER_INFO, &bearer).await;
    assert_eq!((status, &answer["data"]["complete"]), (200, &json!(true)), "{answer}");

    let of_the_user = [("GET", CONSISTENCY), ("POST", FORCE_REFRESH), ("GET", CLUSTER_INFO)];
    let wrong = "Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n";
    let cookie = format!("Cookie: {}", bearer.replace("Authorization: Bearer ", "token="));
    for (method, path) in of_the_user {
        for headers in ["", wrong, &cookie] {
            assert_eq!(nginx.answer(method, path, headers).await.0, 401, "{method} {path} {headers}");
        }
    }
    assert_eq!(nginx.answer("GET", FORCE_REFRESH, &bearer).await.0, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_route_is_reached_through_the_applications_origin() {
    let world = World::running(On::Single).await;
    let nginx = Nginx::start(&[&world.lockstep]).await;
    let (_, document) = world.lockstep.http("GET", "/api/openapi.json").await.unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let routes = document["paths"].as_object().unwrap().keys();
    let (exposed, others): (Vec<&String>, Vec<&String>) = routes.partition(|route| {
        let path = route.replace("{userId}", "7");
        [STATUS, CLUSTER_INFO, CONSISTENCY, FORCE_REFRESH].iter().any(|known| known.starts_with(&path))
    });
    assert!(exposed.len() == 4 && others.len() > 6, "{exposed:?} {others:?}");
    let tricks = [
        "/api/redis-health/status/",
        "/api/redis-health/user/7",
        "/api/redis-health/user/7/consistency/../../../../lockstep/state",
        "/api/redis-health/user/..%2f..%2f..%2fmetrics/consistency",
        "/api/redis-health/user//consistency",
        "/API/redis-health/status",
        "//metrics",
    ];
    let bearer = world.lockstep.bearer();
    for path in others.into_iter().map(String::as_str).chain(tricks) {
        let answer = nginx.ask("GET", path, &bearer).await;
        assert_eq!(answer, (404, APPLICATION.to_owned()), "{path}");
    }
    // What nginx takes for one of the four and Lockstep does not is nothing there.
    let (status, answer) = nginx.answer("GET", "/metrics/..%2fapi/redis-health/status", &bearer).await;
    assert_eq!((status, &answer["success"]), (404, &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_pair_the_one_that_streams_refreshes_whichever_is_asked_first() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100.5").await;
    world.caught_up().await;
    let standby = world.standby().await;
    let nginx = Nginx::start(&[&standby, &world.lockstep]).await;
    let bearer = standby.bearer();
    for _ in 0..4 {
        assert_eq!(nginx.answer("POST", FORCE_REFRESH, &bearer).await.0, 200);
    }
    // While neither streams, the envelope says so: one is gone, the other refuses.
    world.lockstep.kill9();
    eventually("the second refreshes", async || {
        let (status, answer) = nginx.answer("POST", FORCE_REFRESH, &bearer).await;
        assert!(matches!(status, 200 | 503 | 504), "{status} {answer}");
        (status == 200).then_some(())
    })
    .await;
    standby.kill9();
    let (status, answer) = nginx.answer("GET", STATUS, "").await;
    assert_eq!((status, &answer["message"]), (503, &json!("lockstep is not reached")));
}
