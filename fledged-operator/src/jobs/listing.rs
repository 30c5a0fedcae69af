//! What the driver of a controller that leads has not been told of yet.

use std::sync::{Arc, Mutex, PoisonError};

/// Kinds that were not listed yet; empty while no controller leads.
#[derive(Debug, Clone, Default)]
pub(super) struct Listing(Arc<Mutex<Vec<&'static str>>>);

/// The same while a controller leads: what is missing then is forgotten at its end.
#[derive(Debug)]
pub(super) struct Leading(Listing);

impl Listing {
    /// A controller leads from now on, and knows of nothing.
    pub(super) fn begin(&self) -> Leading {
        let leading = Leading(self.clone());
        leading.missing(vec!["Nodes", "NodeImageCaches", "Jobs", "Pods"]);
        leading
    }

    pub(super) fn ready(&self) -> Result<(), String> {
        let missing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("waiting for the lists of {}", missing.join(", "))),
        }
    }
}

impl Leading {
    /// These are missing, and nothing else.
    pub(super) fn missing(&self, kinds: Vec<&'static str>) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = kinds;
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.missing(Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_leads_is_ready_once_nothing_is_missing() {
        let listing = Listing::default();
        assert!(listing.ready().is_ok(), "nobody leads");
        let leading = listing.begin();
        assert!(listing.ready().unwrap_err().contains("Jobs, Pods"));
        leading.missing(vec!["Pods"]);
        assert_eq!(
            listing.ready().unwrap_err(),
            "waiting for the lists of Pods"
        );
        leading.missing(Vec::new());
        assert!(listing.ready().is_ok());
        leading.missing(vec!["Nodes"]);
        drop(leading);
        assert!(listing.ready().is_ok(), "it leads no more");
    }
}
