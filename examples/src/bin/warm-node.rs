//! Pulls images to a node from a custom program: `warm-node RUNTIME IMAGE...`, where RUNTIME is a URI such
//! as `unix:///run/containerd/containerd.sock`, `docker:///var/run/docker.sock` or `oci:DIR`.

use std::{error::Error, sync::Arc};

use fledged_core::model::{Assignment, ImagePhase, ImageRef};
use fledged_core::runner::NodeLoop;
use fledged_core::tokio::TokioClock;
use fledged_core::warmer::Warmer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let uri = args.next().ok_or("usage: warm-node RUNTIME IMAGE...")?;
    let images: Vec<ImageRef> = args.map(|image| image.parse()).collect::<Result<_, _>>()?;

    let warmer = Warmer::new(Default::default(), std::process::id().into());
    let runtime = fledged_cri::open(&uri.parse()?, Default::default())?;
    let mut node = NodeLoop::new(warmer, runtime, Arc::new(TokioClock::new()));
    let report = node.settle(Assignment::present(images)).await;

    for image in &report.images {
        println!("{} {}", image.image, image.phase);
    }
    match report.images.iter().all(|i| i.phase == ImagePhase::Cached) {
        true => Ok(()),
        false => Err("not every image is on the node".into()),
    }
}
