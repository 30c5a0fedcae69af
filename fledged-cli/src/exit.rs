//! How the process ends.

use std::process::ExitCode;

/// What the exit code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: everything that was asked for is so.
    Done,
    /// 1: the answer is no, at least one image failed, or the runtime or cluster does not answer.
    Failed,
    /// 2: the arguments or a file are not valid; nothing was changed.
    BadInput,
    /// 128 + the number of the signal that ended it: 130 for SIGINT, 143 for SIGTERM.
    Signalled(u8),
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::BadInput => 2,
            Self::Signalled(signal) => 128_u8.saturating_add(signal),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
