//! libpq's password file: <https://www.postgresql.org/docs/current/libpq-pgpass.html>.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Endpoint;

/// Whose password is looked for.
pub(super) struct Wanted<'a> {
    /// Any of these; the first in this order that has one.
    pub endpoints: &'a [Endpoint],
    /// Database.
    pub database: &'a str,
    /// Role.
    pub user: &'a str,
}

/// The password that `file` holds; a file that others may read is passed over, as libpq does.
pub(super) fn find(file: &Path, wanted: &Wanted<'_>, warnings: &mut Vec<String>) -> Option<String> {
    let metadata = fs::metadata(file).ok()?;
    if !metadata.is_file() {
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        let path = file.display();
        warnings
            .push(format!("password file {path} is ignored because others may read it: chmod 600 {path}"));
        return None;
    }
    let text = fs::read_to_string(file).ok()?;
    wanted.endpoints.iter().find_map(|endpoint| {
        text.lines().filter(|line| !line.starts_with('#')).find_map(|line| password(line, endpoint, wanted))
    })
}

fn password(line: &str, endpoint: &Endpoint, wanted: &Wanted<'_>) -> Option<String> {
    let (fields, password) = split(line)?;
    let [host, port, database, user] = &fields;
    let fits = |field: &String, value: &str| field == "*" || field == value;
    let there = match endpoint {
        Endpoint::Tcp(name, number) | Endpoint::Address(_, name, number) => {
            fits(host, name) && fits(port, &number.to_string())
        }
        Endpoint::Unix(socket) => {
            let folder = socket.parent().map(|folder| folder.to_string_lossy().into_owned());
            let number = socket.extension().map(|number| number.to_string_lossy().into_owned());
            (fits(host, "localhost") || fits(host, &folder.unwrap_or_default()))
                && fits(port, &number.unwrap_or_default())
        }
    };
    (there && fits(database, wanted.database) && fits(user, wanted.user)).then_some(password)
}

/// `host:port:database:user` and the password; a backslash takes the next character as it is.
fn split(line: &str) -> Option<([String; 4], String)> {
    let mut fields: [String; 4] = Default::default();
    let mut rest = line.chars();
    for field in &mut fields {
        loop {
            match rest.next()? {
                ':' => break,
                '\\' => field.push(rest.next()?),
                c => field.push(c),
            }
        }
    }
    let mut password = String::new();
    while let Some(c) = rest.next() {
        match c {
            ':' => break,
            '\\' => password.push(rest.next()?),
            c => password.push(c),
        }
    }
    (!password.is_empty()).then_some((fields, password))
}
