//! What the loop is told, on its way from the watch.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use fledged_core::port::Clock;
use fledged_core::runner::NodeInput;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};
use tokio::sync::mpsc;

use super::health::{AgentHealth, BEAT};
use crate::report::{Source, Taken};

/// One input, and for an assignment the object that it came from.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) source: Option<Source>,
    pub(super) input: NodeInput,
}

/// The inputs of a loop. Being asked for more is the loop's sign of life, so it is woken for that
/// now and then.
pub(super) struct Inputs {
    receiver: mpsc::Receiver<Input>,
    taken: Taken,
    health: AgentHealth,
    clock: Arc<dyn Clock>,
    beat: BoxFuture<'static, ()>,
}

impl Inputs {
    pub(super) fn new(
        receiver: mpsc::Receiver<Input>,
        taken: Taken,
        health: AgentHealth,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            receiver,
            taken,
            health,
            beat: beat(&clock),
            clock,
        }
    }
}

fn beat(clock: &Arc<dyn Clock>) -> BoxFuture<'static, ()> {
    let clock = Arc::clone(clock);
    Box::pin(async move { clock.sleep(BEAT).await })
}

impl Stream for Inputs {
    type Item = NodeInput;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<NodeInput>> {
        self.health.beat();
        while self.beat.poll_unpin(context).is_ready() {
            self.beat = beat(&self.clock);
        }
        self.receiver.poll_recv(context).map(|input| {
            let Input { source, input } = input?;
            if matches!(input, NodeInput::Assign(_)) {
                self.taken.put(source);
            }
            Some(input)
        })
    }
}
