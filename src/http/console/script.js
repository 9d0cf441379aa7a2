"use strict";
// Everything that is shown is set as text: no answer is ever read as markup.

const KEPT_SECONDS = 600; // what a chart shows at most
const LEAST_SECONDS = 60; // and at least
const WINDOW_SECONDS = 10; // what a percentile is taken over
const SILENT_MS = 5000; // without a word for so long, the instance is away
const MASK = "•••";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function make(space, name, attributes, children) {
  const node = space ? document.createElementNS(space, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) if (value !== undefined && value !== null) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (name, attributes, ...children) => make(null, name, attributes, children);
const svg = (name, attributes, ...children) => make(SVG, name, attributes, children);

// Tables are made again only where something changed: focus and scroll position stay.
const shown = new Map();
function put(id, facts, build) {
  const text = JSON.stringify(facts);
  if (shown.get(id) === text) return;
  shown.set(id, text);
  $(id).replaceChildren(...build(facts));
}

const whole = new Intl.NumberFormat("en");
const count = (n) => whole.format(n);
function bytes(n) {
  if (n === null) return "–";
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 1024]]) if (n >= size) return (n / size).toFixed(1) + " " + unit;
  return Math.round(n) + " B";
}
function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s === 0) return "0 s";
  if (s < 0.001) return Math.round(s * 1e6) + " µs";
  if (s < 1) return (s * 1000).toPrecision(3).replace(/\.0+$/, "") + " ms";
  if (s < 120) return s.toFixed(1) + " s";
  return span(s);
}
function span(s) {
  const days = Math.floor(s / 86400), hours = Math.floor(s / 3600) % 24, minutes = Math.floor(s / 60) % 60;
  if (days) return days + " d " + hours + " h";
  if (hours) return hours + " h " + minutes + " min";
  return minutes ? minutes + " min" : Math.floor(s) + " s";
}
const rate = (n) => (n === null ? "–" : (n < 10 ? n.toFixed(1) : count(Math.round(n))) + " /s");

function word(id, state, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
  $(id).dataset.state = state;
}
const facts = (id, rows) =>
  put(id, rows.filter((row) => row), (rows) => rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));

// ---- charts ----

const samples = []; // {t, rate, seconds, bytes, p50, p95, p99}
const states = []; // the histograms of the last seconds

function percentile(latency, before, share) {
  const within = latency.within.map((n, i) => n - before.within[i]);
  const all = latency.count - before.count;
  if (all <= 0) return null;
  const wanted = share * all;
  for (let i = 0; i < within.length; i++) {
    if (within[i] < wanted) continue;
    const low = i ? latency.bounds[i - 1] : 0, below = i ? within[i - 1] : 0;
    return low + (latency.bounds[i] - low) * ((wanted - below) / (within[i] - below));
  }
  return latency.bounds[latency.bounds.length - 1];
}

function sample(state) {
  const now = state.uptime_seconds;
  const last = states[states.length - 1];
  if (last && now < last.uptime_seconds) { states.length = 0; samples.length = 0; } // it was started again
  const before = states[states.length - 1];
  states.push(state);
  while (states.length > 2 && states[0].uptime_seconds < now - WINDOW_SECONDS) states.shift();
  const events = (of) => Object.values(of.counts.events).reduce((sum, n) => sum + n, 0);
  const elapsed = before ? now - before.uptime_seconds : 0;
  if (before && elapsed <= 0) return;
  const from = states[0];
  const p = (share) => (from === state ? null : percentile(state.latency, from.latency, share));
  samples.push({
    t: now, rate: before ? (events(state) - events(before)) / elapsed : null,
    seconds: state.stream.lag_seconds, bytes: state.stream.lag_bytes, p50: p(0.5), p95: p(0.95), p99: p(0.99),
  });
  while (samples[0].t < now - KEPT_SECONDS) samples.shift();
}

const CHARTS = [
  { id: "c-rate", title: "Throughput", series: [["rate", "events"]], unit: rate, least: 1 },
  { id: "c-seconds", title: "Lag in time", series: [["seconds", "oldest commit that Redis lacks"]], unit: seconds, least: 0.001 },
  { id: "c-bytes", title: "Lag in WAL", series: [["bytes", "not yet in Redis"]], unit: bytes, least: 1024 },
  { id: "c-latency", title: "Commit to Redis", series: [["p50", "p50"], ["p95", "p95"], ["p99", "p99"]], unit: seconds, least: 0.001 },
];

// The top of an axis: 1, 2 or 5 times a power of ten, so that it seldom moves.
function ceiling(max, least, binary) {
  const base = Math.max(max, least);
  if (binary) return 2 ** Math.ceil(Math.log2(base));
  const power = 10 ** Math.floor(Math.log10(base));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= base * 0.999);
}

function draw(chart) {
  const { id, title, series, unit, least } = chart;
  const W = 600, H = 100;
  const end = samples.length ? samples[samples.length - 1].t : 0;
  const last = samples[samples.length - 1] || {};
  const shown = Math.max(LEAST_SECONDS, end - (samples.length ? samples[0].t : 0));
  const values = samples.flatMap((s) => series.map(([name]) => s[name])).filter((v) => v !== null && v !== undefined);
  const high = ceiling(Math.max(0, ...values), least, unit === bytes);
  const x = (t) => (W - ((end - t) / shown) * W).toFixed(1), y = (v) => (H - (v / high) * H).toFixed(1);
  const lines = series.map(([name], n) => {
    let path = "", gap = true, before = null;
    for (const s of samples) {
      if (s[name] === null || s[name] === undefined) { gap = true; continue; }
      if (before !== null && s.t - before > SILENT_MS / 1000) gap = true;
      path += (gap ? "M" : "L") + x(s.t) + " " + y(s[name]);
      gap = false; before = s.t;
    }
    return svg("path", { class: "line s" + n, d: path || undefined });
  });
  const grid = [0, 0.5, 1].map((share) => svg("line", { class: "grid", x1: 0, x2: W, y1: H * share, y2: H * share }));
  const now = series.map(([name, label], n) => unit(last[name] === undefined ? null : last[name]));
  const plot = svg("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", x: 0, y: 14, width: "100%", height: "98" }, ...grid, ...lines);
  const picture = svg("svg", { role: "img", "aria-label": `${title}, now ${series.map(([, label], n) => label + " " + now[n]).join(", ")}` },
    plot,
    svg("text", { x: 0, y: 10 }, unit(high)), svg("text", { x: 0, y: 128 }, (shown < 120 ? Math.round(shown) + " s" : Math.round(shown / 60) + " min") + " ago"),
    svg("text", { x: "100%", y: 128, "text-anchor": "end" }, "now"));
  const legend = series.length === 1
    ? [el("b", {}, now[0]), el("span", { class: "key s0" }, series[0][1])]
    : series.map(([, label], n) => el("span", { class: "key s" + n }, label + " ", el("b", {}, now[n])));
  $(id).replaceChildren(el("figcaption", {}, title, ...legend), picture);
}

// ---- state ----

const SAYS = {
  stream: { streaming: ["good", "streaming"], standby: ["warn", "standby"], starting: ["warn", "starting"],
    making_slot: ["warn", "waiting for a new slot"], reconnecting: ["bad", "reconnecting"] },
  overall: { ready: ["good", "ready"], standby: ["warn", "standby"], not_ready: ["bad", "not ready"] },
};

function showState(state) {
  const [overall, said] = SAYS.overall[state.state] || ["unknown", state.state];
  // Who only loads or starts is not ready, and nothing is wrong.
  const passing = overall === "bad" && !state.faults.length;
  word("overall", passing ? "warn" : overall, said);
  document.title = said + " · Lockstep";
  $("about").textContent = `up ${span(state.uptime_seconds)} · ${state.timestamp.slice(11, 19)} UTC`;
  $("slot-name").textContent = state.slot.name;
  $("version").textContent = state.version;
  $("alerts").dataset.state = passing ? "warn" : overall;
  const told = [...state.reasons];
  if (state.postgres.fault && !told.some((reason) => reason.includes("postgres"))) told.push(state.postgres.fault);
  put("alerts", told, (reasons) => reasons.map((reason) => el("p", {}, reason)));
  showSides(state);
  showRedis(state.redis, state.counts);
  showLoad(state.load, state.counts);
  const open = state.counts.quarantine_open;
  word("quarantine-count", open ? "warn" : "good", open ? count(open) + " open" : "none open");
  if (!token) {
    showEvents(state.recent, false);
    $("quarantine-says").textContent = open ? "The list needs the operator's token." : "";
    $("quarantine-scroll").hidden = true;
  }
}

function showSides({ postgres, slot, stream }) {
  word("postgres", postgres.reachable ? "good" : "bad", postgres.reachable ? "reachable" : "away");
  facts("postgres-facts", [["reconnects", count(postgres.reconnects)], ["acknowledged", stream.confirmed_lsn], ["slot confirmed", slot.confirmed_flush_lsn || "–"]]);
  if (slot.exists === null) word("slot", "unknown", "not known");
  else if (!slot.exists) word("slot", "bad", "missing");
  else if (slot.lost_because) word("slot", "bad", "lost");
  else if (slot.active) word("slot", "good", "in use");
  else word("slot", "warn", "nobody streams");
  facts("slot-facts", [["WAL status", slot.lost_because || slot.wal_status || "–"], ["restart LSN", slot.restart_lsn || "–"], ["given up", count(slot.given_up)]]);
  const behind = stream.lag_seconds > stream.ready_lag_seconds;
  const [good, said] = SAYS.stream[stream.state] || ["unknown", stream.state];
  word("stream", behind && good === "good" ? "warn" : good, behind && good === "good" ? "behind" : said);
  facts("stream-facts", [["lag", `${seconds(stream.lag_seconds)}, ${bytes(stream.lag_bytes)}`], ["received", stream.received_lsn],
    ["in Redis", stream.applied_lsn], ["in flight", count(stream.in_flight)]]);
  const share = slot.retained_bytes / slot.retained_max_bytes;
  Object.assign($("wal"), { low: 0.5, high: 0.8, optimum: 0, value: Math.min(1, share) });
  $("wal-text").textContent = `${bytes(slot.retained_bytes)} of ${bytes(slot.retained_max_bytes)} (${(share * 100).toFixed(1)} %)`;
}

function showRedis(redis, counts) {
  const first = (node) => (node.slots.length ? node.slots[0][0] : 0);
  const nodes = redis.masters ? [...redis.masters.nodes].sort((a, b) => first(a) - first(b)) : [];
  const silent = nodes.filter((node) => !node.answers).length;
  if (!redis.masters) word("redis", redis.fault ? "bad" : "unknown", redis.fault ? "away" : "not reached yet");
  else if (silent) word("redis", "bad", nodes.length === 1 ? "away" : `${silent} of ${nodes.length} silent`);
  else if (redis.fault) word("redis", "bad", "not written");
  else if (!redis.masters.complete) word("redis", "bad", "slots without a master");
  else word("redis", "good", nodes.length === 1 ? "answers" : `all ${nodes.length} answer`);
  facts("redis-facts", [["mode", !redis.masters ? "–" : redis.masters.cluster ? "cluster" : "single"],
    ["reconnects", count(redis.reconnects)], ["skipped by fence", count(counts.skipped_by_fence)]]);
  put("slot-map", redis.masters && redis.masters.cluster ? nodes : [], (nodes) => nodes.length ? [slotMap(nodes)] : []);
  put("nodes", nodes, (nodes) => nodes.map((node, n) => {
    const slots = node.slots.reduce((sum, [first, last]) => sum + last - first + 1, 0);
    const ranges = node.slots.map(([first, last]) => (first === last ? String(first) : `${first}–${last}`)).join(", ");
    return el("tr", {},
      el("td", { class: "mono" }, node.slots.length ? el("span", { class: "swatch " + (node.answers ? "n" + (n % 6) : "away") }) : null, `${node.host}:${node.port}`),
      el("td", {}, el("span", { class: "word", "data-state": node.answers ? "good" : "bad" }, node.answers ? "answers" : "silent")),
      el("td", { class: "number" }, node.slots.length ? count(slots) : "all keys"), el("td", { class: "long" }, ranges));
  }));
}

function slotMap(nodes) {
  const rects = nodes.flatMap((node, n) => node.slots.map(([first, last]) => svg("rect",
    { class: node.answers ? "n" + (n % 6) : "away", x: first, y: 0, width: last - first + 1, height: 16 },
    svg("title", {}, `${node.host}:${node.port}, slots ${first} to ${last}${node.answers ? "" : ", silent"}`))));
  return svg("svg", { viewBox: "0 0 16384 16", preserveAspectRatio: "none", role: "img", "aria-label": "Which master owns which of the 16,384 slots" },
    svg("rect", { class: "away", x: 0, y: 0, width: 16384, height: 16 }, svg("title", {}, "no master")), ...rects);
}

function showLoad(load, counts) {
  word("load", load.loaded ? "good" : "warn", load.running.length ? load.running.join(", ") + " is running" : load.loaded ? "loaded" : "not loaded");
  const running = load.running.includes("load") || load.running.includes("resync");
  $("load-progress").hidden = !running;
  if (load.users_expected > 0) $("load-progress").value = Math.min(1, load.users / load.users_expected);
  else $("load-progress").removeAttribute("value");
  facts("load-facts", [load.users ? ["read", count(load.users)] : null, running && load.users_expected ? ["expected", "~" + count(Math.max(load.users, load.users_expected))] : null,
    ["healed", count(counts.healed)], ["audited", count(counts.audited)], ["found wrong", count(counts.mismatches)]]);
}

// ---- events and quarantine ----

function showEvents(events, whole) {
  put("events", [whole, events], () => events.length ? events.map((told) => {
    const event = (whole && told.event) || {};
    const changes = event.transactions || [];
    const hidden = (text) => whole ? el("td", {}, text === undefined || text === null ? "–" : String(text)) : el("td", { class: "masked", title: "needs the operator's token" }, MASK);
    const amount = (text) => { const cell = hidden(text); cell.classList.add("number"); return cell; };
    return el("tr", {}, el("td", {}, told.committed_at.slice(0, 10) + " " + told.committed_at.slice(11, 23)), el("td", {}, told.event_type),
      hidden(whole && event.user_type !== undefined ? `${event.user_type}:${event.user_id}` : null),
      amount((event.updated_fields || {}).wallet_balance), hidden(event.operation_type),
      amount(changes.length ? changes.map((change) => change.amount).join(", ") : null), el("td", { class: "mono" }, told.commit_lsn));
  }) : [el("tr", {}, el("td", { colspan: 7, class: "quiet" }, "none since the start"))]);
}

function showQuarantine(entries) {
  $("quarantine-scroll").hidden = !entries.length;
  $("quarantine-says").textContent = entries.length ? "Read again by: lockstep resync --quarantined" : "";
  put("quarantine", entries, (entries) => entries.map((entry) => el("tr", {},
    el("td", {}, entry.user ? entry.user.join(":") : "rows that touch no key"), el("td", { class: "long" }, entry.reason),
    el("td", {}, entry.table || "–"), el("td", {}, entry.committed_at || "–"), el("td", { class: "mono" }, entry.commit_lsn), el("td", { class: "number" }, count(entry.count)))));
}

// ---- the operator ----

let token = ""; // in this page only: it is gone with the tab

async function ask(path, method) {
  const headers = token ? { Authorization: "Bearer " + token } : {};
  try {
    const answer = await fetch(path, { method: method || "GET", headers, cache: "no-store" });
    const told = await answer.json();
    return { status: answer.status, ok: answer.ok, message: told.message, data: told.data };
  } catch (error) {
    return { status: 0, ok: false, message: "the instance does not answer", data: {} };
  }
}

function forget(note) {
  token = "";
  $("forget").hidden = true;
  $("token-note").textContent = note;
  $("quarantine").replaceChildren(); shown.delete("quarantine");
  $("user-keys").replaceChildren(); $("user-says").textContent = ""; $("refresh").disabled = true;
  if (states.length) showState(states[states.length - 1]);
}

async function private_() {
  if (!token) return;
  const used = token;
  const [recent, quarantine] = await Promise.all([ask("api/lockstep/recent"), ask("api/lockstep/quarantine")]);
  if (used !== token) return;
  if (recent.status === 401 || recent.status === 403) return forget(recent.message);
  if (recent.ok) {
    $("token-note").textContent = "token accepted";
    $("forget").hidden = false;
    showEvents(recent.data.events, true);
  } else $("token-note").textContent = recent.message;
  if (quarantine.ok) showQuarantine(quarantine.data.entries);
  else $("quarantine-says").textContent = quarantine.message;
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const typed = $("token").value.trim();
  // What no header can carry is no token.
  if (!/^[\x21-\x7e]+$/.test(typed)) return forget("type the token first");
  token = typed;
  $("token").value = "";
  $("token-note").textContent = "asking";
  private_();
});
$("forget").addEventListener("click", () => { forget("amounts and users are masked"); $("token").focus(); });

// ---- a user ----

const STATES = { equal: ["good", "equal"], absent: ["warn", "absent"], stale: ["bad", "stale"], foreign: ["bad", "foreign"], in_flight: ["warn", "in flight"] };

function userPath(call) {
  return `api/redis-health/user/${encodeURIComponent($("user-id").value)}/${call}?userType=${encodeURIComponent($("user-type").value)}`;
}

function keyTable(key) {
  const state = (name) => { const [good, said] = STATES[name] || ["unknown", name]; return el("span", { class: "word", "data-state": good }, said); };
  const text = (value) => (value === null || value === undefined ? "–" : String(value));
  const rows = key.fields.map((field) => el("tr", { class: field.state === "equal" ? null : "differs" },
    el("th", { scope: "row" }, field.field === null ? "value" : field.field), el("td", {}, state(field.state)),
    el("td", { class: "long" }, text(field.database)), el("td", { class: "long" }, text(field.redis)), el("td", { class: "number" }, field.difference === null ? "" : field.difference), el("td", { class: "mono" }, text(field.since).replace("–", ""))));
  const ttl = key.ttl === null || key.ttl === undefined ? "" : ` · ${key.ttl} s to live`;
  const caption = el("caption", {}, el("code", {}, key.key), " ", state(key.state), el("span", { class: "quiet" }, ` ${key.kind}${ttl}`));
  const head = [["Field"], ["State"], ["Database"], ["Redis"], ["Redis minus database", "number"], ["Since"]].map(([name, kind]) => el("th", { scope: "col", class: kind }, name));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": key.key },
    el("table", {}, caption, rows.length ? el("thead", {}, el("tr", {}, ...head)) : null, el("tbody", {}, ...rows)));
}

async function look(before) {
  $("user-says").textContent = "asking";
  const answer = await ask(userPath("consistency"));
  const report = answer.data || {};
  $("user-says").replaceChildren(...(before ? [before + " — "] : []), answer.ok
    ? el("span", { class: "word", "data-state": report.is_consistent ? "good" : report.in_flight ? "warn" : "bad" }, answer.message)
    : answer.status === 401 || answer.status === 403 ? answer.message + ": type it above" : answer.message);
  const order = (key) => (key.state === "equal" ? 1 : 0);
  const keys = answer.ok ? [...report.keys].sort((a, b) => order(a) - order(b)) : [];
  $("user-keys").replaceChildren(...keys.map(keyTable));
  $("refresh").disabled = !answer.ok;
}

$("user-form").addEventListener("submit", (event) => { event.preventDefault(); look(); });
$("refresh").addEventListener("click", async () => {
  $("refresh").disabled = true;
  $("user-says").textContent = "writing";
  const answer = await ask(userPath("force-refresh"), "POST");
  if (answer.ok) await look(answer.message);
  else $("user-says").textContent = answer.message;
  $("refresh").disabled = false;
  $("refresh").focus();
});
for (const id of ["user-type", "user-id"]) $(id).addEventListener("input", () => { $("refresh").disabled = true; });

// ---- listening ----

let heard = 0;
function listen() {
  const source = new EventSource("api/lockstep/events");
  source.onmessage = (message) => take(JSON.parse(message.data));
  source.onerror = async () => {
    source.close();
    // Where all places of listeners are taken, it is asked.
    const answer = await ask("api/lockstep/state");
    if (answer.ok) take(answer.data);
    setTimeout(listen, 2000);
  };
}
function take(state) {
  heard = Date.now();
  sample(state);
  showState(state);
  CHARTS.forEach(draw);
}
setInterval(() => {
  if (Date.now() - heard < SILENT_MS) return;
  word("overall", "bad", "no answer");
  document.title = "no answer · Lockstep";
  $("alerts").dataset.state = "bad";
  put("alerts", ["The instance does not answer; what is below is the last that was heard. Trying again."], (told) => told.map((text) => el("p", {}, text)));
}, 1000);
setInterval(private_, 2000);
CHARTS.forEach(draw);
showEvents([], false);
heard = Date.now();
listen();
