//! Registries that asked nodes for a time without requests.

use std::collections::BTreeMap;
use std::time::Duration;

use fledged_core::model::ImageRef;

use super::HANDLING;

/// A node in one incarnation of its agent.
type Agent = (String, u32);

/// A registry's answer that asked for a time without requests.
#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Duration,
    until: Duration,
    /// Generation of the record, which the agent had taken up.
    generation: u64,
}

/// The times without requests that registries have asked for.
#[derive(Debug, Default)]
pub(super) struct Throttles(BTreeMap<Account, Asked>);

/// Whose requests a registry throttles: the agent, its host, the namespace, and the login of that namespace.
type Account = (Agent, String, String, Option<String>);

/// An image of one namespace that an agent pulls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pull<'a> {
    pub(super) node: &'a str,
    pub(super) incarnation: u32,
    pub(super) image: &'a ImageRef,
    /// The only namespace whose caches want it.
    pub(super) namespace: &'a str,
    /// The user name; `None` for an anonymous request.
    pub(super) user: Option<&'a str>,
    /// Generation of the record, which the agent has taken up.
    pub(super) generation: u64,
}

impl Pull<'_> {
    fn account(&self) -> Account {
        let agent = (self.node.to_owned(), self.incarnation);
        let registry = self.image.registry().to_owned();
        let user = self.user.map(str::to_owned);
        (agent, registry, self.namespace.to_owned(), user)
    }
}

impl Throttles {
    /// The registry answered a pull with 429 and this delay.
    pub(super) fn answered(&mut self, pull: Pull<'_>, now: Duration, delay: Duration) {
        let asked = Asked {
            at: now,
            until: now + delay,
            generation: pull.generation,
        };
        self.0.insert(pull.account(), asked);
    }

    /// Checks a pull that begins. `jumped` is when a wall clock was last set forward.
    pub(super) fn check(
        &self,
        pull: Pull<'_>,
        now: Duration,
        jumped: Option<Duration>,
    ) -> Result<(), String> {
        let Some(asked) = self.0.get(&pull.account()) else {
            return Ok(());
        };
        let same = asked.generation == pull.generation && jumped.is_none_or(|at| at < asked.at);
        let is_early = asked.at + HANDLING < now && now + HANDLING < asked.until;
        if same && is_early {
            return Err(format!(
                "{} asks {} for {}, which asked {} at {:.1} s for {:.1} s without requests",
                pull.node,
                pull.image.registry(),
                pull.image,
                pull.namespace,
                asked.at.as_secs_f64(),
                (asked.until - asked.at).as_secs_f64(),
            ));
        }
        Ok(())
    }
}
