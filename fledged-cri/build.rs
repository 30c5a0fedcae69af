//! Compiles the CRI client from `proto/cri.proto`, without `protoc`.

use std::error::Error;

#[cfg(feature = "cri")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/cri.proto");
    let descriptors = protox::compile(["cri.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        // It holds credentials; src/cri/mod.rs implements a Debug that leaves them out.
        .skip_debug([".runtime.v1.AuthConfig"])
        .compile_fds(descriptors)?;
    Ok(())
}

#[cfg(not(feature = "cri"))]
fn main() -> Result<(), Box<dyn Error>> {
    Ok(())
}
