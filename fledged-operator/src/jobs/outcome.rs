//! What became of images that a Job was to remove, in a termination message.

use std::collections::BTreeMap;

use fledged_core::error::{Failure, Reason};
use fledged_core::port::Removal;
use serde::{Deserialize, Serialize};

/// Longest termination message that a kubelet passes on, in bytes.
pub const MESSAGE_MAX: usize = 4_096;
/// Texts are cut to that many characters where not everything has room, and further from there.
const TEXT_MAX: usize = 400;

/// What became of each image, by its place among those that were to be removed. An image that is in
/// none of the lists was not come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RemovalOutcomes {
    /// They were there and are gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<usize>,
    /// They were not there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<usize>,
    /// They stay, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kept: BTreeMap<usize, String>,
    /// They could not be removed, with a reason in one word and the runtime's own text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<usize, (String, String)>,
}

impl RemovalOutcomes {
    /// Takes note of one image.
    pub fn set(&mut self, place: usize, outcome: Result<Removal, Failure>) {
        match outcome {
            Ok(Removal::Removed) => self.removed.push(place),
            Ok(Removal::Absent) => self.absent.push(place),
            Ok(Removal::InUse(by)) => {
                self.kept.insert(place, by);
            }
            // Core may come to know another end; what it means is not known here.
            Ok(other) => {
                let text = format!("{other:?}");
                self.failed
                    .insert(place, (Reason::Unknown.to_string(), text));
            }
            Err(failure) => {
                let reason = failure.reason.to_string();
                self.failed.insert(place, (reason, failure.message));
            }
        }
    }

    /// What became of one image; `None` where it is not said.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<Result<Removal, Failure>> {
        if self.removed.contains(&place) {
            return Some(Ok(Removal::Removed));
        }
        if self.absent.contains(&place) {
            return Some(Ok(Removal::Absent));
        }
        if let Some(by) = self.kept.get(&place) {
            return Some(Ok(Removal::InUse(by.clone())));
        }
        let (reason, message) = self.failed.get(&place)?;
        let word = serde_json::Value::from(reason.as_str());
        let reason = serde_json::from_value(word).unwrap_or(Reason::Unknown);
        Some(Err(Failure::new(reason, message.as_str())))
    }

    /// As JSON of no more than [`MESSAGE_MAX`] bytes: texts are cut until it fits.
    #[must_use]
    pub fn to_message(&self) -> String {
        let mut cut = self.clone();
        let mut most = TEXT_MAX;
        loop {
            let text = serde_json::to_string(&cut).unwrap_or_default();
            if text.len() <= MESSAGE_MAX || most == 0 {
                return text;
            }
            let texts = cut.failed.values_mut().map(|(_, text)| text);
            for text in texts.chain(cut.kept.values_mut()) {
                *text = text.chars().take(most).collect();
            }
            most /= 2;
        }
    }

    /// Reads a termination message.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(message: &str) -> Result<Self, String> {
        serde_json::from_str(message.trim()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_each_is_told_by_its_place() {
        let failure = Failure::new(Reason::RuntimeUnavailable, "no such socket");
        let all = [
            Ok(Removal::Removed),
            Ok(Removal::Absent),
            Ok(Removal::InUse("by a container".to_owned())),
            Err(failure),
        ];
        let mut outcomes = RemovalOutcomes::default();
        for (place, outcome) in all.iter().enumerate() {
            outcomes.set(place, outcome.clone());
        }
        let read = RemovalOutcomes::parse(&format!("{}\n", outcomes.to_message())).unwrap();
        for (place, outcome) in all.into_iter().enumerate() {
            assert_eq!(read.get(place), Some(outcome));
        }
        assert_eq!(read.get(4), None);
        assert!(RemovalOutcomes::parse("panicked").is_err());
    }

    #[test]
    fn fifty_images_fit_whatever_is_said_of_them() {
        let mut outcomes = RemovalOutcomes::default();
        for place in 0..50 {
            let failure = Failure::new(Reason::CredentialsUnavailable, "é\"".repeat(3_000));
            outcomes.set(place, Err(failure));
        }
        let message = outcomes.to_message();
        assert!(message.len() <= MESSAGE_MAX, "{}", message.len());
        let read = RemovalOutcomes::parse(&message).unwrap();
        let failure = read.get(49).unwrap().unwrap_err();
        assert_eq!(failure.reason, Reason::CredentialsUnavailable);
    }
}
