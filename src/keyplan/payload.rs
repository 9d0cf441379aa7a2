//! A publish's own payload: JSON with placeholders in its texts.

use toml::Value;

use super::template::{Part, Scope, Shown, Source, Template, write_json_text};

/// A JSON value with placeholders.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Payload {
    Object(Vec<(String, Payload)>),
    Array(Vec<Payload>),
    /// A string; one placeholder alone may be null, and a number by `$json(...)`.
    Text(Template),
    /// Numbers and booleans as they are.
    Fixed(String),
}

impl Payload {
    /// Takes a configured value apart; the error is the fact.
    pub(super) fn compile(value: &Value) -> Result<Payload, String> {
        match value {
            Value::Table(table) => {
                let pairs = table.iter().map(|(name, value)| Ok((name.clone(), Payload::compile(value)?)));
                pairs.collect::<Result<_, String>>().map(Payload::Object)
            }
            Value::Array(list) => {
                list.iter().map(Payload::compile).collect::<Result<_, _>>().map(Payload::Array)
            }
            Value::String(text) => Template::parse(text).map(Payload::Text),
            Value::Integer(_) | Value::Boolean(_) => Ok(Payload::Fixed(value.to_string())),
            Value::Float(float) if float.is_finite() => Ok(Payload::Fixed(value.to_string())),
            Value::Float(_) | Value::Datetime(_) => {
                Err(format!("the payload holds {value}, which JSON has not"))
            }
        }
    }

    pub(super) fn sources(&self) -> Vec<&Source> {
        match self {
            Payload::Object(pairs) => pairs.iter().flat_map(|(_, value)| value.sources()).collect(),
            Payload::Array(list) => list.iter().flat_map(Payload::sources).collect(),
            Payload::Text(template) => template.sources().collect(),
            Payload::Fixed(_) => Vec::new(),
        }
    }

    pub(super) fn write(&self, scope: &Scope<'_>, scratch: &mut String, out: &mut Vec<u8>) {
        match self {
            Payload::Object(pairs) => {
                let mut separator = b'{';
                for (name, value) in pairs {
                    out.push(separator);
                    write_json_text(name, out);
                    out.push(b':');
                    value.write(scope, scratch, out);
                    separator = b',';
                }
                out.extend_from_slice(if separator == b'{' { b"{}" } else { b"}" });
            }
            Payload::Array(list) => {
                out.push(b'[');
                for (index, value) in list.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    value.write(scope, scratch, out);
                }
                out.push(b']');
            }
            Payload::Text(template) => match template.fill(scope, scratch) {
                Shown::Number(text) if !matches!(template.parts.as_slice(), [Part::Native(_)]) => {
                    write_json_text(text, out);
                }
                shown => shown.write_json(out),
            },
            Payload::Fixed(text) => out.extend_from_slice(text.as_bytes()),
        }
    }
}
