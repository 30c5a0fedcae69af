//! Another process that pulls and removes: this binary, started again.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use fledged_core::port::ImageRuntime;
use fledged_tests::Pushed;
use futures_util::future::join_all;

use crate::oci_layout::support::{image, open, pull};

/// Environment variable for the child: the folder, then references, separated by spaces.
const ORDER: &str = "FLEDGED_TEST_WRITER";
/// Not a test by itself: the child process, which a test starts from this binary.
#[tokio::test(flavor = "multi_thread")]
async fn writer() {
    let Ok(order) = std::env::var(ORDER) else {
        return;
    };
    let mut words = order.split(' ');
    let runtime = open(Path::new(words.next().unwrap()));
    let references: Vec<&str> = words.collect();
    for result in join_all(references.iter().map(|r| pull(&runtime, r))).await {
        result.unwrap();
    }
    for reference in references {
        runtime.remove(&image(reference)).await.unwrap();
    }
}

/// Starts a process that pulls these images in parallel, then removes them one by one.
pub(crate) fn start_writer(folder: &Path, pushed: &[Pushed], env: &[(&str, &str)]) -> Child {
    let mut order = folder.display().to_string();
    for pushed in pushed {
        order.push(' ');
        order.push_str(&pushed.reference);
    }
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "oci_layout::writer::writer", "--nocapture"])
        .env(ORDER, order)
        .envs(env.iter().copied())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
