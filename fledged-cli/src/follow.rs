//! Follows edits of manifest files.
//!
//! Files are read and compared, not watched: an edit in place, an atomic rename, a ConfigMap's
//! symbolic links and a network file system all look the same that way, and a manifest is small.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::manifest::{self, ManifestError, Manifests, Source};

/// How often the files are read. An edit counts once two readings agree, so that a file that is
/// being written is not taken for one that has lost its images.
const INTERVAL: Duration = Duration::from_millis(500);

/// An edit, good or bad.
pub type Edit = Result<Manifests, ManifestError>;

/// What one reading showed: the texts, or the words of the error.
type Reading = Result<Vec<(String, String)>, String>;

/// Tells edits from readings.
#[derive(Debug)]
struct Comparison {
    /// What was last told.
    told: Reading,
    /// The last reading, if it differs from what was told.
    news: Option<Reading>,
}

impl Comparison {
    /// Whether that reading is news that has settled.
    fn take(&mut self, reading: &Reading) -> bool {
        if *reading == self.told {
            self.news = None;
            return false;
        }
        if self.news.as_ref() == Some(reading) {
            self.told = reading.clone();
            self.news = None;
            return true;
        }
        self.news = Some(reading.clone());
        false
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
        if comparison.take(&reading) {
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

    #[test]
    fn an_edit_counts_once_two_readings_agree() {
        let mut comparison = Comparison {
            told: reading("a"),
            news: None,
        };
        assert!(!comparison.take(&reading("a")));
        assert!(!comparison.take(&reading("half")));
        assert!(!comparison.take(&reading("whole")));
        assert!(comparison.take(&reading("whole")));
        assert!(!comparison.take(&reading("whole")));
    }

    #[test]
    fn a_file_that_is_gone_for_a_moment_is_no_edit() {
        let mut comparison = Comparison {
            told: reading("a"),
            news: None,
        };
        assert!(!comparison.take(&Err("gone".to_owned())));
        assert!(!comparison.take(&reading("a")));
        assert!(!comparison.take(&Err("gone".to_owned())));
        assert!(comparison.take(&Err("gone".to_owned())));
        assert!(!comparison.take(&Err("gone".to_owned())));
    }
}
