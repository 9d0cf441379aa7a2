//! Key templates: a literal text with one `$type`, one `$id`, and for patterns one `*`.

use bytes::{BufMut, Bytes, BytesMut};

use super::template::{Part, Source, Template};
use crate::balance::User;

/// What Lockstep's own keys begin with.
const OWN_PREFIX: &str = "lockstep:";

/// A key, or a pattern of keys, of every user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTemplate {
    text: String,
    head: String,
    type_first: bool,
    between: String,
    tail: String,
    /// What follows the `*` of a pattern.
    suffix: Option<String>,
}

impl KeyTemplate {
    /// Checks a key; a pattern has exactly one `*`. The error is the fact.
    pub(super) fn parse(text: &str, pattern: bool) -> Result<KeyTemplate, String> {
        let (exact, suffix) = match text.split_once('*') {
            Some((exact, suffix)) if pattern && !suffix.contains(['*', '$']) => {
                (exact, Some(suffix.to_owned()))
            }
            Some(_) if pattern => {
                return Err(format!("{text:?} has more than one *, or a placeholder behind it"));
            }
            None if pattern => return Err(format!("{text:?} has no *")),
            Some(_) => return Err(format!("{text:?} has a *, which only delete_pattern understands")),
            None => (text, None),
        };
        let template = Template::parse(exact)?;
        let mut literals = vec![String::new()];
        let mut names = Vec::new();
        for part in template.parts {
            match (part, literals.last_mut()) {
                (Part::Literal(literal), Some(last)) => last.push_str(&literal),
                (Part::Value(source @ (Source::Type | Source::Id)), _) => {
                    names.push(source);
                    literals.push(String::new());
                }
                _ => return Err(format!("{text:?} has a placeholder other than $type and $id")),
            }
        }
        let (Ok([head, between, tail]), true) =
            (<[String; 3]>::try_from(literals), names.contains(&Source::Id) && names.contains(&Source::Type))
        else {
            return Err(format!("{text:?} does not name $type and $id once each"));
        };
        if !between.contains([':', '{', '}']) {
            return Err(format!("{text:?} does not separate $type and $id by a colon or a brace"));
        }
        if pattern && tail.is_empty() {
            return Err(format!("{text:?} does not separate the user and *, so a longer id would match too"));
        }
        if pattern && head.is_empty() {
            return Err(format!(
                "{text:?} has no text before the user, so lockstep would have to follow every key in redis"
            ));
        }
        if head.starts_with(OWN_PREFIX) {
            return Err(format!("{text:?} begins with {OWN_PREFIX}, which is kept for lockstep's own keys"));
        }
        let type_first = names.first() == Some(&Source::Type);
        Ok(KeyTemplate { text: text.to_owned(), head, type_first, between, tail, suffix })
    }

    /// The template as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it stands for many keys of each user.
    pub fn is_pattern(&self) -> bool {
        self.suffix.is_some()
    }

    /// The text before the user: every key of the template begins with it.
    pub fn literal_head(&self) -> &str {
        &self.head
    }

    /// The user's key; of a pattern, the text before the `*`.
    pub(super) fn render(&self, user: &User, buffer: &mut BytesMut) -> Bytes {
        let (first, second) = match self.type_first {
            true => (&user.user_type, &user.id),
            false => (&user.id, &user.user_type),
        };
        for part in [&*self.head, first, &*self.between, second, &*self.tail] {
            buffer.put_slice(part.as_bytes());
        }
        buffer.split().freeze()
    }

    /// The text behind the `*`.
    pub(super) fn suffix(&self) -> Bytes {
        Bytes::copy_from_slice(self.suffix.as_deref().unwrap_or_default().as_bytes())
    }

    /// A `SCAN` pattern for the keys of all users, or of those of one type.
    pub fn glob_for(&self, user_type: Option<&str>) -> String {
        let user_type = user_type.map_or_else(|| "*".to_owned(), escape_glob);
        let (first, second) = if self.type_first { (&*user_type, "*") } else { ("*", &*user_type) };
        let mut glob = [&*escape_glob(&self.head), first, &escape_glob(&self.between), second].concat();
        glob.push_str(&escape_glob(&self.tail));
        if let Some(suffix) = &self.suffix {
            glob.push('*');
            glob.push_str(&escape_glob(suffix));
        }
        glob
    }

    /// The type and the id that a real key was made of; of a pattern, the shortest id that fits.
    pub fn parse_key<'k>(&self, key: &'k str) -> Option<(&'k str, &'k str)> {
        let rest = key.strip_prefix(&*self.head)?;
        let rest = match &self.suffix {
            None => rest.strip_suffix(&*self.tail)?,
            Some(suffix) => rest.strip_suffix(&**suffix)?,
        };
        // A type holds no colon and no brace and the text between holds one, so the place nearest to the
        // type is where they meet.
        let (first, second) = if self.type_first {
            rest.split_once(&*self.between)?
        } else {
            rest.rsplit_once(&*self.between)?
        };
        let second = match self.suffix {
            None => second,
            Some(_) => second.split_once(&*self.tail)?.0,
        };
        let (user_type, id) = if self.type_first { (first, second) } else { (second, first) };
        let sound = crate::balance::user::is_sound_type(user_type) && crate::balance::user::is_sound_id(id);
        sound.then_some((user_type, id))
    }
}

/// Makes Redis' glob characters literal.
pub fn escape_glob(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '^' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str, user_type: &str, id: &str) -> String {
        let user = User { user_type: user_type.into(), id: id.into(), numeric_id: false };
        let template = KeyTemplate::parse(text, text.contains('*')).unwrap();
        String::from_utf8(template.render(&user, &mut BytesMut::new()).to_vec()).unwrap()
    }

    #[test]
    fn keys_are_written_as_the_contract_has_them() {
        assert_eq!(key("user:{$type:$id}:config", "live", "123"), "user:{live:123}:config");
        assert_eq!(key("user_balance:$type:$id", "demo", "a:b"), "user_balance:demo:a:b");
        assert_eq!(key("financial_summary:$type:$id:*", "live", "1*"), "financial_summary:live:1*:");
    }

    #[test]
    fn a_key_that_could_be_another_users_is_a_mistake() {
        for (text, pattern) in [
            ("a:$id", false),
            ("a:$type$id", false),
            ("a:$type-$id", false),
            ("a:$type:$id:$id", false),
            ("a:$type:$id:$email", false),
            ("a:$type:$id:*", false),
            ("a:$type:$id*", true),
            ("a:$type:$id:", true),
            ("a:$type:$id:*:*", true),
            ("a:*:$type:$id", true),
            ("$type:$id:*", true),
            ("lockstep:$type:$id", false),
        ] {
            assert!(KeyTemplate::parse(text, pattern).is_err(), "{text}");
        }
    }

    #[test]
    fn globs_take_glob_characters_literally() {
        let template = KeyTemplate::parse("f[1]:$type:$id:*", true).unwrap();
        assert_eq!(template.glob_for(Some("l*")), "f\\[1\\]:l\\*:*:*");
        assert_eq!(template.glob_for(None), "f\\[1\\]:*:*:*");
    }

    proptest! {
        #[test]
        fn a_key_tells_its_user_again(
            user_type in "[^{}:\\p{C}]{1,12}", id in "[^{}\\p{C}]{1,12}",
            text in prop::sample::select(vec![
                "user:{$type:$id}:config", "user_balance:$type:$id", "x:$id:$type:y", "{$type}$id", "$type:$id",
            ]),
        ) {
            let template = KeyTemplate::parse(text, false).unwrap();
            let rendered = key(text, &user_type, &id);
            prop_assert_eq!(template.parse_key(&rendered), Some((&*user_type, &*id)));
        }

        #[test]
        fn a_sound_user_never_breaks_the_hash_tag(user_type in "\\PC{0,8}", id in "\\PC{0,8}") {
            prop_assume!(crate::balance::user::is_sound_type(&user_type));
            prop_assume!(crate::balance::user::is_sound_id(&id));
            let rendered = key("user:{$type:$id}:config", &user_type, &id);
            let tag = rendered.split_once('{').unwrap().1.split_once('}').unwrap().0;
            prop_assert_eq!(tag, format!("{user_type}:{id}"));
            prop_assert_eq!(rendered.matches(['{', '}']).count(), 2);
        }
    }
}
