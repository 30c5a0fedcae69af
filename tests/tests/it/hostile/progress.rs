//! Edits of one namespace do not keep the states of the others from being published.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fledged_tests::kube::{World, eventually};

use super::{APP, Tenant};

const LARGE: &str = "registry.test/large:1";
const FLAPPING: [&str; 2] = ["registry.test/one:1", "registry.test/two:1"];

#[tokio::test(flavor = "multi_thread")]
async fn edits_all_the_time_do_not_delay_another_status() {
    let world = World::start().await;
    world.publish(&[APP, FLAPPING[0], FLAPPING[1]]);
    world.registry().stall(LARGE);
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    let a = world.node("a").await;
    // A pull is running all the time.
    victim.create_images("large", &[LARGE]).await;
    attacker.create_images("flaps", &FLAPPING).await;
    let edits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&edits);
    let editing = tokio::spawn(async move {
        let mut moments = tokio::time::interval(Duration::from_millis(200));
        loop {
            moments.tick().await;
            let edit = counted.fetch_add(1, Ordering::Relaxed);
            attacker.edit("flaps", &FLAPPING[..=edit % 2]).await;
        }
    });
    eventually("some edits", || async {
        let edits = edits.load(Ordering::Relaxed);
        (edits > 5).then_some(()).ok_or(edits.to_string())
    })
    .await;
    for name in ["first", "second"] {
        victim.create_images(name, &[APP]).await;
        victim.converges(name).await;
    }
    assert!(!editing.is_finished());
    editing.abort();
    assert!(a.runtime.holds(APP));
}
