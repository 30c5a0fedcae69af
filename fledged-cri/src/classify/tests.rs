//! Error texts of real runtimes.

use std::time::Duration;

use fledged_core::error::Reason::{
    ConnectionFailed, DeadlineExceeded, DigestMismatch, DiskFull, ImageNotFound, InvalidImage,
    InvalidReference, PlatformNotFound, RegistryError, RegistryMisconfigured, RuntimeUnavailable,
    StoreUnusable, TooManyRequests, Unauthorized, Unknown,
};

use super::*;

fn check(texts: &[(Reason, &str)]) {
    for (reason, text) in texts {
        assert_eq!(reason_of_text(text), *reason, "{text}");
    }
}

#[test]
fn containerd() {
    check(&[
        (
            ImageNotFound,
            "failed to pull and unpack image \"docker.io/library/nope:1\": failed to resolve reference \"docker.io/library/nope:1\": docker.io/library/nope:1: not found",
        ),
        (
            Unauthorized,
            "failed to pull and unpack image \"docker.io/me/app:1\": failed to resolve reference \"docker.io/me/app:1\": pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
        ),
        (
            Unauthorized,
            "failed to resolve reference \"127.0.0.1:5000/private/app:1\": pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials",
        ),
        (
            Unauthorized,
            "failed to resolve reference \"127.0.0.1:4040/app:1\": unexpected status code [manifests 1]: 401 Unauthorized",
        ),
        (
            Unauthorized,
            "failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://ghcr.io/token?scope=repository%3Aa%2Fb%3Apull&service=ghcr.io: 403 Forbidden",
        ),
        (
            TooManyRequests,
            "failed to copy: httpReadSeeker: failed open: unexpected status code https://registry-1.docker.io/v2/library/rust/manifests/sha256:de6e081a4e9c10e70731071cec6f629892da1bbaa24b478a96bdc59060674117: 429 Too Many Requests - Server message: toomanyrequests: You have reached your pull rate limit.",
        ),
        (
            RegistryError,
            "failed to resolve reference \"quay.io/a/b:404\": unexpected status code [manifests 404]: 500 Internal Server Error",
        ),
        (
            RegistryError,
            "failed to resolve reference \"quay.io/a/b:1\": unexpected status from HEAD request to https://quay.io/v2/a/b/manifests/1: 503 Service Unavailable",
        ),
        (
            ConnectionFailed,
            "failed to do request: Head \"https://registry.example:4290/v2/a/manifests/401\": dial tcp 10.4.0.4:4290: connect: connection refused",
        ),
        (
            ConnectionFailed,
            "failed to do request: Head \"https://nowhere.example/v2/a/manifests/1\": dial tcp: lookup nowhere.example on 10.0.0.10:53: no such host",
        ),
        (
            ConnectionFailed,
            "failed to authorize: failed to fetch anonymous token: Get \"https://auth.docker.io/token?scope=x\": net/http: TLS handshake timeout",
        ),
        (
            ConnectionFailed,
            "failed to copy: httpReadSeeker: failed open: failed to do request: Get \"https://r/v2/a/blobs/sha256:4040\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
        ),
        (ConnectionFailed, "failed to copy: unexpected EOF"),
        (
            ConnectionFailed,
            "failed to pull and unpack image \"registry.example/a/b:1\": context canceled",
        ),
        (
            PlatformNotFound,
            "failed to pull and unpack image \"docker.io/a/b:1\": no match for platform in manifest: not found",
        ),
        (
            DigestMismatch,
            "failed commit on ref \"layer-sha256:4290aa\": unexpected commit digest sha256:4040, expected sha256:5030: failed precondition",
        ),
        (
            DiskFull,
            "failed to extract layer sha256:11: mount callback failed on /var/lib/containerd/tmpmounts/containerd-mount1: write /var/lib/containerd/tmpmounts/containerd-mount1/big: no space left on device: unknown",
        ),
        // What a registry writes is no report of the node's disk or runtime.
        (
            RegistryError,
            "failed to copy: httpReadSeeker: failed open: unexpected status code https://r.example/v2/a/blobs/sha256:11: 500 Internal Server Error - Server message: unknown: no space left on device",
        ),
        (
            RegistryError,
            "unexpected status from GET request to https://r.example/v2/a/manifests/1: 507 Insufficient Storage",
        ),
        (
            Unauthorized,
            "unexpected status code [manifests 1]: 403 Forbidden - Server message: denied: server is not initialized yet",
        ),
        (
            Unknown,
            "failed to extract layer sha256:11: failed to get reader from content store: content digest sha256:22: not found",
        ),
        (
            Unknown,
            "failed to copy: ref layer-sha256:22 locked for 1.503s (since 2024-04-29 10:00:00 +0000 UTC): unavailable",
        ),
        (RuntimeUnavailable, "server is not initialized yet"),
        (
            InvalidImage,
            "failed to pull and unpack image \"r/a:1\": unexpected media type text/html for sha256:11: not found",
        ),
        (
            InvalidReference,
            "failed to parse image reference \"A\": invalid reference format: repository name must be lowercase",
        ),
    ]);
}

#[test]
fn cri_o() {
    check(&[
        (
            ImageNotFound,
            "reading manifest 1.2.3 in quay.io/team/app: manifest unknown",
        ),
        (
            ImageNotFound,
            "initializing source docker://127.0.0.1:4010/a:1: reading manifest 1 in 127.0.0.1:4010/a: StatusCode: 404, \"404 page not found\"",
        ),
        (
            Unauthorized,
            "reading manifest latest in docker.io/me/app: errors:\ndenied: requested access to the resource is denied\nunauthorized: authentication required\n",
        ),
        (
            Unauthorized,
            "initializing source docker://quay.io/a/b:1: unable to retrieve auth token: invalid username/password: unauthorized: Invalid Username or Password",
        ),
        (
            ConnectionFailed,
            "pinging container registry 10.0.0.4:5000: Get \"https://10.0.0.4:5000/v2/\": dial tcp 10.0.0.4:5000: connect: no route to host",
        ),
        (
            RegistryMisconfigured,
            "pinging container registry r.example: Get \"https://r.example/v2/\": x509: certificate signed by unknown authority",
        ),
        (
            RegistryError,
            "fetching blob: received unexpected HTTP status: 502 Bad Gateway",
        ),
        (RegistryError, "RegistryUnavailable: pull image err"),
        (
            TooManyRequests,
            "reading manifest 1 in docker.io/a/b: toomanyrequests: You have reached your pull rate limit.",
        ),
        (
            PlatformNotFound,
            "choosing an image from manifest list docker://a/b:1: no image found in image index for architecture arm64, variant \"v8\", OS linux",
        ),
        (
            DiskFull,
            "writing blob: storing blob to file \"/var/tmp/storage1/1\": write /var/tmp/storage1/1: no space left on device",
        ),
        (
            InvalidImage,
            "SignatureValidationFailed: Source image rejected: A signature was required, but no signature exists",
        ),
    ]);
}

#[test]
fn docker() {
    check(&[
        (
            Unauthorized,
            "pull access denied for me/app, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
        ),
        (
            ImageNotFound,
            "manifest for nginx:401 not found: manifest unknown: manifest unknown",
        ),
        (ImageNotFound, "No such image: nginx:429"),
        (
            Unauthorized,
            "Get \"https://r.example/v2/\": unauthorized: authentication required",
        ),
        (Unauthorized, "error from registry: denied"),
        (
            Unauthorized,
            "error parsing HTTP 403 response body: unexpected end of JSON input: \"\"",
        ),
        (
            TooManyRequests,
            "toomanyrequests: retry-after: 985.86µs, allowed: 44000/minute",
        ),
        (
            RegistryError,
            "received unexpected HTTP status: 500 Internal Server Error",
        ),
        (
            RegistryMisconfigured,
            "Get \"https://127.0.0.1:4040/v2/\": http: server gave HTTP response to HTTPS client",
        ),
        (
            ConnectionFailed,
            "Get \"https://r/v2/\": net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)",
        ),
        (
            PlatformNotFound,
            "no matching manifest for linux/arm64/v8 in the manifest list entries",
        ),
        (
            PlatformNotFound,
            "image operating system \"windows\" cannot be used on this platform",
        ),
        (
            DiskFull,
            "failed to register layer: Error processing tar file(exit status 1): write /big: no space left on device",
        ),
        (
            DigestMismatch,
            "filesystem layer verification failed for digest sha256:4290",
        ),
        (DeadlineExceeded, "context deadline exceeded"),
    ]);
}

#[test]
fn error_bodies_of_registries() {
    check(&[
        (
            Unauthorized,
            "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"requested\"}]}",
        ),
        (
            ImageNotFound,
            "{\"errors\":[{\"code\":\"NAME_UNKNOWN\",\"message\":\"\"}]}",
        ),
        (
            TooManyRequests,
            "{\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"slow down\"}]}",
        ),
    ]);
}

#[test]
fn names_and_digits_are_ignored() {
    check(&[
        (
            Unknown,
            "failed to pull and unpack image \"r.example:5003/team/forbidden:404\": something new",
        ),
        (
            Unknown,
            "failed to pull r.example/rate-limit/unauthorized:429",
        ),
        (
            Unknown,
            "failed on sha256:4290000000000000000000000000000000000000000000000000000000000404",
        ),
        (
            StoreUnusable,
            "failed to extract layer sha256:0011: mkdir /var/lib/containerd/x: read-only file system: unknown",
        ),
        (Unknown, "open /var/lib/containerd/x: permission denied"),
        (Unknown, "read 404 bytes of 500 at 127.0.0.1:4040"),
        (Unknown, ""),
    ]);
}

#[test]
fn a_failure_has_the_text_and_its_delay() {
    let failure = failure_of_text("429 Too Many Requests, retry after 5 seconds");
    assert_eq!(failure.reason, TooManyRequests);
    assert_eq!(failure.retry_after, Some(Duration::from_secs(5)));
    assert_eq!(
        failure.message,
        "429 Too Many Requests, retry after 5 seconds"
    );
}

#[test]
fn statuses_have_reasons() {
    for (status, reason) in [
        (401, Reason::Unauthorized),
        (403, Reason::Unauthorized),
        (404, Reason::ImageNotFound),
        (429, Reason::TooManyRequests),
        (503, Reason::RegistryError),
        (507, Reason::RegistryError),
        (418, Reason::Unknown),
    ] {
        assert_eq!(from_status(status, "").reason, reason, "{status}");
    }
}

#[test]
fn permanent_refusals_are_not_unknown() {
    for (status, reason) in [
        (402, Reason::Unauthorized),
        (406, Reason::InvalidImage),
        (410, Reason::ImageNotFound),
        (412, Reason::Unauthorized),
        (451, Reason::Unauthorized),
    ] {
        assert_eq!(from_status(status, "").reason, reason, "{status}");
        let text = format!(
            "unexpected status from HEAD request to https://r/v2/a/manifests/1: {status} X"
        );
        assert_eq!(reason_of_text(&text), reason, "{text}");
    }
    for (text, reason) in [
        (
            "the answer was 412 Precondition Failed",
            Reason::Unauthorized,
        ),
        (
            "the answer was 451 Unavailable For Legal Reasons",
            Reason::Unauthorized,
        ),
        ("the answer was 402 Payment Required", Reason::Unauthorized),
        ("the answer was 410 Gone", Reason::ImageNotFound),
    ] {
        assert_eq!(reason_of_text(text), reason, "{text}");
    }
}

#[test]
fn refusals_without_a_status_are_known() {
    let artifact_registry = "Error response from daemon: denied: Unauthenticated request. Unauthenticated \
        requests do not have permission \"artifactregistry.repositories.downloadArtifacts\" on resource \
        \"projects/p/locations/eu/repositories/r\" (or it may not exist)";
    let permission = "denied: Permission \"artifactregistry.repositories.downloadArtifacts\" denied on \
        resource \"projects/p/locations/eu/repositories/r\" (or it may not exist)";
    let firewall = "Error response from daemon: denied: client with IP '203.0.113.9' is not allowed \
        access. Refer https://aka.ms/acr/firewall to grant access";
    for text in [artifact_registry, permission, firewall] {
        assert_eq!(reason_of_text(text), Reason::Unauthorized, "{text}");
    }
    assert_eq!(reason_of_text("pull QPS exceeded"), Reason::TooManyRequests);
}

#[test]
fn misconfigured_registries_are_permanent() {
    for text in [
        "failed to pull and unpack image \"r.lan:5000/a:1\": failed to resolve reference \"r.lan:5000/a:1\": failed to do request: Head \"https://r.lan:5000/v2/a/manifests/1\": http: server gave HTTP response to HTTPS client",
        "failed to do request: Head \"https://r.lan/v2/a/manifests/1\": tls: failed to verify certificate: x509: certificate signed by unknown authority",
        "failed to do request: Head \"https://r.lan/v2/a/manifests/1\": x509: certificate has expired or is not yet valid: current time 2026-11-01T10:00:00Z is after 2025-11-01T10:00:00Z",
        "Error response from daemon: Get \"https://r.lan/v2/\": tls: failed to verify certificate: x509: certificate is valid for localhost, not r.lan",
        "Get \"https://10.0.0.1/v2/\": x509: cannot validate certificate for 10.0.0.1 because it doesn't contain any IP SANs",
        "x509: certificate is not authorized to sign other certificates",
        "x509: certificate relies on legacy Common Name field, use SANs instead",
        "Get \"https://r.lan/v2/\": remote error: tls: certificate required",
        "Get \"https://r.lan/v2/\": remote error: tls: handshake failure",
        "Get \"https://r.lan/v2/\": tls: first record does not look like a TLS handshake",
        "unexpected status from HEAD request to http://r.lan:443/v2/a/manifests/1: 400 Bad Request - Server message: Client sent an HTTP request to an HTTPS server.",
        "received unexpected HTTP status: 400 The plain HTTP request was sent to HTTPS port",
        "failed to do request: Head \"htps://r.lan/v2/a/manifests/1\": unsupported protocol scheme \"htps\"",
        "failed to resolve reference \"r.lan/a:1\": no resolve hosts: not found",
        "failed to resolve reference \"r.lan/a:1\": unable to load CA cert \"/etc/containerd/certs.d/r.lan/ca.crt\"",
        "Get \"https://r.lan/v2/\": Proxy Authentication Required",
        "unexpected status from HEAD request to http://r.lan/v2/a/manifests/1: 407 Proxy Authentication Required",
        "registry docker.io is blocked in /etc/containers/registries.conf or /etc/containers/registries.conf.d",
    ] {
        assert_eq!(reason_of_text(text), RegistryMisconfigured, "{text}");
        for prefix in ["ErrImagePull: ", "rpc error: code = Unknown desc = "] {
            assert_eq!(
                reason_of_text(&format!("{prefix}{text}")),
                RegistryMisconfigured,
                "{text}"
            );
        }
    }
    check(&[
        (
            ConnectionFailed,
            "Head \"https://r.lan/v2/a/manifests/1\": dial tcp: lookup r.lan on 10.0.0.10:53: no such host",
        ),
        (
            ConnectionFailed,
            "Get \"https://r.lan/v2/\": net/http: TLS handshake timeout",
        ),
        (ConnectionFailed, "remote error: tls: internal error"),
        // The registry's own trouble with its upstream.
        (
            RegistryError,
            "unexpected status from HEAD request to https://r.lan/v2/a/manifests/1: 502 Bad Gateway - Server message: x509: certificate signed by unknown authority",
        ),
        (
            InvalidReference,
            "short-name \"nginx:1.27\" did not resolve to an alias and no unqualified-search registries are defined in \"/etc/containers/registries.conf\"",
        ),
        (
            Unauthorized,
            "Source image rejected: Running image docker://r.lan/a:1 is rejected by policy.",
        ),
    ]);
}

#[test]
fn a_message_has_no_control_characters() {
    let failure = failure_of_text("denied:\n\u{1b}[31mno\u{0}");
    assert!(!failure.message.contains(|c: char| c.is_control()));
    assert!(failure.message.contains("denied"), "{}", failure.message);
}
