//! The configuration reference is what the reader accepts, asked key by key: its names, types, bounds and defaults, and
//! which variable of the environment stands for which key. What a key means is said once, in `deploy/lockstep.toml`.
//!
//! `UPDATE=1 cargo test --test integration configuration` writes the reference anew.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use lockstep::config::Config;
use lockstep::error::Fault;
use lockstep::keyplan::KeyMap;
use toml::{Table, Value};

use super::{content, path, read};

const REFERENCE: &str = "deploy/CONFIGURATION.md";
const EXAMPLE: &str = "deploy/lockstep.toml";

/// A name that no key is similar to: the reader lists all of them.
const UNKNOWN: &str = "zzzzzz";

const HEAD: &str = "# Configuration

`--config FILE` names a file in TOML, [lockstep.toml](lockstep.toml) for example, from which the meanings below are taken.
Every key may be left out. A variable of the environment wins over the file; an empty one counts as unset. Every mistake
is named at once, with its place and its cure, and exit code 2. `lockstep check --print-config` prints what is in effect.

A *time* is a text of a whole number and `ms`, `s`, `m`, `h` or `d`; a *size* one of a whole number and `B`, `KiB`, `MiB`,
`GiB` or `TiB`. `LOCKSTEP_ROLE_PASSWORD` is for `lockstep init --role` alone. What `postgres.url` leaves out comes from
libpq's own variables:
";

const TAIL: &str = "
## `[[keys]]`

The key map, where the built-in one is not what is wanted: [its language](../README.md#your-own-keys), and a
[whole example](example-keymap.toml).
";

type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

fn somebody(name: &str) -> Option<String> {
    (name == "USER").then(|| "somebody".to_owned())
}

/// What is in effect, or every mistake.
fn effect(text: &str, env: Environment<'_>) -> Result<Table, Vec<Fault>> {
    match Config::read("file", text, env, KeyMap::compile) {
        Ok((config, _)) => Ok(config.to_toml().parse().expect("what is printed is TOML")),
        Err(errors) => Err(errors.0),
    }
}

/// A table of the file, with the keys that it cannot do without.
struct Section {
    heading: &'static str,
    needs: &'static [(&'static str, &'static str)],
}

const fn plain(heading: &'static str) -> Section {
    Section { heading, needs: &[] }
}

const SECTIONS: [Section; 9] = [
    Section { heading: "`[postgres]`", needs: &[("shards", "4"), ("shard", "0")] },
    plain("`[redis]`"),
    plain("`[http]`"),
    plain("`[log]`"),
    plain("`[stream]`"),
    plain("`[load]`"),
    plain("`[audit]`"),
    Section {
        heading: "`[[tables]]` of users",
        needs: &[("name", "\"users\""), ("kind", "\"users\""), ("user_type", "\"live\"")],
    },
    Section {
        heading: "`[[tables]]` of transactions",
        needs: &[("name", "\"t\""), ("kind", "\"transactions\"")],
    },
];

impl Section {
    /// As it stands in the file.
    fn title(&self) -> &'static str {
        self.heading.split('`').nth(1).expect("a title")
    }

    fn name(&self) -> &'static str {
        self.title().trim_matches(['[', ']'])
    }

    /// What becomes of a value, beside what the section cannot do without; `None`: of none.
    fn given(&self, key: &str, value: Option<&str>) -> Result<Table, Vec<Fault>> {
        let mut text = format!("{}\n", self.title());
        let needed = self.needs.iter().filter(|(needed, _)| *needed != key);
        for (key, value) in needed.map(|(key, value)| (*key, *value)).chain(value.map(|value| (key, value))) {
            writeln!(text, "{key} = {value}").unwrap();
        }
        if self.name() == "tables" && !text.contains("\"users\"") {
            text += "[[tables]]\nname = \"users\"\nkind = \"users\"\nuser_type = \"live\"\n";
        }
        effect(&text, &somebody)
    }

    fn keys(&self) -> Vec<String> {
        listed(&self.given(UNKNOWN, Some("1")).unwrap_err())
    }

    /// What holds where the key is left out.
    fn default(&self, key: &str) -> Option<Value> {
        let shown = self.given(key, None).ok()?;
        match shown.get(self.name())? {
            Value::Table(table) => table.get(key).cloned(),
            Value::Array(tables) => tables.first()?.get(key).cloned(),
            _ => None,
        }
    }

    fn default_for_people(&self, key: &str) -> String {
        if (self.name(), key) == ("postgres", "url") {
            return "libpq's variables, else the local socket".to_owned();
        }
        if (self.name(), key) == ("postgres", "shard") {
            return "required where shards > 1".to_owned();
        }
        // Users need a type, and it may be said in two ways.
        if self.needs.len() > 2 && key.starts_with("user_type") {
            return "one of the two".to_owned();
        }
        match (self.given(key, None), self.default(key)) {
            (Err(_), _) => "required".to_owned(),
            (Ok(_), Some(value)) => format!("`{value}`"),
            (Ok(_), None) => "none".to_owned(),
        }
    }

    /// The cure of what is wrong with a value, where something is.
    fn cure(&self, key: &str, value: &str) -> Option<String> {
        let faults = self.given(key, Some(value)).err()?;
        let about = faults.iter().find(|fault| fault.fact.contains(key));
        about.or(faults.first()).map(|fault| fault.cure.clone())
    }

    /// Type and bounds.
    fn kind(&self, key: &str) -> (&'static str, String) {
        let between = |cure: &str, what: &str| {
            let rest = cure.strip_prefix(&format!("give a {what} from "))?;
            Some(rest.split(',').next().unwrap_or(rest).to_owned())
        };
        let wrong = self.cure(key, "false").unwrap_or_else(|| panic!("{key} takes a boolean"));
        if let Some(bounds) = between(&wrong, "time") {
            return ("time", bounds);
        }
        if wrong == "give a whole number" {
            let cure = self.cure(key, "-1").expect("no number is below zero");
            return ("number", between(&cure, "number").unwrap_or_else(|| panic!("{key}: {cure}")));
        }
        let refused = self.cure(key, "\"?\"").unwrap_or_default();
        if let Some(bounds) = between(&refused, "size") {
            return ("size", bounds);
        }
        // Where no text fits, the cure only names the type again.
        let words = ["write kind = ", "write ", "use ", "give "].iter();
        let words = words.filter(|_| refused != wrong).find_map(|verb| refused.strip_prefix(verb));
        let kind = match wrong.as_str() {
            "give a string in quotation marks" => "text",
            "give a list of strings" => "list of texts",
            "give a string or a list of strings" => "text, or list of texts",
            other => panic!("{key}: {other}"),
        };
        (kind, words.unwrap_or_default().replace("kind = ", ""))
    }
}

/// The names that the reader of an unknown one is offered.
fn listed(faults: &[Fault]) -> Vec<String> {
    let unknown =
        faults.iter().find(|fault| fault.fact.contains(UNKNOWN)).expect("an unknown key is refused");
    let names = unknown.cure.strip_prefix("remove it, or use one of ").expect("a list");
    names.split(", ").map(str::to_owned).collect()
}

/// Every variable that is asked for.
fn asked() -> BTreeSet<String> {
    let names = RefCell::new(BTreeSet::new());
    for set in [("USER", "somebody"), ("PGSSLMODE", "verify-full"), ("PGUSER", "somebody")] {
        let env = |name: &str| {
            names.borrow_mut().insert(name.to_owned());
            (name == set.0).then(|| set.1.to_owned())
        };
        let _ = effect("", &env);
    }
    names.into_inner()
}

/// For each key that a variable stands for, as `section.key`, the variable: found by what it changes.
fn variables() -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let write = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("closed");
        file.to_str().expect("a path").to_owned()
    };
    let files = |number: u32| {
        [
            write(&format!("token{number}"), "0123456789abcdef0123456789abcdef"),
            write(&format!("cert{number}"), &made.cert.pem()),
            write(&format!("key{number}"), &made.signing_key.serialize_pem()),
        ]
    };
    let ([token, cert, key], others) = (files(1), files(2));
    let file = format!(
        "[postgres]\nshards = 4\nshard = 0\n\
         [http]\ntoken_file = {token:?}\ntls_cert_file = {cert:?}\ntls_key_file = {key:?}\n\
         [redis]\nroot_cert = \"/one\""
    );
    let before = effect(&file, &somebody).unwrap_or_else(|faults| panic!("{faults:?}"));
    let words = ["host=probe", "redis://probe:1", "127.0.0.1:1", "1GiB", "probe", "json", "2"];
    let values: Vec<&str> = words.into_iter().chain(others.iter().map(String::as_str)).collect();
    let changed = |variable: &str, value: &str| {
        let env = |name: &str| if name == variable { Some(value.to_owned()) } else { somebody(name) };
        let after = effect(&file, &env).ok()?;
        let different = after.iter().find(|(section, table)| before.get(section.as_str()) != Some(table))?;
        let (section, Value::Table(table)) = different else { return None };
        let (key, _) = table.iter().find(|(key, value)| before[section].get(key.as_str()) != Some(value))?;
        Some(format!("{section}.{key}"))
    };
    let ours = asked().into_iter().filter(|name| name.starts_with("LOCKSTEP_"));
    ours.map(|variable| {
        let key = values.iter().find_map(|value| changed(&variable, value));
        (key.unwrap_or_else(|| panic!("{variable} changes nothing")), variable)
    })
    .collect()
}

/// A key of the example: how it stands there, and what is said of it.
struct Example {
    /// `#key = value`, which shows the default, and not `# key = value` or `key = value`.
    default: Option<String>,
    meaning: String,
}

/// The keys of the example, as `section.key`.
fn examples() -> BTreeMap<String, Example> {
    let (mut found, mut section, mut comment) = (BTreeMap::new(), String::new(), Vec::new());
    let text = read(EXAMPLE);
    for line in text.lines() {
        let bare = line.trim_start_matches('#').trim_start();
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if bare.starts_with('[') && bare.ends_with(']') {
            section = bare.trim_matches(['[', ']']).to_owned();
            comment.clear();
        } else if let Some((key, value)) = bare.split_once(" = ").filter(|(key, _)| is_name(key)) {
            let key = format!("{section}.{key}");
            let default = line.starts_with('#') && !line.starts_with("# ");
            let meaning = std::mem::take(&mut comment).join(" ");
            let example = Example { default: default.then(|| value.to_owned()), meaning };
            match found.contains_key(&key) {
                // The second of two tables.
                true => assert_eq!(example.meaning, "", "{key} is explained twice"),
                false => assert!(!example.meaning.is_empty(), "{key} is not explained in {EXAMPLE}"),
            }
            found.entry(key).or_insert(example);
        } else if bare.is_empty() {
            comment.clear();
        } else {
            comment.push(bare);
        }
    }
    found
}

/// The reference as it has to be.
fn made() -> String {
    let (variables, examples) = (variables(), examples());
    let mut page = HEAD.to_owned();
    let libpq: Vec<String> =
        asked().into_iter().filter(|name| name.starts_with("PG")).map(|name| format!("`{name}`")).collect();
    writeln!(page, "{}.", libpq.join(", ")).unwrap();
    for section in &SECTIONS {
        writeln!(page, "\n## {}\n", section.heading).unwrap();
        page += "| key | type | default | bounds | environment | meaning |\n|---|---|---|---|---|---|\n";
        for key in section.keys() {
            let whole = format!("{}.{key}", section.name());
            let meaning = &examples.get(&whole).unwrap_or_else(|| panic!("{EXAMPLE} lacks {whole}")).meaning;
            let variable = variables.get(&whole).map(|name| format!("`{name}`")).unwrap_or_default();
            let (kind, bounds) = section.kind(&key);
            let cells = [
                format!("`{key}`"),
                kind.to_owned(),
                section.default_for_people(&key),
                bounds,
                variable,
                meaning.clone(),
            ];
            writeln!(page, "| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | ")).unwrap();
        }
    }
    page + TAIL
}

#[test]
fn the_configuration_reference_is_what_the_reader_accepts() {
    let made = made();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path(REFERENCE), &made).expect("the reference is written");
    }
    for (written, made) in read(REFERENCE).lines().zip(made.lines()) {
        assert_eq!(
            written, made,
            "{REFERENCE} is stale: UPDATE=1 cargo test --test integration configuration"
        );
    }
    assert_eq!(read(REFERENCE).lines().count(), made.lines().count(), "{REFERENCE} is stale");
}

#[test]
fn every_section_that_the_reader_knows_is_in_the_reference() {
    let known: BTreeSet<String> =
        listed(&effect(&format!("{UNKNOWN} = 1"), &somebody).unwrap_err()).into_iter().collect();
    let written = SECTIONS.iter().map(|section| section.name().to_owned());
    assert_eq!(written.chain(["keys".to_owned()]).collect::<BTreeSet<_>>(), known);
}

#[test]
fn the_example_has_every_key_and_shows_every_default() {
    let examples = examples();
    let mut known = BTreeSet::new();
    for section in &SECTIONS {
        for key in section.keys() {
            let whole = format!("{}.{key}", section.name());
            let example = examples.get(&whole).unwrap_or_else(|| panic!("{EXAMPLE} lacks {whole}"));
            let shown = example.default.as_ref().map(|value| {
                let table: Table = format!("value = {value}").parse().expect("TOML");
                table["value"].clone()
            });
            // Of tables it shows the two that are followed where none is configured.
            if section.name() != "tables" && whole != "postgres.url" {
                assert_eq!(shown, section.default(&key), "{whole} of {EXAMPLE}");
            }
            known.insert(whole);
        }
    }
    let named: BTreeSet<String> = examples.into_keys().collect();
    assert_eq!(named, known);
}

#[test]
fn every_variable_of_the_program_is_in_the_reference() {
    let names = content("grep", &["-rhoE", "LOCKSTEP_[A-Z_]*[A-Z]", "src"]);
    let reference = made();
    for name in names.lines() {
        assert!(reference.contains(&format!("`{name}`")), "{name}");
    }
    assert!(names.lines().count() > 10, "{names}");
}

/// Every step of the README's table, with the keys beside it.
#[test]
fn every_key_of_a_step_of_the_key_map_is_in_the_readme_and_no_other() {
    let readme = read("README.md");
    let table = readme
        .split("| step | with | |")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next())
        .expect("the table");
    let spans = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut actions = BTreeSet::new();
    for row in table.lines().filter(|row| row.starts_with("| `")) {
        let mut cells = row.split('|').skip(1);
        let step = spans(cells.next().expect("a step")).remove(0);
        let (action, value) = step.split_once(" = ").expect("an action");
        let beside = spans(cells.next().expect("keys"))
            .into_iter()
            .filter(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        // What may stand beside every step is explained below the table.
        let everywhere = ["on", "when_changed", "when"];
        let named: BTreeSet<String> =
            beside.chain([action].into_iter().chain(everywhere).map(str::to_owned)).collect();
        let value = if value.starts_with('[') { "[\"a\"]" } else { "\"a\"" };
        let faults = effect(&format!("[[keys]]\n{action} = {value}\n{UNKNOWN} = 1"), &somebody).unwrap_err();
        assert_eq!(named, listed(&faults).into_iter().collect(), "{action}");
        actions.insert(action.to_owned());
    }
    let faults = effect("[[keys]]", &somebody).unwrap_err();
    let known = faults[0].cure.strip_prefix("give it exactly one of ").expect("a list");
    assert_eq!(actions, known.split(", ").map(str::to_owned).collect());
}
