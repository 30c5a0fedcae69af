//! The examples with `--embedded`, which need nothing installed.
use std::path::Path;

use crate::support::Example;

#[tokio::test(flavor = "multi_thread")]
async fn every_example_runs_on_an_embedded_cluster() {
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
        // The result depends on whether the registry can be reached, so only the action is checked.
        let printed = example.printed(cache).await;
        assert!(printed.starts_with("ImageCacheCreate: "), "{printed}");
        assert!(example.stop().await.success(), "{program}");
    }
}
