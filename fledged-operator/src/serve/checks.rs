//! The checks behind a probe.

use std::fmt;
use std::sync::Arc;

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Named checks that all have to pass. Without any, all do.
#[derive(Clone, Default)]
pub(super) struct Checks(Vec<(String, Check)>);

impl fmt::Debug for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

impl Checks {
    pub(super) fn add(
        &mut self,
        name: impl Into<String>,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.0.push((name.into(), Arc::new(check)));
    }

    /// How they stand: a line each, as Kubernetes' own health endpoints write it.
    ///
    /// # Errors
    ///
    /// The same lines where one fails.
    pub(super) fn run(&self) -> Result<String, String> {
        let mut text = String::new();
        let mut passed = true;
        for (name, check) in &self.0 {
            match check() {
                Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
                Err(problem) => {
                    passed = false;
                    text.push_str(&format!("[-]{name} failed: {problem}\n"));
                }
            }
        }
        match passed {
            true => Ok(text),
            false => Err(text),
        }
    }
}
