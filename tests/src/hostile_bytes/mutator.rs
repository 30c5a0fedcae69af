//! Makes new inputs from a corpus.

use fastrand::Rng;

/// Longest input in bytes.
pub const LENGTH_MAX: usize = 64 * 1024;

/// Numbers at the limits of types and of this project's fields.
const NUMBERS: [&str; 14] = [
    "0",
    "-1",
    "255",
    "256",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "1e309",
    "-0.0",
    "NaN",
    "00",
];
/// Pieces that parsers treat in a special way.
const PIECES: [&str; 40] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    ":",
    ",",
    "\0",
    "\n",
    "\r\n",
    " ",
    "\t",
    "\u{feff}",
    "\u{202e}",
    "é",
    "…",
    "\u{1f4a9}",
    "%00",
    "%2f",
    "../",
    "//",
    "@sha256:",
    "[::1]",
    "*",
    "?",
    "=",
    ";",
    "#",
    "---\n",
    "&a *a",
    "!!",
    "null",
    "true",
    "\"\"",
    "h",
    "ms",
    "T",
];

/// Makes inputs from a corpus by random edits. The same seed makes the same inputs.
#[derive(Debug)]
pub struct Mutator {
    rng: Rng,
    corpus: Vec<Vec<u8>>,
}

impl Mutator {
    /// A mutator of these inputs.
    #[must_use]
    pub fn new(corpus: Vec<Vec<u8>>, seed: u64) -> Self {
        let rng = Rng::with_seed(seed);
        Self { rng, corpus }
    }

    /// The next input, of at most [`LENGTH_MAX`] bytes.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.any().to_vec();
        // Mostly few edits, so that the input stays close to a valid one.
        for _ in 0..(1 << self.rng.u32(0..5)) {
            self.edit(&mut input);
            input.truncate(LENGTH_MAX);
        }
        input
    }

    fn any(&mut self) -> &[u8] {
        let count = self.corpus.len().max(1);
        let at = self.rng.usize(0..count);
        self.corpus.get(at).map_or(&[], Vec::as_slice)
    }

    fn edit(&mut self, input: &mut Vec<u8>) {
        let (start, end) = self.range(input.len());
        match self.rng.u8(0..10) {
            0 => {
                if let Some(byte) = input.get_mut(start) {
                    *byte ^= 1 << self.rng.u8(0..8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(start) {
                    *byte = self.rng.u8(..);
                }
            }
            2 => drop(input.drain(start..end)),
            3 => {
                let part = input[start..end].to_vec();
                let at = self.rng.usize(0..=input.len());
                input.splice(at..at, part);
            }
            4 => {
                let piece = PIECES[self.rng.usize(0..PIECES.len())];
                input.splice(start..start, piece.bytes());
            }
            5 => {
                let number = NUMBERS[self.rng.usize(0..NUMBERS.len())];
                let digits = digits_from(input, start);
                input.splice(digits, number.bytes());
            }
            6 => {
                // Deep nesting and long runs.
                let part = input[start..end.min(start + 8)].to_vec();
                let times = 1 << self.rng.u32(1..13);
                let run = part.iter().copied().cycle().take(part.len() * times);
                let run: Vec<u8> = run.take(LENGTH_MAX).collect();
                input.splice(start..start, run);
            }
            7 => input.truncate(start),
            8 => {
                let other = self.any().to_vec();
                let (from, to) = self.range(other.len());
                input.splice(start..end, other[from..to].iter().copied());
            }
            _ => {
                let byte = self.rng.u8(..);
                input.insert(start, byte);
            }
        }
    }

    /// A random range within that length, mostly short.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let start = self.rng.usize(0..=length);
        let most = (length - start).min(1 << self.rng.u32(0..10));
        (start, start + self.rng.usize(0..=most))
    }
}

/// The first number at or after `start`, or an empty range at `start`.
fn digits_from(input: &[u8], start: usize) -> std::ops::Range<usize> {
    let is_digit = |at: &usize| input[*at].is_ascii_digit();
    let Some(first) = (start..input.len()).find(is_digit) else {
        return start..start;
    };
    let end = (first..input.len()).find(|at| !is_digit(at));
    first..end.unwrap_or(input.len())
}
