//! The program `fledged-operator`.

fn main() {}
