//! The node loop with inputs that are always ready.
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use fledged_core::model::{Assignment, ByteSize, ImagePhase, ImageRef, ImageReport};
use fledged_core::port::{MockImageRuntime, RemovalScope, RuntimeImage, RuntimeInfo};
use fledged_core::runner::{NodeLoop, NodeObserver};
use fledged_core::sim::SimClock;
use fledged_core::warmer::{NodeEvent, Warmer, WarmerConfig};
use futures_util::future::poll_fn;
use futures_util::stream::{self, StreamExt};

const INPUTS: usize = 1_000;

/// Records how many inputs the loop had taken when the image was cached.
struct Watch {
    taken: Arc<AtomicUsize>,
    cached_after: Mutex<Option<usize>>,
    done: Arc<AtomicBool>,
}

impl NodeObserver for Watch {
    fn image_changed(&self, report: &ImageReport) {
        if report.phase == ImagePhase::Cached {
            let taken = self.taken.load(Ordering::SeqCst);
            self.cached_after.lock().unwrap().get_or_insert(taken);
            self.done.store(true, Ordering::SeqCst);
        }
    }
}

#[test]
fn a_pull_progresses_while_inputs_are_always_ready() {
    let image: ImageRef = "app:1".parse().unwrap();
    let held = RuntimeImage::new("app", [image.clone()]).with_size(ByteSize::new(1));
    let mut runtime = MockImageRuntime::new();
    runtime.expect_info().returning(|| {
        Ok(RuntimeInfo::new("mock", "1", RemovalScope::Image).with_api_version("v1"))
    });
    runtime.expect_list().returning(|| Ok(Vec::new()));
    runtime.expect_pull().returning(move |_| Ok(held.clone()));

    let taken = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let watch = Arc::new(Watch {
        taken: Arc::clone(&taken),
        cached_after: Mutex::new(None),
        done: Arc::clone(&done),
    });
    let clock = SimClock::new();
    let mut node = NodeLoop::new(
        Warmer::new(WarmerConfig::default(), 1),
        Arc::new(runtime),
        Arc::new(clock.clone()),
    )
    .with_observer(watch.clone());
    let assignment = Assignment::present([image]);
    let inputs = stream::iter(0..INPUTS).map(|n| {
        taken.store(n + 1, Ordering::SeqCst);
        NodeEvent::Assigned(assignment.clone())
    });
    let shutdown = poll_fn(|_| match done.load(Ordering::SeqCst) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    });
    clock.block_on(node.run(inputs, shutdown)).unwrap();
    let after = watch.cached_after.lock().unwrap().unwrap();
    assert!(
        after < INPUTS,
        "the image was cached only after all {after} inputs"
    );
}
