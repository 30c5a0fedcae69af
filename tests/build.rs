//! Compiles CRI from the proto that `fledged-cri` speaks: the server's side for the fake runtime, the
//! client's for the plain client.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../fledged-cri/proto/cri.proto");
    let descriptors = protox::compile(["cri.proto"], ["../fledged-cri/proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
