//! The program `fledged-operator`.

fn main() {
    print!(
        "{}",
        fledged_operator::crd::definitions_yaml().unwrap_or_default()
    );
}
