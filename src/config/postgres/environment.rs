//! libpq's environment fills what the connection string leaves out.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::config::Host;

use super::conninfo::Given;
use super::passfile::{self, Wanted};
use super::{DEFAULT_CONNECT_TIMEOUT, DEFAULT_NAME, DEFAULT_RETAINED_WAL_MAX, Endpoint, Postgres, TlsMode};
use crate::config::{Secret, Shard};

/// An environment variable's value; empty counts as unset, as in libpq.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

const DEFAULT_PORT: u16 = 5432;

/// Where Debian's server puts its socket, then where others do.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Completes `given`; `None` only along with a mistake.
pub(super) fn complete(
    given: Given,
    env: &Lookup<'_>,
    mistakes: &mut Vec<String>,
) -> Option<(Postgres, Vec<String>)> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let mut warnings = Vec::new();
    let endpoints = endpoints(&given, &env, mistakes);
    let tls = tls(&given, &env, mistakes);
    let connect_timeout = connect_timeout(&given, &env, mistakes);
    let user = given.config.get_user().map(str::to_owned).or_else(|| env("PGUSER"));
    let Some(user) = user.or_else(|| env("USER")).or_else(|| env("LOGNAME")) else {
        mistakes.push("no database role is named: put it in postgres.url or set PGUSER".to_owned());
        return None;
    };
    let database = given.config.get_dbname().map(str::to_owned);
    let database = database.or_else(|| env("PGDATABASE")).unwrap_or_else(|| user.clone());

    let written = given.config.get_password().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let password = written.or_else(|| env("PGPASSWORD")).or_else(|| {
        let wanted = Wanted { endpoints: &endpoints, database: &database, user: &user };
        let file = given.ours.get("passfile").cloned().or_else(|| env("PGPASSFILE")).map(PathBuf::from);
        passfile::find(&file.or_else(|| home(&env, ".pgpass"))?, &wanted, &mut warnings)
    });
    let options = given.config.get_options().map(str::to_owned).or_else(|| env("PGOPTIONS"));
    let application_name = given.config.get_application_name().map(str::to_owned);
    let postgres = Postgres {
        endpoints,
        user,
        password: password.map(Secret::new),
        database,
        tls: tls.mode,
        root_cert: tls.root_cert,
        client_cert: tls.client_cert,
        connect_timeout,
        options: options.filter(|options| !options.trim().is_empty()),
        application_name: application_name
            .or_else(|| env("PGAPPNAME"))
            .unwrap_or_else(|| DEFAULT_NAME.to_owned()),
        slot: DEFAULT_NAME.to_owned(),
        publication: DEFAULT_NAME.to_owned(),
        shard: Shard::WHOLE,
        retained_wal_max: DEFAULT_RETAINED_WAL_MAX,
    };
    Some((postgres, warnings))
}

fn endpoints(given: &Given, env: &Lookup<'_>, mistakes: &mut Vec<String>) -> Vec<Endpoint> {
    let hosts: Vec<String> = match given.config.get_hosts() {
        [] => env("PGHOST").map(|list| list.split(',').map(str::to_owned).collect()).unwrap_or_default(),
        hosts => hosts.iter().map(host_text).collect(),
    };
    let addresses = addresses(given, env, mistakes);
    if !addresses.is_empty() && !hosts.is_empty() && addresses.len() != hosts.len() {
        mistakes.push(format!(
            "{} addresses are given for {} hosts: give one hostaddr for each host",
            addresses.len(),
            hosts.len()
        ));
    }
    let hosts = match (hosts.is_empty(), addresses.is_empty()) {
        (true, true) => SOCKET_FOLDERS.map(str::to_owned).to_vec(),
        (true, false) => addresses.iter().map(IpAddr::to_string).collect(),
        (false, _) => hosts,
    };
    let ports = match given.port_given {
        true => given.config.get_ports().to_vec(),
        false => environment_ports(env, mistakes),
    };
    if ports.len() > 1 && ports.len() != hosts.len() {
        mistakes.push(format!(
            "{} ports are given for {} hosts: give one port, or one for each host",
            ports.len(),
            hosts.len()
        ));
    }
    let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
    let made = hosts.iter().enumerate().map(|(at, host)| match addresses.get(at) {
        Some(address) => Endpoint::Address(*address, host.clone(), port(at)),
        None => endpoint(host, port(at)),
    });
    made.collect()
}

fn addresses(given: &Given, env: &Lookup<'_>, mistakes: &mut Vec<String>) -> Vec<IpAddr> {
    let list = match given.config.get_hostaddrs() {
        [] => env("PGHOSTADDR").unwrap_or_default(),
        addresses => return addresses.to_vec(),
    };
    let read = list.split(',').filter(|text| !text.is_empty()).map(str::parse).collect::<Result<_, _>>();
    read.unwrap_or_else(|_| {
        mistakes.push("PGHOSTADDR is no IP address: use a number like 10.0.0.1, or set PGHOST".to_owned());
        Vec::new()
    })
}

fn host_text(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.to_string_lossy().into_owned(),
    }
}

fn endpoint(host: &str, port: u16) -> Endpoint {
    match host {
        folder if folder.starts_with('/') => {
            Endpoint::Unix(Path::new(folder).join(format!(".s.PGSQL.{port}")))
        }
        "" => Endpoint::Tcp("localhost".to_owned(), port),
        name => Endpoint::Tcp(name.to_owned(), port),
    }
}

fn environment_ports(env: &Lookup<'_>, mistakes: &mut Vec<String>) -> Vec<u16> {
    let list = env("PGPORT").unwrap_or_default();
    let read = |text: &str| match text {
        "" => Some(DEFAULT_PORT),
        text => text.parse().ok().filter(|port| *port > 0),
    };
    list.split(',').map(read).collect::<Option<Vec<_>>>().unwrap_or_else(|| {
        mistakes.push("PGPORT is no port number: use 1 to 65535".to_owned());
        Vec::new()
    })
}

fn connect_timeout(given: &Given, env: &Lookup<'_>, mistakes: &mut Vec<String>) -> Duration {
    if let Some(timeout) = given.config.get_connect_timeout() {
        return *timeout;
    }
    match env("PGCONNECT_TIMEOUT").as_deref().map(str::parse::<u32>) {
        // libpq waits for ever at 0; nothing here does.
        None | Some(Ok(0)) => DEFAULT_CONNECT_TIMEOUT,
        Some(Ok(seconds)) => Duration::from_secs(seconds.into()),
        Some(Err(_)) => {
            mistakes.push("PGCONNECT_TIMEOUT is no number: use whole seconds".to_owned());
            DEFAULT_CONNECT_TIMEOUT
        }
    }
}

struct Tls {
    mode: TlsMode,
    root_cert: Option<PathBuf>,
    client_cert: Option<(PathBuf, PathBuf)>,
}

fn tls(given: &Given, env: &Lookup<'_>, mistakes: &mut Vec<String>) -> Tls {
    let setting = |name: &str, variable: &str| given.ours.get(name).cloned().or_else(|| env(variable));
    let written = setting("sslmode", "PGSSLMODE");
    let mode = match written.as_deref() {
        None => None,
        Some("disable") => Some(TlsMode::Disable),
        // `allow` prefers no TLS where both are offered: no reason to do so here.
        Some("allow" | "prefer") => Some(TlsMode::Prefer),
        Some("require") => Some(TlsMode::Require),
        Some("verify-ca") => Some(TlsMode::VerifyCa),
        Some("verify-full") => Some(TlsMode::VerifyFull),
        Some(other) => {
            let modes = "disable, prefer, require, verify-ca or verify-full";
            mistakes.push(format!("sslmode {other:?} is unknown: use {modes}"));
            None
        }
    };
    let root = setting("sslrootcert", "PGSSLROOTCERT");
    let system = root.as_deref() == Some("system");
    if system && written.is_some() && mode != Some(TlsMode::VerifyFull) {
        mistakes.push("sslrootcert=system checks nothing with a weak sslmode: use verify-full".to_owned());
    }
    let default_file = |name: &str| home(env, &format!(".postgresql/{name}")).filter(|file| file.is_file());
    let root_cert = match system {
        true => None,
        false => root.map(PathBuf::from).or_else(|| default_file("root.crt")),
    };
    let certificate = setting("sslcert", "PGSSLCERT").map(PathBuf::from);
    let key = setting("sslkey", "PGSSLKEY").map(PathBuf::from);
    let certificate = certificate.or_else(|| default_file("postgresql.crt"));
    let client_cert = match (certificate, key.or_else(|| default_file("postgresql.key"))) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (Some(_), None) => {
            mistakes.push("sslcert is given without its key: set sslkey too".to_owned());
            None
        }
        (None, _) => None,
    };
    let weakest = if system { TlsMode::VerifyFull } else { TlsMode::Prefer };
    Tls { mode: mode.unwrap_or(weakest), root_cert, client_cert }
}

fn home(env: &Lookup<'_>, file: &str) -> Option<PathBuf> {
    Some(Path::new(&env("HOME")?).join(file))
}
