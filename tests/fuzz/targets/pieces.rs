//! Any bytes as a list of pieces, so that a mutation of one does not shift the others.

/// Length of a piece in front of it, big-endian.
const LENGTH_BYTES: usize = 2;

/// Pieces as one input.
pub fn join<P: AsRef<[u8]>>(pieces: impl IntoIterator<Item = P>) -> Vec<u8> {
    let mut input = Vec::new();
    for piece in pieces {
        let piece = piece.as_ref();
        let piece = &piece[..piece.len().min(usize::from(u16::MAX))];
        input.extend_from_slice(&(piece.len() as u16).to_be_bytes());
        input.extend_from_slice(piece);
    }
    input
}

/// The pieces of any input: a length that is too large takes what is there.
pub fn split(mut input: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((length, rest)) = input.split_at_checked(LENGTH_BYTES) {
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let (piece, rest) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        input = rest;
    }
    pieces
}

/// Lines of hexadecimal digits.
pub fn from_hex(text: &str) -> Vec<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.lines().map(|line| line.as_bytes().chunks(2).filter_map(byte).collect()).collect()
}
