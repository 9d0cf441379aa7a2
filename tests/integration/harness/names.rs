//! The nodes of a cluster name one another, by ports that lead past every line: on the line they have the lines' ports.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Where every node of a cluster says that its neighbours are.
const HOST: &[u8] = b"127.0.0.1";
/// What stands between host and port: in `CLUSTER SLOTS`, and where a node redirects.
const BEFORE_A_PORT: [&[u8]; 2] = [b"\r\n:", b":"];
/// So many have all ports that nodes and lines get.
const PORT_DIGITS: usize = 5;

/// The port of each node, and that of the line to it.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<[u8; PORT_DIGITS], [u8; PORT_DIGITS]>);

impl Names {
    pub fn add(&mut self, node: u16, line: u16) {
        self.0.insert(digits(node), digits(line));
    }
}

fn digits(port: u16) -> [u8; PORT_DIGITS] {
    port.to_string().into_bytes().try_into().expect("a port of five digits")
}

/// What a node says on one connection.
#[derive(Debug)]
pub struct Renaming {
    names: Arc<Names>,
    /// An address whose end has not come yet.
    held: Vec<u8>,
}

impl Renaming {
    pub fn new(names: Arc<Names>) -> Renaming {
        Renaming { names, held: Vec::new() }
    }

    /// What came until now, with every node under the line's name.
    pub fn pass(&mut self, piece: &[u8]) -> Vec<u8> {
        if self.names.0.is_empty() {
            return piece.to_vec();
        }
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(piece);
        let mut from = 0;
        while let Some(found) = text[from..].iter().position(|byte| *byte == HOST[0]) {
            from += found;
            match port_within(&text[from..]) {
                Port::At(at) => {
                    let port = &mut text[from + at..from + at + PORT_DIGITS];
                    if let Some(name) = self.names.0.get(&*port) {
                        port.copy_from_slice(name);
                    }
                    from += at;
                }
                Port::Cut => {
                    self.held = text.split_off(from);
                    break;
                }
                Port::None => from += 1,
            }
        }
        text
    }
}

/// Where the port of an address stands that may begin here.
#[derive(Debug, PartialEq, Eq)]
enum Port {
    At(usize),
    /// The text ends within what may be an address.
    Cut,
    None,
}

fn port_within(text: &[u8]) -> Port {
    let forms = BEFORE_A_PORT.map(|between| [HOST, between].concat());
    for form in forms {
        let at = form.len();
        let (begin, rest) = text.split_at(at.min(text.len()));
        let digits = rest.iter().take(PORT_DIGITS).take_while(|byte| byte.is_ascii_digit()).count();
        match (begin == form, digits) {
            (true, PORT_DIGITS) => return Port::At(at),
            (true, some) if some == rest.len() => return Port::Cut,
            (false, 0) if form.starts_with(begin) => return Port::Cut,
            _ => {}
        }
    }
    Port::None
}

#[test]
fn nodes_are_named_by_their_lines_however_their_answers_are_cut() {
    let mut names = Names::default();
    names.add(30001, 40001);
    names.add(30002, 40002);
    let names = Arc::new(names);
    let answer =
        b"*2\r\n$9\r\n127.0.0.1\r\n:30001\r\n-MOVED 17 127.0.0.1:30002\r\n+127.0.0.1:9\r\n:30001\r\n";
    let renamed =
        b"*2\r\n$9\r\n127.0.0.1\r\n:40001\r\n-MOVED 17 127.0.0.1:40002\r\n+127.0.0.1:9\r\n:30001\r\n";
    for size in 1..answer.len() {
        let mut said = Renaming::new(Arc::clone(&names));
        let passed: Vec<u8> = answer.chunks(size).flat_map(|piece| said.pass(piece)).collect();
        assert_eq!(passed.escape_ascii().to_string(), renamed.escape_ascii().to_string(), "by {size} bytes");
    }
}
