//! Compiles the clients of CRI and of containerd's services from `proto/`, without `protoc`.

use std::error::Error;

#[cfg(feature = "cri")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files = vec!["cri.proto"];
    // The registry client, which the feature oci has, fetches what is written to containerd.
    if cfg!(feature = "oci") {
        files.extend(["content.proto", "leases.proto", "snapshots.proto"]);
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        // Content passes through without being copied.
        .bytes(".containerd")
        // It holds credentials; src/cri/mod.rs implements a Debug that leaves them out.
        .skip_debug([".runtime.v1.AuthConfig"])
        .compile_fds(descriptors)?;
    Ok(())
}

#[cfg(not(feature = "cri"))]
fn main() -> Result<(), Box<dyn Error>> {
    Ok(())
}
