//! What both loops wait for.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::port::Clock;

/// The first of these operations to end; `None` when the pause is over before. Without a pause, and
/// without operations, that half is waited for without end.
pub(super) async fn first_of<T>(
    operations: &mut FuturesUnordered<BoxFuture<'static, T>>,
    clock: &dyn Clock,
    pause: Option<Duration>,
) -> Option<T> {
    let timer = async {
        match pause {
            Some(pause) => clock.sleep(pause).await,
            None => std::future::pending().await,
        }
    };
    let none = operations.is_empty();
    let ended = async {
        match none {
            true => std::future::pending().await,
            false => operations.next().await,
        }
    };
    futures_util::pin_mut!(timer, ended);
    futures_util::select_biased! {
        done = ended.fuse() => done,
        () = timer.fuse() => None,
    }
}
