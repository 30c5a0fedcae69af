//! The operator as a whole: from ImageCaches to images on nodes and the reported status.
//!
//! The tests run on the embedded API server, or on a real one if `KUBEBUILDER_ASSETS` (a folder with `etcd` and
//! `kube-apiserver`) or `TEST_KUBECONFIG` (a cluster) is set. Every scenario runs with agents on the nodes,
//! and with Jobs, whose pods are run by stand-in kubelets.

/// Defines each scenario as two tests: with agents and with Jobs.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        mod agents {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(fledged_tests::kube::Way::Agents).await;
                }
            )*
        }
        mod jobs {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(fledged_tests::kube::Way::Jobs).await;
                }
            )*
        }
    };
}

mod actions;
mod credential_providers;
mod deaths;
mod edits;
mod jobs;
mod kubectl;
mod leaders;
mod nodes;
mod objects;
mod outages;
mod secrets;
mod sharing;
mod switching;
