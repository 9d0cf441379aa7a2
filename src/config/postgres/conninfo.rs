//! libpq's connection string, as URL or keywords: what it says, before the environment is asked.

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error as _;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;

/// Parameters that `tokio_postgres` refuses or ignores: taken out of the string before it is parsed.
const OURS: [&str; 5] = ["sslmode", "sslrootcert", "sslcert", "sslkey", "passfile"];

/// Parameters that mean something here. The others change nothing, so they are mistakes.
const THEIRS: [&str; 9] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "options",
    "connect_timeout",
    "application_name",
];

/// What the string says.
#[derive(Default)]
pub(super) struct Given {
    /// Hosts, ports, role, database: what `tokio_postgres` knows.
    pub config: Config,
    /// Whether a port was written; a URL without one still parses to 5432.
    pub port_given: bool,
    /// The values of [`OURS`].
    pub ours: HashMap<&'static str, String>,
}

/// Parses `text`, noting every mistake.
pub(super) fn parse(text: &str, mistakes: &mut Vec<String>) -> Given {
    let text = text.trim();
    match ["postgres://", "postgresql://"].iter().find_map(|prefix| text.strip_prefix(prefix)) {
        Some(rest) => parse_url(rest, mistakes),
        None if text.contains("://") => {
            mistakes.push("postgres.url is no PostgreSQL URL: begin it with postgresql://".to_owned());
            Given::default()
        }
        None => parse_keywords(text, mistakes),
    }
}

fn parse_url(rest: &str, mistakes: &mut Vec<String>) -> Given {
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut given = Given { port_given: url_has_port(address), ..Given::default() };
    let mut kept = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let decoded = percent_decode_str(value).decode_utf8().unwrap_or(Cow::Borrowed(value));
        if given.take(key, &decoded, mistakes) && accepts(&format!("postgresql:///?{parameter}"), mistakes) {
            kept.push(parameter);
        }
    }
    let whole = format!("postgresql://{address}?{}", kept.join("&"));
    given.set(&whole, mistakes);
    given
}

/// Whether the authority names a port; the brackets of an IPv6 address hide its colons.
fn url_has_port(address: &str) -> bool {
    let authority = address.rsplit_once('@').map_or(address, |(_, hosts)| hosts);
    let hosts = authority.split('/').next().unwrap_or_default();
    hosts.split(',').any(|host| host.rsplit_once(']').map_or(host, |(_, port)| port).contains(':'))
}

fn parse_keywords(text: &str, mistakes: &mut Vec<String>) -> Given {
    let mut given = Given::default();
    let mut kept = String::new();
    let Some(pairs) = keyword_pairs(text) else {
        mistakes.push("postgres.url is neither a URL nor key=value pairs: quote values with ' '".to_owned());
        return given;
    };
    for (key, value) in pairs {
        let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
        let pair = format!("{key}='{quoted}' ");
        if given.take(&key, &value, mistakes) && accepts(&pair, mistakes) {
            kept.push_str(&pair);
        }
    }
    given.set(&kept, mistakes);
    given
}

/// `key = value key='quoted \' value'`, as `conninfo_parse` of libpq; `None` if malformed.
fn keyword_pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return None;
        }
        let (value, after) = keyword_value(after.trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Some(pairs)
}

fn keyword_value(text: &str) -> Option<(String, &str)> {
    let (quoted, body) = text.strip_prefix('\'').map_or((false, text), |body| (true, body));
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' if quoted => return Some((value, body.get(at + 1..)?)),
            '\\' => value.push(chars.next()?.1),
            c if c.is_whitespace() && !quoted => return Some((value, body.get(at..)?)),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

/// Whether `tokio_postgres` takes a string with this one parameter.
fn accepts(text: &str, mistakes: &mut Vec<String>) -> bool {
    match text.parse::<Config>() {
        Ok(_) => true,
        Err(error) => {
            mistakes.push(refused(&error));
            false
        }
    }
}

/// Its words name the parameter, never the value.
fn refused(error: &tokio_postgres::Error) -> String {
    let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    format!("postgres.url: {why}: write it as libpq does")
}

impl Given {
    /// Keeps what is ours; whether the parameter is for `tokio_postgres`.
    fn take(&mut self, key: &str, value: &str, mistakes: &mut Vec<String>) -> bool {
        if let Some(ours) = OURS.into_iter().find(|ours| *ours == key) {
            self.ours.insert(ours, value.to_owned());
            return false;
        }
        if THEIRS.contains(&key) {
            self.port_given |= key == "port";
            return true;
        }
        let known = THEIRS.iter().chain(&OURS).copied().collect::<Vec<_>>().join(", ");
        mistakes.push(format!("postgres.url: parameter {key:?} is not supported: use only {known}"));
        false
    }

    fn set(&mut self, text: &str, mistakes: &mut Vec<String>) {
        match text.parse() {
            Ok(config) => self.config = config,
            Err(error) => mistakes.push(refused(&error)),
        }
    }
}
