//! Follows edits of manifest files.
//!
//! Files are read and compared, not watched: an edit in place, an atomic rename, a ConfigMap's
//! symbolic links and a network file system all look the same that way, and a manifest is small.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::manifest::{self, ManifestError, Manifests, Source};

/// How often the files are read.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long an edit must stay as it is before it counts.
///
/// The first part of a file that is being written in place can be a valid manifest, with fewer
/// images: they must not be removed for that. Editors and copies over slow networks pause for up
/// to a second or two. What counts is how long this process has seen the same text, not the file's
/// time, which another machine's clock may have set.
const SETTLED: Duration = Duration::from_secs(3);

/// An edit, good or bad.
pub type Edit = Result<Manifests, ManifestError>;

/// What one reading showed: the texts, or the words of the error.
type Reading = Result<Vec<(String, String)>, String>;

/// Tells edits from readings.
#[derive(Debug)]
struct Comparison {
    /// What was last told.
    told: Reading,
    /// The last reading, if it differs from what was told, and since when it has been so.
    news: Option<(Reading, Instant)>,
}

impl Comparison {
    /// Whether that reading is news that has settled.
    fn take(&mut self, reading: &Reading, now: Instant) -> bool {
        if *reading == self.told {
            self.news = None;
            return false;
        }
        match &self.news {
            Some((news, since)) if news == reading => {
                if now.saturating_duration_since(*since) < SETTLED {
                    return false;
                }
                self.told = reading.clone();
                self.news = None;
                true
            }
            _ => {
                self.news = Some((reading.clone(), now));
                false
            }
        }
    }
}

/// Reads the sources until nobody wants to know, and sends each edit once.
///
/// `texts` is what they said when their present content was put in force.
pub async fn follow(sources: Vec<Source>, texts: Vec<(String, String)>, edits: mpsc::Sender<Edit>) {
    let mut comparison = Comparison {
        told: Ok(texts),
        news: None,
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = edits.closed() => return,
        }
        let sources = sources.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || read(&sources)).await else {
            return;
        };
        let reading = match &read {
            Ok(texts) => Ok(texts.clone()),
            Err(error) => Err(error.to_string()),
        };
        if comparison.take(&reading, Instant::now()) {
            let edit = read.and_then(|texts| manifest::parse(&texts));
            if edits.send(edit).await.is_err() {
                return;
            }
        }
    }
}

/// The texts of all sources, each with its name. Blocks.
///
/// # Errors
///
/// [`ManifestError::Read`] of the first that can't be read.
pub fn read(sources: &[Source]) -> Result<Vec<(String, String)>, ManifestError> {
    sources
        .iter()
        .map(|source| Ok((source.to_string(), source.text()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(text: &str) -> Reading {
        Ok(vec![("f".to_owned(), text.to_owned())])
    }

    /// Takes readings, each after that many milliseconds; which of them count.
    fn counted(readings: &[(u64, Reading)]) -> Vec<usize> {
        let mut comparison = Comparison {
            told: reading("a"),
            news: None,
        };
        let start = Instant::now();
        readings
            .iter()
            .enumerate()
            .filter(|(_, (at, reading))| {
                comparison.take(reading, start + Duration::from_millis(*at))
            })
            .map(|(i, _)| i)
            .collect()
    }

    #[test]
    fn an_edit_counts_once_when_it_has_settled() {
        let whole = || reading("whole");
        let readings = [
            (0, reading("a")),
            (500, whole()),
            (1000, whole()),
            (3499, whole()),
            (3500, whole()),
            (9000, whole()),
        ];
        assert_eq!(counted(&readings), [4]);
    }

    #[test]
    fn the_first_part_of_a_slow_write_is_no_edit() {
        let readings = [
            (0, reading("half")),
            (2500, reading("half")),
            (3000, reading("whole")),
            (5500, reading("whole")),
            (6000, reading("whole")),
        ];
        assert_eq!(counted(&readings), [4]);
    }

    #[test]
    fn a_file_that_is_gone_for_a_moment_is_no_edit() {
        let gone = || Err("gone".to_owned());
        let readings = [
            (0, gone()),
            (2500, reading("a")),
            (3000, gone()),
            (5500, gone()),
            (6000, gone()),
            (9500, gone()),
        ];
        assert_eq!(counted(&readings), [4]);
    }
}
