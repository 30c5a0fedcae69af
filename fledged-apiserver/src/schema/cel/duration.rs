//! Durations as the function `duration` of the Common Expression Language reads them: in Go's syntax.

/// Units and their nanoseconds. A unit comes before its suffixes.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The nanoseconds of a duration such as `1h30m`. `None` if it is malformed or longer than about 292 years.
pub(super) fn nanoseconds(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut sum: i128 = 0;
    loop {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (unit, nanoseconds) = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.len() + fraction.len()) == 0 || fraction.contains('.') {
            return None;
        }
        // More digits are below a nanosecond.
        let fraction = fraction.get(..18).unwrap_or(fraction);
        let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
        let scale = 10_i128.pow(fraction.len().try_into().ok()?);
        sum = sum.checked_add(digits.checked_mul(*nanoseconds)? / scale)?;
        rest = after.strip_prefix(unit)?;
        if rest.is_empty() {
            return i64::try_from(sign * sum).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_in_go() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1s", Some(1_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            ("-1m30s", Some(-90_000_000_000)),
            ("1m1h", Some(3_660_000_000_000)),
            (".5s", Some(500_000_000)),
            ("100ms", Some(100_000_000)),
            ("3\u{b5}s", Some(3_000)),
            ("1.0000000000000000000001s", Some(1_000_000_000)),
            ("2562047h", Some(9_223_369_200_000_000_000)),
            ("2562048h", None),
            ("99999999999999999999999999999999999999999h", None),
            ("", None),
            ("1", None),
            ("s", None),
            (".s", None),
            ("1..5s", None),
            ("1d", None),
            ("1 s", None),
        ] {
            assert_eq!(nanoseconds(text), expected, "{text}");
        }
    }
}
