//! How to reach Redis.

use std::path::PathBuf;
use std::time::Duration;

use super::{Durability, Secret};
use crate::error::Fault;

/// The port of a URL that names none.
const DEFAULT_PORT: u16 = 6379;
/// The URL where none is configured.
pub const DEFAULT_URL: &str = "redis://127.0.0.1:6379";
/// Default of `replay_margin`: a replica lags by less, an append-only file that is synced every second loses less, and
/// what a start sends again is skipped within a second.
pub(super) const REPLAY_MARGIN: Duration = Duration::from_secs(10);
/// Default of `replay_margin_bytes`: four segments of WAL.
pub(super) const REPLAY_MARGIN_BYTES: usize = 64 << 20;

/// `[redis]`
#[derive(Debug, Clone)]
pub struct Redis {
    /// Host and port of the server, of a server and its replicas, or of cluster nodes to ask first; never empty. What
    /// they are is detected.
    pub seeds: Vec<(String, u16)>,
    /// Whether connections use TLS (`rediss://`).
    pub tls: bool,
    /// Root certificates (PEM) instead of the system's.
    pub root_cert: Option<PathBuf>,
    /// ACL user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// Database number; a cluster has only 0.
    pub database: u8,
    /// How long a position stays in the slot after Redis holds it: so much may Redis lose and only be sent again.
    pub replay_margin: Duration,
    /// The same in bytes of WAL; whichever comes first.
    pub replay_margin_bytes: u64,
    /// When PostgreSQL may forget what is before a checkpoint.
    pub durability: Durability,
}

impl Redis {
    /// Reads one URL or several seeds of one cluster or of one server and its replicas, each entry a URL or URLs between commas:
    /// `redis://user:password@host:port/database`. Schemes: `redis`, `rediss` (TLS), `redis-cluster`,
    /// `rediss-cluster`. User and password are percent-decoded.
    ///
    /// # Errors
    /// Every mistake, none of them with the user or the password in it.
    pub fn parse(urls: &[impl AsRef<str>]) -> Result<Redis, Vec<Fault>> {
        let urls: Vec<&str> = urls.iter().flat_map(|url| url.as_ref().split(',')).map(str::trim).collect();
        let (seeds, mut mistakes) = parse_all(&urls);
        let mut seeds = seeds.into_iter();
        let Some(first) = seeds.next() else {
            if mistakes.is_empty() {
                mistakes.push(fault("redis.url is empty", &format!("write {DEFAULT_URL} for example")));
            }
            return Err(mistakes);
        };
        let mut redis = Redis {
            seeds: vec![first.address],
            tls: first.tls,
            root_cert: None,
            username: first.username,
            password: first.password,
            database: first.database,
            replay_margin: REPLAY_MARGIN,
            replay_margin_bytes: REPLAY_MARGIN_BYTES as u64,
            durability: Durability::Applied,
        };
        for seed in seeds {
            let same = (seed.tls, &seed.username, &seed.password, seed.database)
                == (redis.tls, &redis.username, &redis.password, redis.database);
            if !same {
                let fact = "the urls in redis.url differ in scheme, user, password or database";
                mistakes.push(fault(
                    fact,
                    "write the same in all: they are nodes of one cluster, or a server and its replicas",
                ));
            }
            redis.seeds.push(seed.address);
        }
        match mistakes.is_empty() {
            true => Ok(redis),
            false => Err(mistakes),
        }
    }
}

struct Seed {
    address: (String, u16),
    tls: bool,
    username: Option<String>,
    password: Option<Secret>,
    database: u8,
}

fn parse_all(urls: &[&str]) -> (Vec<Seed>, Vec<Fault>) {
    let (mut seeds, mut mistakes) = (Vec::new(), Vec::new());
    for (index, url) in urls.iter().enumerate().filter(|(_, url)| !url.is_empty()) {
        match parse_one(url) {
            Ok(seed) => seeds.push(seed),
            Err(mut mistake) => {
                if urls.len() > 1 {
                    mistake.fact = format!("{} (url {} of redis.url)", mistake.fact, index + 1);
                }
                mistakes.push(mistake);
            }
        }
    }
    (seeds, mistakes)
}

fn parse_one(url: &str) -> Result<Seed, Fault> {
    const FORM: &str = "write redis://user:password@host:port/database";
    let (scheme, rest) = url.split_once("://").ok_or_else(|| fault("redis.url has no scheme", FORM))?;
    let (tls, cluster) = match scheme {
        "redis" => (false, false),
        "rediss" => (true, false),
        "redis-cluster" => (false, true),
        "rediss-cluster" => (true, true),
        _ => {
            let cure = "use redis, rediss, redis-cluster or rediss-cluster";
            return Err(fault("redis.url has an unknown scheme", cure));
        }
    };
    if rest.contains(['?', '#']) {
        let cure = "remove it; write \"?\" as %3F and \"#\" as %23 in a password";
        return Err(fault("redis.url has options or a fragment", cure));
    }
    let (login, rest) = match rest.rsplit_once('@') {
        Some((login, rest)) => (Some(login), rest),
        None => (None, rest),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let database = match path {
        "" => 0,
        number => number.parse().map_err(|_| {
            fault("the database in redis.url is not a number from 0 to 255", "write it behind the last /")
        })?,
    };
    if cluster && database != 0 {
        let fact = format!("a redis cluster has no database {database}");
        return Err(fault(&fact, "leave the number out of redis.url"));
    }
    let (username, password) = login.map(parse_login).transpose()?.unwrap_or_default();
    Ok(Seed { address: parse_address(host)?, tls, username, password, database })
}

fn parse_login(login: &str) -> Result<(Option<String>, Option<Secret>), Fault> {
    let decode = |text: &str| {
        percent_decode(text).ok_or_else(|| {
            fault("the user or password in redis.url is not percent-encoded", "write \"%\" as %25")
        })
    };
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (decode(user)?, Some(Secret::new(decode(password)?))),
        None => (decode(login)?, None),
    };
    Ok(((!user.is_empty()).then_some(user), password.filter(|password| !password.expose().is_empty())))
}

fn parse_address(text: &str) -> Result<(String, u16), Fault> {
    let wrong = |fact: &str| fault(fact, "write host:port, an IPv6 address in brackets");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) =
                rest.split_once(']').ok_or_else(|| wrong("redis.url has an unclosed bracket"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(wrong("redis.url has no IPv6 address between its brackets"));
            }
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or_else(|| wrong("redis.url has no port"))?),
            };
            (host, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(wrong("redis.url has no host"));
    }
    match port.map_or(Ok(DEFAULT_PORT), str::parse) {
        Ok(port @ 1..) => Ok((host.to_owned(), port)),
        _ => Err(wrong("the port in redis.url is not a number from 1 to 65535")),
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        decoded.push(match byte {
            b'%' => u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?,
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

fn fault(fact: &str, cure: &str) -> Fault {
    Fault { fact: fact.to_owned(), cure: cure.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_url_is_read() {
        let redis = Redis::parse(&["rediss://lock%3Astep:p%40ss%2Fw@[::1]:7000/3"]).unwrap();
        assert_eq!(redis.seeds, [("::1".to_owned(), 7000)]);
        assert_eq!(redis.username.as_deref(), Some("lock:step"));
        assert_eq!(redis.password.unwrap().expose(), "p@ss/w");
        assert_eq!((redis.tls, redis.database), (true, 3));
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let redis = Redis::parse(&["redis://:secret@example.org"]).unwrap();
        assert_eq!(redis.seeds, [("example.org".to_owned(), 6379)]);
        assert_eq!((redis.username, redis.tls, redis.database), (None, false, 0));
        assert!(Redis::parse(&[DEFAULT_URL]).is_ok());
    }

    #[test]
    fn seeds_come_as_a_list_or_between_commas() {
        let list = Redis::parse(&["redis-cluster://a:1", "redis-cluster://b:2"]).unwrap();
        let commas = Redis::parse(&["redis-cluster://a:1, redis-cluster://b:2"]).unwrap();
        assert_eq!(list.seeds, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(list.seeds, commas.seeds);
    }

    #[test]
    fn every_mistake_is_reported_and_none_shows_the_secret() {
        let urls = [
            "hunter2",
            "http://hunter2@a",
            "redis://hunter2@a?x=hunter2",
            "redis://x:hunter2@a/x",
            "redis://:hunter2@",
            "redis://x:%hunter2@a",
            "redis://x:hunter2@a:0",
            "redis://x:hunter2@[::1",
            "redis-cluster://a/1",
        ];
        let mistakes = Redis::parse(&urls).unwrap_err();
        assert_eq!(mistakes.len(), urls.len());
        for (index, mistake) in mistakes.iter().enumerate() {
            let text = mistake.to_string();
            assert!(!text.contains("hunter2"), "{text}");
            assert!(!mistake.cure.is_empty(), "{text}");
            assert!(text.contains(&format!("url {} of", index + 1)), "{text}");
        }
        assert_eq!(Redis::parse(&[""]).unwrap_err().len(), 1);
    }

    #[test]
    fn seeds_that_differ_are_no_cluster() {
        let mistakes = Redis::parse(&["redis://a", "rediss://b"]).unwrap_err();
        assert!(mistakes[0].fact.contains("differ"));
    }
}
