//! Follows edits of manifest files.
//!
//! The files are read and compared, not watched. Edits in place, atomic renames, the symbolic links of a
//! ConfigMap volume and network file systems all behave alike that way, and manifests are small.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{ManifestError, Manifests, Source, parse, texts};

/// Interval between readings.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long a reading must stay the same before it is an edit.
///
/// The first part of a file that is being written can be a valid manifest with fewer images, which must not
/// be removed for that. Editors and copies over slow networks pause for a second or two. The time is counted
/// by this process, since the file's time may come from another machine's clock.
const STABLE: Duration = Duration::from_secs(3);

/// The manifests after an edit, or why they are invalid.
pub(crate) type Edit = Result<Manifests, ManifestError>;

/// The texts of one reading, or the message of its error.
type Reading = Result<Vec<(String, String)>, String>;

/// Finds edits in a sequence of readings.
#[derive(Debug)]
struct EditFilter {
    /// The last edit.
    current: Reading,
    /// The last reading if it differs from `current`, and when it was first seen.
    candidate: Option<(Reading, Instant)>,
}

impl EditFilter {
    /// Whether this reading completes an edit.
    fn accept(&mut self, reading: &Reading, now: Instant) -> bool {
        if *reading == self.current {
            self.candidate = None;
            return false;
        }
        match &self.candidate {
            Some((candidate, since)) if candidate == reading => {
                if now.saturating_duration_since(*since) < STABLE {
                    return false;
                }
                self.current = reading.clone();
                self.candidate = None;
                true
            }
            _ => {
                self.candidate = Some((reading.clone(), now));
                false
            }
        }
    }
}

/// Reads the sources until the receiver is closed, and sends each edit once.
///
/// `current` are the texts that are in effect.
pub(crate) async fn follow_edits(
    sources: Vec<Source>,
    current: Vec<(String, String)>,
    edits: mpsc::Sender<Edit>,
) {
    let mut filter = EditFilter {
        current: Ok(current),
        candidate: None,
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = edits.closed() => return,
        }
        let sources = sources.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || texts(&sources)).await else {
            return;
        };
        let reading = match &read {
            Ok(texts) => Ok(texts.clone()),
            Err(error) => Err(error.to_string()),
        };
        if filter.accept(&reading, Instant::now()) {
            let edit = read.and_then(|texts| parse(&texts));
            if edits.send(edit).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(text: &str) -> Reading {
        Ok(vec![("f".to_owned(), text.to_owned())])
    }

    /// Returns the indexes of the readings that complete an edit; each reading has a time in milliseconds.
    fn accepted(readings: &[(u64, Reading)]) -> Vec<usize> {
        let mut filter = EditFilter {
            current: reading("a"),
            candidate: None,
        };
        let start = Instant::now();
        readings
            .iter()
            .enumerate()
            .filter(|(_, (at, reading))| filter.accept(reading, start + Duration::from_millis(*at)))
            .map(|(i, _)| i)
            .collect()
    }

    #[test]
    fn a_stable_edit_is_accepted_once() {
        let whole = || reading("whole");
        let readings = [
            (0, reading("a")),
            (500, whole()),
            (1000, whole()),
            (3499, whole()),
            (3500, whole()),
            (9000, whole()),
        ];
        assert_eq!(accepted(&readings), [4]);
    }

    #[test]
    fn the_first_part_of_a_slow_write_is_not_an_edit() {
        let readings = [
            (0, reading("half")),
            (2500, reading("half")),
            (3000, reading("whole")),
            (5500, reading("whole")),
            (6000, reading("whole")),
        ];
        assert_eq!(accepted(&readings), [4]);
    }

    #[test]
    fn a_file_that_is_missing_briefly_is_not_an_edit() {
        let missing = || Err("missing".to_owned());
        let readings = [
            (0, missing()),
            (2500, reading("a")),
            (3000, missing()),
            (5500, missing()),
            (6000, missing()),
            (9500, missing()),
        ];
        assert_eq!(accepted(&readings), [4]);
    }
}
