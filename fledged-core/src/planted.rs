//! Bugs that tests plant to see whether the simulation finds them. Without the feature `planted-bugs` there are none.

#[cfg(feature = "planted-bugs")]
pub use switch::{is, plant};

/// Whether this bug is planted in this thread.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
pub const fn is(_bug: &str) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Whether this bug is planted in this thread.
    #[must_use]
    pub fn is(bug: &str) -> bool {
        PLANTED.get().is_some_and(|planted| planted == bug)
    }

    /// Plants one bug in this thread, or none.
    pub fn plant(bug: Option<&'static str>) {
        PLANTED.set(bug);
    }
}
