//! A status that is too large for the API: less of it is better than nothing.

use crate::crd::{NodeImageCacheStatus, NodeImageStatus};

/// Longest text of one failure once space is scarce, in characters: the start says what failed.
const MESSAGE_SHORT: usize = 80;

/// How much is left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shrink {
    /// Nothing.
    #[default]
    Nothing,
    /// The end of every message.
    Messages,
    /// Everything that only people read.
    Details,
    /// Everything that nobody acts upon.
    All,
}

impl Shrink {
    /// One step further.
    pub(super) fn further(self) -> Self {
        match self {
            Self::Nothing => Self::Messages,
            Self::Messages => Self::Details,
            Self::Details | Self::All => Self::All,
        }
    }

    /// Leaves out what this step does.
    pub(super) fn apply(self, status: &mut NodeImageCacheStatus) {
        for image in &mut status.images {
            match self {
                Self::Nothing => {}
                Self::Messages => shorten(image),
                Self::Details | Self::All => {
                    image.message = None;
                    image.digest = None;
                    image.started = None;
                    image.finished = None;
                    image.next_attempt = None;
                }
            }
            if self == Self::All {
                image.bytes = None;
                image.attempts = None;
            }
        }
    }
}

fn shorten(image: &mut NodeImageStatus) {
    if let Some(message) = &mut image.message
        && let Some((end, _)) = message.char_indices().nth(MESSAGE_SHORT)
    {
        message.truncate(end);
        message.push('…');
    }
}

#[cfg(test)]
mod tests {
    use fledged_core::error::Reason;
    use fledged_core::model::{ImagePhase, ImageReport, NodeReport};

    use super::*;

    #[test]
    fn each_step_is_smaller_and_the_last_still_says_what_is_acted_upon() {
        let mut image = ImageReport::new("app:1".parse().unwrap(), ImagePhase::Failed);
        image.message = Some("é".repeat(200));
        image.reason = Some(Reason::Unauthorized);
        image.revision = Some(3);
        image.attempts = 2;
        image.started_at = Some(jiff::Timestamp::UNIX_EPOCH);
        let status = NodeImageCacheStatus::from_report(&NodeReport::new(4, vec![image]));
        let mut step = Shrink::Nothing;
        let (mut sizes, mut lengths) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let mut less = status.clone();
            step.apply(&mut less);
            sizes.push(serde_json::to_string(&less).unwrap().len());
            let message = less.images[0].message.as_ref();
            lengths.push(message.map(|text| text.chars().count()));
            step = step.further();
        }
        assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
        assert_eq!(lengths, [Some(200), Some(81), None, None]);
        let mut least = status;
        Shrink::All.apply(&mut least);
        assert_eq!(
            serde_json::to_value(&least.images).unwrap(),
            serde_json::json!([{"image": "docker.io/library/app:1", "phase": "Failed",
                "reason": "Unauthorized", "revision": 3}])
        );
        assert_eq!(least.observed_generation, Some(4));
    }
}
