//! Sizes in bytes.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

/// A number of bytes. Displays in binary units (`1.5 MiB`); serialises as the plain number.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteSize(u64);

impl ByteSize {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// That many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The difference, zero where `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl From<u64> for ByteSize {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl Add for ByteSize {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for ByteSize {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for ByteSize {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        // Precision beyond 2^53 bytes is of no use in a display.
        #[allow(clippy::cast_precision_loss)]
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = UNITS.iter();
        let mut name = unit.next().copied().unwrap_or_default();
        while value >= 1023.95 {
            let Some(next) = unit.next() else { break };
            value /= 1024.0;
            name = next;
        }
        f.pad(&format!("{value:.1} {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_binary_units() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            // Never "1024.0": what rounds up to it is the next unit's one.
            (1024 * 1024 - 1, "1.0 MiB"),
            (512 * 1024 * 1024, "512.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (1 << 40, "1.0 TiB"),
            (1 << 50, "1.0 PiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(ByteSize::new(bytes).to_string(), shown);
        }
        assert_eq!(format!("{:>9}|", ByteSize::new(1024)), "  1.0 KiB|");
    }

    #[test]
    fn sizes_are_added_without_overflow() {
        let most = ByteSize::new(u64::MAX);
        assert_eq!(most + ByteSize::new(1), most);
        assert_eq!(
            [1, 2, 3].map(ByteSize::new).into_iter().sum::<ByteSize>(),
            ByteSize::new(6)
        );
        assert_eq!(ByteSize::new(1).saturating_sub(most), ByteSize::ZERO);
        assert_eq!(serde_json::to_string(&ByteSize::new(7)).unwrap(), "7");
    }
}
