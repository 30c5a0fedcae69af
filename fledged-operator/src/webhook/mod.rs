//! The validating webhook for ImageCaches: what the rules in the definition can't say.
//!
//! It is optional. The definition's own rules refuse what is malformed without it, and the controller says
//! in the status of an ImageCache what else is wrong with it; with the webhook, whoever applies it is told
//! at once. It refuses specs that the controller would not act on, and warns of such as will surprise.
//! What changes no spec passes: annotations, finalizers and statuses must get through whatever stands in
//! the spec.
//!
//! ```no_run
//! # async fn example(client: kube::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use fledged_operator::webhook::{CertificateSource, SelfIssued, Webhook};
//!
//! let issued = SelfIssued::new("kube-fledged", "kubefledged-webhook-server");
//! let webhook = Webhook::builder(client).certificate(CertificateSource::SelfIssued(issued)).build();
//! let server = webhook.bind(8443).await?;
//! server.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
//! # Ok(())
//! # }
//! ```

mod authority;
mod bundle;
mod certificate;
mod files;
mod issuing;
mod metrics;
mod nodes;
mod review;
mod secret;
mod server;
mod warning;
#[allow(clippy::module_inception)]
mod webhook;

pub use authority::IssueError;
pub use certificate::{CertificateHealth, InvalidCertificate};
pub use issuing::{CertificateError, SelfIssued};
pub use metrics::WebhookMetrics;
pub use review::{Verdict, judge};
pub use server::{WebhookError, WebhookServer};
pub use webhook::{CertificateSource, PATH, Webhook, WebhookBuilder};
