//! Enough of Rust's lexical grammar to tell code from comments and literals.

/// The source with comments and the contents of literals blanked; every byte keeps its place and line.
pub fn code_only(text: &str) -> String {
    let mut code = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let length = hidden(rest, code.last().copied());
        if length == 0 {
            let next = rest.chars().next().map_or(1, char::len_utf8);
            code.extend_from_slice(&rest.as_bytes()[..next]);
            rest = &rest[next..];
        } else {
            code.extend(
                rest.as_bytes()[..length].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }),
            );
            rest = &rest[length..];
        }
    }
    String::from_utf8(code).expect("whole characters were copied or blanked")
}

/// Bytes of the comment or literal that begins here; 0 when code does.
fn hidden(rest: &str, before: Option<u8>) -> usize {
    let in_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    let literal = if in_word { rest } else { rest.strip_prefix(['b', 'c']).unwrap_or(rest) };
    let prefix = rest.len() - literal.len();
    if literal.starts_with('"') {
        return prefix + quoted(literal);
    }
    let raw = if in_word { None } else { literal.strip_prefix('r') };
    raw.and_then(raw_string).map_or(0, |length| prefix + 1 + length)
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// From behind the `r`: `"..."` or `#"..."#`; not an `r#identifier`.
fn raw_string(rest: &str) -> Option<usize> {
    let hashes = rest.bytes().take_while(|byte| *byte == b'#').count();
    let body = rest[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(hashes + 1 + body.find(&end).map_or(body.len(), |at| at + end.len()))
}

/// `'x'` or `'\n'`; 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            rest.char_indices().skip(3).find(|(_, c)| *c == '\'').map_or(rest.len(), |(at, _)| at + 1)
        }
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// Index behind the bracket that closes the one at `open`.
pub fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

#[test]
fn comments_and_literals_are_no_code() {
    let code = |text: &str| code_only(text).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(code("a // b\nc /* d /* e */ f */ g"), "a c g");
    assert_eq!(code(r##"a = "b \" c"; d = r#"e " f"#; g = b"h";"##), "a = ; d = ; g = ;");
    assert_eq!(code(r"x<'a>('{', '\'', '}')"), "x<'a>( , , )");
    assert_eq!(code("let r#type = bar\"x\";"), "let r#type = bar ;");
    assert_eq!(code_only("\"ä\n\"").len(), "\"ä\n\"".len());
}
