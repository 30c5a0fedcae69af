//! Compiles the server side of CRI for the fake runtime, from the proto that `fledged-cri` speaks.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../fledged-cri/proto/cri.proto");
    let descriptors = protox::compile(["cri.proto"], ["../fledged-cri/proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .compile_fds(descriptors)?;
    Ok(())
}
