//! Inputs from inputs.

/// A small repeatable random source (xorshift64*).
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// From 0 to `bound - 1`; 0 where there is nothing to choose from.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16;
        if bound == 0 { 0 } else { (number % bound as u64) as usize }
    }
}

/// Longest input, in bytes.
const LONGEST: usize = 16 << 10;
/// Longest part that is copied, removed or repeated at once.
const PART: usize = 64;
/// Numbers at which code changes its mind.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 53, u64::MAX];

/// Changes `input` in a few places. `other` is another input of the corpus.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], words: &[&str], constants: &[u64], dice: &mut Dice) {
    for _ in 0..=dice.below(5) {
        let at = dice.below(input.len() + 1);
        match dice.below(10) {
            0 => with(input, at, |byte, dice| *byte ^= 1 << dice.below(8), dice),
            1 => with(input, at, |byte, dice| *byte = dice.below(256) as u8, dice),
            2 => with(
                input,
                at,
                |byte, dice| *byte = byte.wrapping_add(dice.below(9) as u8).wrapping_sub(4),
                dice,
            ),
            3 => with(input, at, |byte, dice| *byte = b"0123456789-.:{}$*\"'\n \0"[dice.below(22)], dice),
            4 => {
                let end = (at + 1 + dice.below(PART)).min(input.len());
                input.drain(at..end.max(at));
            }
            5 => {
                let end = (at + 1 + dice.below(PART)).min(input.len());
                let part = input[at..end.max(at)].to_vec();
                let to = dice.below(input.len() + 1);
                insert(input, to, &part);
            }
            6 => {
                let from = dice.below(other.len());
                let end = (from + 1 + dice.below(PART * 4)).min(other.len());
                insert(input, at, &other[from..end]);
            }
            7 if !words.is_empty() => insert(input, at, words[dice.below(words.len())].as_bytes()),
            8 if !constants.is_empty() => number(input, at, constants[dice.below(constants.len())], dice),
            _ => number(input, at, EDGES[dice.below(EDGES.len())], dice),
        }
    }
    input.truncate(LONGEST);
}

fn with(input: &mut [u8], at: usize, change: impl FnOnce(&mut u8, &mut Dice), dice: &mut Dice) {
    if let Some(byte) = input.get_mut(at) {
        change(byte, dice);
    }
}

fn insert(input: &mut Vec<u8>, at: usize, part: &[u8]) {
    input.splice(at..at, part.iter().copied());
}

/// Writes a number of some width over what is there.
fn number(input: &mut [u8], at: usize, number: u64, dice: &mut Dice) {
    let width = [1, 2, 4, 8][dice.below(4)];
    let bytes = number.to_be_bytes();
    if let Some(place) = input.get_mut(at..at + width) {
        place.copy_from_slice(&bytes[8 - width..]);
        if dice.below(4) == 0 {
            place.reverse();
        }
    }
}
