//! Entry points for fuzzing: credentials from files, helpers and plugins.

use std::path::Path;

use fledged_core::model::ImageRef;

use super::docker_helper;
use super::image_pattern::Pattern;
use super::provider_config::{self, PluginApi};
use super::provider_plugin;
use super::{DockerConfig, PullSecretKeyring};

/// A docker configuration in each of its forms, and the credentials for some images.
pub fn docker_config(bytes: &[u8]) {
    let images = ["app:1", "registry.example:5000/team/app:1", "[::1]:5000/a"];
    let images: Vec<ImageRef> = images.iter().filter_map(|i| i.parse().ok()).collect();
    for keyring in [
        PullSecretKeyring::from_docker_config_json(bytes),
        PullSecretKeyring::from_docker_cfg(bytes),
    ]
    .into_iter()
    .flatten()
    {
        for image in &images {
            let _ = (keyring.find(image), keyring.malformed_for(image));
        }
    }
    let _ = DockerConfig::from_json(bytes);
}

/// A `CredentialProviderConfig` of the kubelet.
pub fn provider_config(bytes: &[u8]) {
    let _ = provider_config::parse(Path::new("/config.yaml"), bytes);
}

/// The response of a credential-provider plugin, in each version.
pub fn provider_response(bytes: &[u8]) {
    for api in PluginApi::ALL {
        let _ = provider_plugin::parse(api, bytes);
    }
}

/// The answer of a docker credential helper.
pub fn helper_answer(bytes: &[u8]) {
    let _ = docker_helper::parse_answer(bytes);
}

/// A pattern of a docker configuration and of `matchImages`, matched with an image. Lines: pattern, image.
pub fn image_pattern(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (pattern, image) = text.split_once('\n').unwrap_or((&text, "app:1"));
    let Ok(image) = image.parse::<ImageRef>() else {
        return;
    };
    let patterns = [
        Pattern::parse(pattern),
        Pattern::parse_match_image(pattern).ok(),
    ];
    for pattern in patterns.into_iter().flatten() {
        let _ = pattern.matches(&image);
    }
}
