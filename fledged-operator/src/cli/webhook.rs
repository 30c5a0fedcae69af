//! `fledged-operator webhook`.

use fledged_core::tokio::ShutdownSignal;
use prometheus_client::registry::Registry;
use tracing::info;

use super::args::WebhookArgs;
use super::connect::connect;
use super::dispatch::ProgramError;
use super::listen::{listen, serving};
use fledged_operator::api::lease::CONTROLLER_NAMESPACE;
use fledged_operator::serve::Routes;
use fledged_operator::webhook::{CertificateSource, SelfIssued, Webhook, WebhookConfig};

pub(super) async fn run(
    args: WebhookArgs,
    mut shutdown: ShutdownSignal,
) -> Result<(), ProgramError> {
    let client = connect(&args.common).await?;
    let mut registry = Registry::default();
    let mut config = WebhookConfig::default();
    config.refresh_interval = args.image_cache_refresh_frequency;
    config.certificate = source(&args);
    let webhook = Webhook::new(client, config);
    webhook.register_metrics(&mut registry);
    let health = webhook.health();
    let routes = Routes::new().with_readiness("certificate", move || health.ready());
    let served = listen(&args.common, registry, routes).await?;
    let server = webhook.bind(args.port).await?;
    info!(version = env!("CARGO_PKG_VERSION"), "webhook starting");
    let stop = async move {
        shutdown.recv().await;
    };
    serving(served, server.run(stop)).await??;
    Ok(())
}

fn source(args: &WebhookArgs) -> CertificateSource {
    if let (Some(certificate), Some(key)) = (&args.cert_file, &args.key_file) {
        return CertificateSource::Files {
            certificate: certificate.clone(),
            key: key.clone(),
        };
    }
    let namespace = match args.service_namespace.as_str() {
        "" => CONTROLLER_NAMESPACE,
        namespace => namespace,
    };
    let mut issued = SelfIssued::new(namespace, &args.service_name);
    if let Some(secret) = &args.secret_name {
        issued.secret.clone_from(secret);
    }
    issued.configuration.clone_from(&args.webhook_configuration);
    CertificateSource::SelfIssued(issued)
}
