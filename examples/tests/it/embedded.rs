//! Whoever tries an example with nothing installed sees something at once.
use std::path::Path;

use crate::support::Example;

#[tokio::test(flavor = "multi_thread")]
async fn every_example_runs_on_a_cluster_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let examples = [
        (env!("CARGO_BIN_EXE_custom-driver"), vec![folder], "edge: "),
        (
            env!("CARGO_BIN_EXE_images-of-deployments"),
            vec![],
            "deployments: ",
        ),
        (
            env!("CARGO_BIN_EXE_beside-your-controllers"),
            vec!["--listen", "127.0.0.1:0"],
            "web: ",
        ),
    ];
    for (program, args, cache) in examples {
        let example = Example::start_embedded(program, &args);
        let kubeconfig = example.printed("export KUBECONFIG=").await;
        assert!(Path::new(&kubeconfig).exists());
        // Without a line to a registry it stays like that, or fails; with one, it succeeds.
        let told = example.printed(cache).await;
        assert!(told.starts_with("ImageCacheCreate: "), "{told}");
        assert!(example.stop().await.success(), "{program}");
    }
}
