//! The effective configuration as TOML that can be read back, secrets masked.

use std::fmt::Write as _;

use super::tables::{TableKind, TableSpec, UserType};
use super::{Config, Endpoint, LogFormat, Postgres, Redis, TlsMode, duration, size};

impl Config {
    /// Every setting in effect, in the form of the configuration file; passwords are `***`.
    pub fn to_toml(&self) -> String {
        let mut out = Toml::default();
        out.title("[postgres]");
        out.text("url", &conninfo(&self.postgres));
        let shard = self.postgres.shard;
        out.text("slot", shard.of_all(&self.postgres.slot));
        out.text("publication", shard.of_all(&self.postgres.publication));
        out.value("shards", shard.count().to_string());
        out.value("shard", shard.index().to_string());
        out.text("retained_wal_max", &size::show(self.postgres.retained_wal_max));
        out.title("[redis]");
        out.value("url", redis_urls(&self.redis));
        if let Some(file) = &self.redis.root_cert {
            out.text("root_cert", &file.display().to_string());
        }
        out.text("replay_margin", &duration::show(self.redis.replay_margin));
        out.value("replay_margin_bytes", self.redis.replay_margin_bytes.to_string());
        out.text("durability", &self.redis.durability.to_string());
        out.title("[http]");
        out.text("listen", &self.http.listen.to_string());
        if let Some(file) = &self.http.token_file {
            out.text("token_file", &file.display().to_string());
        }
        if let Some(tls) = &self.http.tls {
            out.text("tls_cert_file", &tls.cert_file.display().to_string());
            out.text("tls_key_file", &tls.key_file.display().to_string());
        }
        out.value("requests_per_second", self.http.requests_per_second.to_string());
        out.title("[log]");
        out.text(
            "format",
            match self.log.format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            },
        );
        out.text("level", &self.log.level);
        out.title("[stream]");
        out.value("window_rows", self.stream.window_rows.to_string());
        out.value("window_bytes", self.stream.window_bytes.to_string());
        out.value("flight_events", self.stream.flight_events.to_string());
        out.text("status_interval", &duration::show(self.stream.status_interval));
        out.text("ready_lag", &duration::show(self.stream.ready_lag));
        out.title("[load]");
        out.value("workers", self.load.workers.to_string());
        out.value("chunk_rows", self.load.chunk_rows.to_string());
        out.value("users_per_second", self.load.users_per_second.to_string());
        out.title("[audit]");
        out.text("foreign_writes", self.audit.foreign_writes.word());
        out.text("grace", &duration::show(self.audit.grace));
        out.value("users_per_second", self.audit.users_per_second.to_string());
        for table in &self.tables {
            show_table(&mut out, table);
        }
        out.title(self.key_map_toml.trim_end());
        out.0
    }
}

fn show_table(out: &mut Toml, table: &TableSpec) {
    out.title("[[tables]]");
    let quote = |part: &str| format!("\"{}\"", part.replace('"', "\"\""));
    out.text("name", &format!("{}.{}", quote(&table.schema), quote(&table.name)));
    match &table.kind {
        TableKind::Users { id_column, balance_column } => {
            out.text("kind", "users");
            out.text("id_column", id_column);
            out.text("balance_column", balance_column);
        }
        TableKind::Transactions { user_id_column } => {
            out.text("kind", "transactions");
            out.text("user_id_column", user_id_column);
        }
    }
    match &table.user_type {
        UserType::Constant(constant) => out.text("user_type", constant),
        UserType::Column(column) => out.text("user_type_column", column),
    }
    if let Some(columns) = &table.columns {
        out.value("columns", list(columns));
    }
}

/// The connection in libpq's keyword form, which can say everything that a URL can.
fn conninfo(postgres: &Postgres) -> String {
    let mut words: Vec<(&str, String)> = Vec::new();
    let (hosts, ports): (Vec<_>, Vec<_>) = postgres.endpoints.iter().map(host_and_port).unzip();
    words.push(("host", hosts.join(",")));
    words.push(("port", ports.join(",")));
    words.push(("user", postgres.user.clone()));
    if postgres.password.is_some() {
        words.push(("password", "***".into()));
    }
    words.push(("dbname", postgres.database.clone()));
    let mode = match postgres.tls {
        TlsMode::Disable => "disable",
        TlsMode::Prefer => "prefer",
        TlsMode::Require => "require",
        TlsMode::VerifyCa => "verify-ca",
        TlsMode::VerifyFull => "verify-full",
    };
    words.push(("sslmode", mode.into()));
    if let Some(root) = &postgres.root_cert {
        words.push(("sslrootcert", root.display().to_string()));
    }
    if let Some((cert, key)) = &postgres.client_cert {
        words.push(("sslcert", cert.display().to_string()));
        words.push(("sslkey", key.display().to_string()));
    }
    let address = |endpoint: &Endpoint| match endpoint {
        Endpoint::Address(address, ..) => Some(address.to_string()),
        Endpoint::Tcp(..) | Endpoint::Unix(_) => None,
    };
    let addresses: Vec<String> = postgres.endpoints.iter().filter_map(address).collect();
    if !addresses.is_empty() {
        words.push(("hostaddr", addresses.join(",")));
    }
    if let Some(options) = &postgres.options {
        words.push(("options", options.clone()));
    }
    words.push(("connect_timeout", postgres.connect_timeout.as_secs().to_string()));
    words.push(("application_name", postgres.application_name.clone()));
    let quoted = |value: &str| match value.contains([' ', '\'', '\\']) || value.is_empty() {
        true => format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'")),
        false => value.to_owned(),
    };
    words.iter().map(|(key, value)| format!("{key}={}", quoted(value))).collect::<Vec<_>>().join(" ")
}

fn host_and_port(endpoint: &Endpoint) -> (String, String) {
    match endpoint {
        Endpoint::Tcp(host, port) | Endpoint::Address(_, host, port) => (host.clone(), port.to_string()),
        Endpoint::Unix(socket) => {
            // The socket file is named `.s.PGSQL.<port>`, `UNIXSOCK_PATH`.
            let port =
                socket.extension().map_or_else(String::new, |port| port.to_string_lossy().into_owned());
            let folder = socket.parent().map_or_else(String::new, |folder| folder.display().to_string());
            (folder, port)
        }
    }
}

fn redis_urls(redis: &Redis) -> String {
    let scheme = if redis.tls { "rediss" } else { "redis" };
    let login = match (&redis.username, &redis.password) {
        (None, None) => String::new(),
        (user, None) => format!("{}@", user.as_deref().unwrap_or("")),
        (user, Some(_)) => format!("{}:***@", user.as_deref().unwrap_or("")),
    };
    let database = if redis.database == 0 { String::new() } else { format!("/{}", redis.database) };
    let urls: Vec<_> = redis
        .seeds
        .iter()
        .map(|(host, port)| match host.contains(':') {
            true => format!("{scheme}://{login}[{host}]:{port}{database}"),
            false => format!("{scheme}://{login}{host}:{port}{database}"),
        })
        .collect();
    list(&urls)
}

fn list(texts: &[String]) -> String {
    toml::Value::from(texts.to_vec()).to_string()
}

#[derive(Default)]
struct Toml(String);

impl Toml {
    fn title(&mut self, title: &str) {
        let blank = if self.0.is_empty() { "" } else { "\n" };
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{blank}{title}");
    }

    fn text(&mut self, key: &str, value: &str) {
        self.value(key, toml::Value::from(value).to_string());
    }

    fn value(&mut self, key: &str, value: String) {
        let _ = writeln!(self.0, "{key} = {value}");
    }
}
