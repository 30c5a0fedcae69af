//! Registries whose credentials a node has without any Secret.

/// The name of a cloud's registry, whose images kubelets pull with a credential-provider plugin.
pub(super) fn cloud_registry(host: &str) -> Option<&'static str> {
    let host = host.to_ascii_lowercase();
    let host = host.split(':').next().unwrap_or_default();
    let labels: Vec<&str> = host.split('.').collect();
    match labels.as_slice() {
        [_, "dkr", ecr, _, "amazonaws", ..] if ecr.starts_with("ecr") => Some("Amazon ECR"),
        [
            _,
            "dkr-ecr" | "dkr-ecr-fips",
            _,
            "on",
            "aws" | "amazonwebservices",
            ..,
        ] => Some("Amazon ECR"),
        [_, "azurecr", "io" | "cn" | "us" | "de"] => Some("Azure Container Registry"),
        [location, "pkg", "dev"] if location.ends_with("-docker") => {
            Some("Google Artifact Registry")
        }
        ["gcr", "io"] | [_, "gcr", "io"] => Some("Google Artifact Registry"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_of_clouds_are_known() {
        let (ecr, acr, gar) = (
            Some("Amazon ECR"),
            Some("Azure Container Registry"),
            Some("Google Artifact Registry"),
        );
        for (host, name) in [
            ("111111111111.dkr.ecr.eu-west-1.amazonaws.com", ecr),
            ("111111111111.dkr.ecr-fips.us-east-1.amazonaws.com", ecr),
            ("111111111111.dkr.ecr.cn-north-1.amazonaws.com.cn", ecr),
            ("111111111111.dkr-ecr.eu-west-1.on.aws", ecr),
            ("team.azurecr.io", acr),
            ("team.azurecr.cn", acr),
            ("europe-docker.pkg.dev", gar),
            ("gcr.io", gar),
            ("eu.gcr.io", gar),
            // Public: no credentials are needed.
            ("public.ecr.aws", None),
            ("azurecr.io", None),
            ("azurecr.io.example", None),
            ("ecr.example", None),
            ("docker.io", None),
            ("localhost:5000", None),
        ] {
            assert_eq!(cloud_registry(host), name, "{host}");
        }
    }
}
