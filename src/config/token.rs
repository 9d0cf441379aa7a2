//! The operator's bearer token, one line in a file of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Secret;
use crate::error::Fault;

/// Shortest token, in characters: 128 bits in base64.
const SHORTEST: usize = 22;
/// Largest token file, in bytes: more is not a token.
const LARGEST: u64 = 4096;

/// Reads the token; every fault of the file is named, the token never.
pub(super) fn read(path: &Path) -> Result<Secret, Fault> {
    let name = path.display();
    let fault = |fact: String, cure: String| Fault { fact, cure };
    let make = || format!("make a new one with \"openssl rand -hex 32 > {name}; chmod 600 {name}\"");
    let metadata = fs::metadata(path)
        .map_err(|e| fault(format!("the token file {name} cannot be read ({})", e.kind()), make()))?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Err(fault(format!("{name} is not a token file of one line"), make()));
    }
    if metadata.permissions().mode() & 0o007 != 0 {
        let fact = format!("the token file {name} is open to every user of this machine");
        return Err(fault(fact, format!("run \"chmod 600 {name}\"")));
    }
    let text = fs::read_to_string(path)
        .map_err(|e| fault(format!("the token file {name} cannot be read ({})", e.kind()), make()))?;
    let token = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if token.trim().is_empty() {
        return Err(fault(format!("the token file {name} is empty"), make()));
    }
    if token.contains(['\n', '\r']) {
        return Err(fault(format!("the token file {name} has more than one line"), make()));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let fact = format!("the token in {name} has blanks or characters that no HTTP header carries");
        return Err(fault(fact, make()));
    }
    if token.len() < SHORTEST {
        let fact = format!("the token in {name} is shorter than {SHORTEST} characters");
        return Err(fault(fact, make()));
    }
    Ok(Secret::new(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_file(content: &[u8], mode: u32) -> Result<Secret, Fault> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        read(&path)
    }

    #[test]
    fn a_token_is_one_line_with_or_without_its_end() {
        let token = "0123456789abcdef0123456789abcdef";
        for end in ["", "\n", "\r\n"] {
            assert_eq!(read_file(format!("{token}{end}").as_bytes(), 0o600).unwrap().expose(), token);
        }
    }

    #[test]
    fn every_malformed_token_file_is_named_with_its_cure_and_never_shown() {
        let cases: [(&[u8], u32, &str); 7] = [
            (b"", 0o600, "is empty"),
            (b"  \n", 0o600, "is empty"),
            (b"hunter2\n", 0o600, "shorter than 22"),
            (b"0123456789abcdef0123456789abcdef\nhunter2\n", 0o600, "more than one line"),
            (b"hunter2 hunter2 hunter2 hunter2", 0o600, "blanks"),
            (b"0123456789abcdef0123456789abcdef", 0o604, "open to every user"),
            (b"\xff\xfe0123456789abcdef0123456789abcdef", 0o600, "cannot be read"),
        ];
        for (content, mode, fact) in cases {
            let fault = read_file(content, mode).unwrap_err();
            assert!(fault.fact.contains(fact), "{fault}");
            assert!(fault.cure.contains("chmod 600"), "{fault}");
            assert!(!fault.to_string().contains("hunter2"), "{fault}");
        }
        assert!(read(Path::new("/nonexistent/token")).unwrap_err().fact.contains("cannot be read"));
    }
}
