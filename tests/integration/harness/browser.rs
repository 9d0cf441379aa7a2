//! A real Chromium without a window, driven over the pipe of its DevTools protocol: what a person sees and does.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::folder;
use super::{PATIENCE, eventually_ok};

/// How large a window is, and in which colours.
#[derive(Debug, Clone, Copy)]
pub struct View {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
    pub phone: bool,
}

pub const DESKTOP: View = View { width: 1280, height: 900, dark: false, phone: false };
pub const DARK: View = View { dark: true, ..DESKTOP };
pub const PHONE: View = View { width: 375, height: 812, dark: false, phone: true };

/// One page in a browser of its own; both end on drop.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    /// Where its profile is.
    _folder: TempDir,
    pipe: Mutex<Pipe>,
    session: String,
}

#[derive(Debug)]
struct Pipe {
    to: ChildStdin,
    from: Receiver<Value>,
    sent: u64,
    /// Events that came meanwhile.
    events: Vec<Value>,
}

impl Pipe {
    fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut text = message.to_string().into_bytes();
        text.push(0);
        self.to.write_all(&text).and_then(|()| self.to.flush()).expect("the browser takes commands");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.from.recv_timeout(left).unwrap_or_else(|_| panic!("no answer to {message}"));
            if answer["id"] != self.sent {
                self.events.push(answer);
                continue;
            }
            assert!(answer["error"].is_null(), "{message}: {answer}");
            return answer["result"].clone();
        }
    }

    /// Takes in what has come without a question.
    fn drain(&mut self) {
        while let Ok(event) = self.from.recv_timeout(Duration::from_millis(1)) {
            self.events.push(event);
        }
    }
}

impl Browser {
    /// Opens an address.
    pub fn open(address: &str, view: View) -> Browser {
        let folder = folder("lockstep-browser-");
        let program = ["chromium", "chromium-browser"].into_iter().find(|name| is_installed(name));
        let program = program.expect("chromium: tests/run installs it");
        let mut command = Command::new("setpriv");
        // The protocol speaks on the descriptors 3 and 4; the pipes of a child are 0 and 1.
        command.args([
            "--pdeathsig",
            "KILL",
            "--",
            "sh",
            "-c",
            "exec \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null 2>&1",
            "sh",
            program,
        ]);
        command.args([
            "--headless=new",
            "--remote-debugging-pipe",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ]);
        command.args(["--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking"]);
        command.args([
            "--disable-component-update",
            "--no-default-browser-check",
            "--hide-scrollbars",
            "--mute-audio",
        ]);
        command.arg(format!("--user-data-dir={}", folder.path().display())).arg("about:blank");
        command.env("HOME", folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the browser starts");
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut pipe = Pipe { to, from: reader(from), sent: 0, events: Vec::new() };
        let target = pipe.call(None, "Target.createTarget", json!({ "url": "about:blank" }));
        let attached = pipe.call(
            None,
            "Target.attachToTarget",
            json!({ "targetId": target["targetId"], "flatten": true }),
        );
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        let browser = Browser { child, _folder: folder, pipe: Mutex::new(pipe), session };
        for domain in ["Page.enable", "Runtime.enable", "Network.enable", "Log.enable"] {
            browser.call(domain, json!({}));
        }
        browser.look_as(view);
        browser.call("Page.navigate", json!({ "url": address }));
        browser
    }

    /// Another window, other colours.
    pub fn look_as(&self, view: View) {
        let View { width, height, dark, phone } = view;
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone }),
        );
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features);
    }

    pub fn call(&self, method: &str, params: Value) -> Value {
        let mut pipe = self.pipe.lock().unwrap();
        pipe.call(Some(&self.session), method, params)
    }

    /// The value of an expression in the page.
    pub fn evaluate(&self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// What an element says.
    pub fn text(&self, id: &str) -> String {
        let found = self.evaluate(&format!("(document.getElementById({id:?}) || {{}}).innerText || ''"));
        found.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an element says these words, and returns all that it says.
    pub async fn says(&self, id: &str, words: &str) -> String {
        let said = eventually_ok(async || {
            let text = self.text(id);
            if text.contains(words) { Ok(text) } else { Err(text) }
        });
        said.await.unwrap_or_else(|text| panic!("#{id} does not say {words:?}, but {text:?}"))
    }

    /// Presses keys as a person does; `Tab`, `Enter` and `Backspace` are keys, everything else is typed.
    pub fn press(&self, keys: &[&str]) {
        for key in keys {
            let code = match *key {
                "Tab" => 9,
                "Enter" => 13,
                "Backspace" => 8,
                text => {
                    self.call("Input.insertText", json!({ "text": text }));
                    continue;
                }
            };
            let text = if code == 13 { json!("\r") } else { Value::Null };
            for kind in ["keyDown", "keyUp"] {
                let mut event =
                    json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
                if kind == "keyDown" && text.is_string() {
                    event["text"] = text.clone();
                }
                self.call("Input.dispatchKeyEvent", event);
            }
        }
    }

    /// Which element has the focus, by id.
    pub fn focus(&self) -> String {
        self.evaluate("document.activeElement.id").as_str().unwrap_or_default().to_owned()
    }

    /// Fills an input as somebody who types.
    pub fn fill(&self, id: &str, text: &str) {
        self.evaluate(&format!("{{ const e = document.getElementById({id:?}); e.focus(); e.select(); }}"));
        self.press(&[text]);
    }

    pub fn click(&self, id: &str) {
        self.evaluate(&format!("document.getElementById({id:?}).click()"));
    }

    /// The addresses that were asked for.
    pub fn asked(&self) -> Vec<String> {
        let requests = self.events("Network.requestWillBeSent");
        requests
            .iter()
            .filter_map(|event| event["params"]["request"]["url"].as_str())
            .map(str::to_owned)
            .collect()
    }

    /// What the page complained of: errors of its script, and what its policy forbade.
    pub fn complaints(&self) -> Vec<String> {
        let thrown = self.events("Runtime.exceptionThrown");
        let logged = self.events("Log.entryAdded");
        let security = logged.into_iter().filter(|event| {
            let entry = &event["params"]["entry"];
            entry["source"] == "security" || entry["source"] == "javascript"
        });
        thrown.into_iter().chain(security).map(|event| event.to_string()).collect()
    }

    fn events(&self, method: &str) -> Vec<Value> {
        let mut pipe = self.pipe.lock().unwrap();
        pipe.drain();
        pipe.events.iter().filter(|event| event["method"] == method).cloned().collect()
    }

    /// The whole page as a picture under `target/screenshots`.
    pub fn screenshot(&self, name: &str) -> PathBuf {
        self.picture(name, true)
    }

    /// What the window shows of it.
    pub fn screenshot_of_window(&self, name: &str) -> PathBuf {
        self.picture(name, false)
    }

    fn picture(&self, name: &str, whole: bool) -> PathBuf {
        let params = json!({ "format": "png", "captureBeyondViewport": whole });
        let picture = self.call("Page.captureScreenshot", params);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{name}.png"));
        std::fs::write(&path, decoded(picture["data"].as_str().unwrap())).unwrap();
        path
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Messages end with a zero byte.
fn reader(from: ChildStdout) -> Receiver<Value> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        loop {
            let mut message = Vec::new();
            match from.read_until(0, &mut message) {
                Ok(n) if n > 0 => {}
                _ => return,
            }
            message.pop();
            let Ok(value) = serde_json::from_slice(&message) else { return };
            if send.send(value).is_err() {
                return;
            }
        }
    });
    receive
}

fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Base64.
fn decoded(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for six in text.bytes().filter_map(|byte| ALPHABET.iter().position(|known| *known == byte)) {
        bits = bits << 6 | u32::try_from(six).unwrap();
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).unwrap());
        }
    }
    bytes
}
