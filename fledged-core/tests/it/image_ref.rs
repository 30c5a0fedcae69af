//! Parsing, normalisation and comparison of image references.
use std::collections::{BTreeMap, HashMap};

use fledged_core::model::{Digest, ImageRef};
use oci_spec::distribution::Reference;
use proptest::prelude::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(text: &str) -> ImageRef {
    ImageRef::parse(text).unwrap_or_else(|e| panic!("{e}"))
}

/// Returns the problem with an invalid reference; asserts that the error contains the reference.
fn problem(text: &str) -> String {
    let error = match ImageRef::parse(text) {
        Ok(image) => panic!("{text:?} was parsed as {image:?}"),
        Err(error) => error,
    };
    assert_eq!(error.value(), text);
    let shown = error.to_string();
    assert!(shown.ends_with(error.problem()), "{shown}");
    assert!(
        !shown.contains(['\n', '\0', '\u{1b}', '\u{202e}']),
        "{shown:?}"
    );
    let start: String = text
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .take(100)
        .collect();
    assert!(shown.contains(&start), "{shown}");
    error.problem().to_owned()
}

#[test]
fn references_are_normalised() {
    let digest = format!("sha256:{HEX}");
    for (written, normalised) in [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.25", "docker.io/library/nginx:1.25"),
        ("nginx:latest", "docker.io/library/nginx:latest"),
        ("library/nginx", "docker.io/library/nginx:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
        (
            "index.docker.io/library/nginx:1",
            "docker.io/library/nginx:1",
        ),
        ("bitnami/redis:7", "docker.io/bitnami/redis:7"),
        ("quay.io/org/app:v1", "quay.io/org/app:v1"),
        ("host:5000/app", "host:5000/app:latest"),
        ("host:5000/a/b/c:t", "host:5000/a/b/c:t"),
        ("host:5000", "docker.io/library/host:5000"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("127.0.0.1:5000/x:1", "127.0.0.1:5000/x:1"),
        ("a_b/c__d/e-f.g:T_1.x-Y", "docker.io/a_b/c__d/e-f.g:T_1.x-Y"),
        ("UPPER.example/app", "UPPER.example/app:latest"),
        (
            &format!("nginx@{digest}"),
            &format!("docker.io/library/nginx@{digest}"),
        ),
        (
            &format!("nginx:1.25@{digest}"),
            &format!("docker.io/library/nginx@{digest}"),
        ),
        (
            &format!("host:5000/app:1@{digest}"),
            &format!("host:5000/app@{digest}"),
        ),
    ] {
        let image = parse(written);
        assert_eq!(image.as_str(), normalised);
        assert_eq!(
            image.to_string(),
            written,
            "Display keeps the original text"
        );
        assert_eq!(image.original(), written);
        assert_eq!(format!("{image:?}"), format!("ImageRef({normalised})"));
        assert_eq!(image, parse(normalised));
        let repository = format!("{}/{}", image.registry(), image.repository());
        assert_eq!(image.name(), repository);
        assert!(normalised.starts_with(&repository));
    }
}

#[test]
fn references_are_split_into_parts() {
    let image = parse(&format!("host:5000/team/app:1.2@sha256:{HEX}"));
    assert_eq!(image.registry(), "host:5000");
    assert_eq!(image.repository(), "team/app");
    assert_eq!(image.name(), "host:5000/team/app");
    assert_eq!(image.tag(), Some("1.2"));
    assert_eq!(image.digest().map(Digest::hex), Some(HEX));
    let image = parse("app");
    assert_eq!(
        (image.registry(), image.repository()),
        ("docker.io", "library/app")
    );
    assert_eq!((image.tag(), image.digest()), (Some("latest"), None));
}

#[test]
fn only_untagged_and_latest_references_are_mutable() {
    for (written, mutable) in [
        ("app", true),
        ("host:5000/app", true),
        ("app:latest", true),
        ("app:1", false),
        ("app:latest-1", false),
        (&format!("app@sha256:{HEX}"), false),
        (&format!("app:latest@sha256:{HEX}"), false),
    ] {
        assert_eq!(parse(written).is_mutable(), mutable, "{written}");
    }
}

#[test]
fn references_compare_by_their_normalised_form() {
    let (short, long) = (parse("nginx"), parse("docker.io/library/nginx:latest"));
    assert_eq!(short, long);
    assert_eq!(short.cmp(&long), std::cmp::Ordering::Equal);
    assert_ne!(short, parse("nginx:1"));
    // Their original texts would sort the other way round.
    assert!(parse("zebra.example/a") > parse("nginx"));
    assert!(parse("nginx") < parse("nginy"));

    let hashed = HashMap::from([(short.clone(), 1)]);
    assert_eq!(hashed.get(&long), Some(&1));
    let runtime_name = "docker.io/library/nginx:latest";
    assert_eq!(hashed.get(runtime_name), Some(&1));
    let sorted = BTreeMap::from([(short, 1)]);
    assert_eq!(sorted.get(runtime_name), Some(&1));
    assert_eq!(sorted.get("nginx"), None);
}

#[test]
fn invalid_characters_are_named() {
    for (text, expected) in [
        ("nginx ", "white space"),
        (" nginx", "white space"),
        ("ngi nx", "white space"),
        ("nginx\tx", "white space"),
        ("nginx\n", "white space"),
        ("nginx\u{a0}x", "white space"),
        ("nginx\0", "a control character"),
        ("nginx\u{1b}[31m", "a control character"),
        ("nginx\u{7f}", "a control character"),
    ] {
        assert!(
            problem(text).contains(expected),
            "{text:?}: {}",
            problem(text)
        );
    }
    for text in [
        "nginx;reboot",
        "$(x)",
        "a$(x)",
        "a`id`",
        "a|b",
        "a&b",
        "a>b",
        "a<b",
        "a*",
        "a?",
        "a!",
        "a'b",
        "a\"b",
        "a\\b",
        "a{b}",
        "a[b]",
        "a#b",
        "a%20b",
        "a+b",
        "a=b",
        "a,b",
        "a^b",
        "a~b",
        "naïve",
        "nginx:ä",
        "nginx:１",
        "nginx\u{202e}",
        "ｎginx",
        "🐳",
    ] {
        let found = problem(text);
        assert!(
            found.contains("a character that no reference can have"),
            "{text:?}: {found}"
        );
        let bad = text
            .chars()
            .find(|c| !c.is_ascii_alphanumeric() && !".:/-_@".contains(*c));
        assert!(
            found.contains(&format!("{:?}", bad.unwrap())),
            "{text:?}: {found}"
        );
    }
}

#[test]
fn ipv6_addresses_of_registries_are_in_brackets() {
    for (text, registry, normalised) in [
        ("[::1]:5000/app:1", "[::1]:5000", "[::1]:5000/app:1"),
        (
            "[fd00:10::5]/team/app",
            "[fd00:10::5]",
            "[fd00:10::5]/team/app:latest",
        ),
        (
            "[2001:DB8:0:0:0:0:0:1]:443/app",
            "[2001:DB8:0:0:0:0:0:1]:443",
            "[2001:DB8:0:0:0:0:0:1]:443/app:latest",
        ),
    ] {
        let image = parse(text);
        assert_eq!((image.registry(), image.as_str()), (registry, normalised));
        let pinned = parse(&format!("{text}@sha256:{HEX}"));
        assert_eq!(pinned.registry(), registry);
        assert_eq!(parse(pinned.as_str()), pinned);
    }
    for (text, expected) in [
        ("[]/app", "IPv6"),
        ("[::1/app", "IPv6"),
        ("[::1]", "does not follow"),
        ("[::1]:5000", "does not follow"),
        ("[::1]/", "does not follow"),
        ("[::1]app/x", "does not follow"),
        ("[::1]:0/app", "port"),
        ("[::1]:99999/app", "port"),
        ("[::1]:/app", "port"),
        ("[::1%eth0]/app", "IPv6"),
        ("[::ffff:1.2.3.4]/app", "IPv6"),
        ("[1.2.3.4]/app", "IPv6"),
        ("[12345::]/app", "IPv6"),
        ("[host]/app", "IPv6"),
        ("[[::1]]/app", "IPv6"),
        ("::1/app", "does not follow"),
        ("a/[::1]/app", "a character that no reference can have"),
        (
            "docker.io/app:[1]",
            "a character that no reference can have",
        ),
    ] {
        let found = problem(text);
        assert!(found.contains(expected), "{text:?}: {found}");
    }
}

#[test]
fn malformed_references_are_explained() {
    let long_name = format!("{}/{}", "a".repeat(63), "b".repeat(255));
    let long_tag = format!("app:{}", "t".repeat(129));
    let long_host = format!("{}.example/app", "h".repeat(300));
    let whole = "a".repeat(600);
    for (text, expected) in [
        ("", "empty"),
        ("http://host/app", "scheme"),
        ("docker://nginx", "scheme"),
        ("oci://host/app:1", "scheme"),
        ("host:0/app", "port"),
        ("host:99999/app", "port"),
        ("host:65536/app", "port"),
        ("Nginx", "lower case"),
        ("org/App", "lower case"),
        ("host.example/Team/app:1", "lower case"),
        ("nginx:", "tag after \":\" is empty"),
        ("host:5000/app:", "tag after \":\" is empty"),
        ("nginx/", "does not follow"),
        ("/nginx", "does not follow"),
        ("host:5000/", "does not follow"),
        ("a//b", "does not follow"),
        ("..", "does not follow"),
        ("../app", "does not follow"),
        ("a/../b", "does not follow"),
        ("a/./b", "does not follow"),
        (".app", "does not follow"),
        ("app.", "does not follow"),
        ("-app", "does not follow"),
        ("app-", "does not follow"),
        ("a..b", "does not follow"),
        ("a___b", "does not follow"),
        ("nginx:.1", "does not follow"),
        ("nginx:-1", "does not follow"),
        ("nginx:1:2", "does not follow"),
        (":1", "does not follow"),
        ("@", "does not follow"),
        ("nginx@", "digest"),
        ("nginx@sha256", "digest"),
        ("nginx@sha256:abc", "digest"),
        (&format!("nginx@{HEX}"), "digest"),
        (&format!("@sha256:{HEX}"), "does not follow"),
        (&format!("nginx@sha256:{}", &HEX[1..]), "digest"),
        (&format!("nginx@sha256:{HEX}0"), "digest"),
        (&format!("nginx@md5:{}", &HEX[..32]), "digest"),
        (&format!("nginx@sha512:{HEX}"), "digest"),
        (
            &format!("nginx@sha256:{}", HEX.to_uppercase()),
            "lower-case hexadecimal",
        ),
        (&format!("nginx@sha256:{}z", &HEX[1..]), "digest"),
        (HEX, "image ID"),
        (&long_tag, "129"),
        (&long_name, "255"),
        (&long_host, "255"),
        (&whole, "600"),
    ] {
        let found = problem(text);
        assert!(found.contains(expected), "{text:?}: {found}");
    }
}

#[test]
fn parts_of_the_greatest_length_are_accepted() {
    let tag = "t".repeat(128);
    assert_eq!(parse(&format!("app:{tag}")).tag(), Some(tag.as_str()));
    let name = "n".repeat(255 - "docker.io/library/".len());
    assert_eq!(parse(&name).name().len(), 255);
    let longest = format!("{name}:{tag}@sha512:{}", "0".repeat(128));
    parse(&longest);
    assert!(problem(&format!("n{name}")).contains("256"));
}

#[test]
fn long_values_are_shortened_only_in_the_message() {
    let text = "x ".repeat(300);
    let error = ImageRef::parse(&text).unwrap_err();
    assert_eq!(error.value(), text);
    assert!(error.to_string().len() < 400);
    let error = ImageRef::parse(&"a b".repeat(100)).unwrap_err().to_string();
    assert!(error.contains('…'), "{error}");
}

#[test]
fn references_serialize_as_text() {
    let image: ImageRef = serde_json::from_str("\"nginx\"").unwrap();
    assert_eq!(image, parse("nginx:latest"));
    assert_eq!(serde_json::to_string(&image).unwrap(), "\"nginx\"");
    let error = serde_json::from_str::<ImageRef>("\"$(x)\"").unwrap_err();
    assert!(error.to_string().contains("$(x)"), "{error}");
    assert!(serde_json::from_str::<ImageRef>("7").is_err());
}

/// Generates texts, many of which are almost references.
fn nearly() -> impl Strategy<Value = String> {
    let odd = prop_oneof![
        Just(String::new()),
        Just(format!("@sha256:{HEX}")),
        Just(":5000/".to_owned()),
        "[ $`;|&\\n\\x00ä/.:@A-Z-]{1,2}",
    ];
    let word = "[a-zA-Z0-9._-]{0,12}";
    (
        word,
        odd.clone(),
        "[a-z0-9._/-]{0,20}",
        odd,
        prop::option::of("[\\w.-]{0,20}"),
    )
        .prop_map(|(a, b, c, d, tag)| match tag {
            Some(tag) => format!("{a}{b}{c}{d}:{tag}"),
            None => format!("{a}{b}{c}{d}"),
        })
}

/// Generates texts of the grammar's characters with many separators.
fn component_like() -> impl Strategy<Value = String> {
    "[a-c1A._-]{1,6}([/:.][a-c1A._-]{0,6}){0,3}"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn accepted_references_are_safe_and_normalised(text in prop_oneof![nearly(), ".{0,40}", "[a-z0-9]{1,9}(/[a-z0-9]{1,9}){0,2}(:[a-z0-9]{1,9})?"]) {
        let Ok(image) = ImageRef::parse(&text) else { return Ok(()) };
        let of_the_grammar = |c: char| c.is_ascii_alphanumeric() || ".:/-_@[]".contains(c);
        prop_assert!(text.chars().all(of_the_grammar), "{text:?}");
        prop_assert!(!text.starts_with(['-', '/', '.']), "{text:?}");
        prop_assert!(!text.contains("..") || image.tag().is_some_and(|t| t.contains("..")), "{text:?}");
        let again = ImageRef::parse(image.as_str());
        prop_assert_eq!(again.as_ref().map(ImageRef::as_str), Ok(image.as_str()));
        prop_assert_eq!(again, Ok(image.clone()));
        prop_assert_eq!(image.to_string(), text);
        prop_assert!(image.tag().is_some() || image.digest().is_some());
    }

    #[test]
    fn the_grammar_matches_a_reference_parser(text in prop_oneof![nearly(), component_like()]) {
        let ours = ImageRef::parse(&text);
        match (ours, Reference::try_from(text.as_str())) {
            (Ok(ours), theirs) => {
                let Ok(theirs) = theirs else { return Err(TestCaseError::fail(format!("{text:?}"))) };
                prop_assert_eq!(ours.registry(), theirs.registry());
                prop_assert_eq!(ours.repository(), theirs.repository());
                prop_assert_eq!(ours.tag().filter(|_| theirs.tag().is_some()), theirs.tag());
                prop_assert_eq!(ours.digest().map(Digest::as_str), theirs.digest());
            }
            // The other parser is laxer than the specification in these cases.
            (Err(error), Ok(theirs)) => {
                let upper = |text: &str| text.chars().any(|c| c.is_ascii_uppercase());
                let odd_host = |c: char| !(c.is_ascii_alphanumeric() || ".:-".contains(c));
                let stricter = !text.is_ascii()
                    || upper(theirs.repository())
                    || theirs.digest().is_some_and(upper)
                    || theirs.registry().contains(odd_host)
                    || theirs.registry().starts_with(['.', '-'])
                    || theirs.registry().split(['.', ':']).any(|l| l.is_empty() || l.starts_with('-') || l.ends_with('-'))
                    || error.problem().contains("port")
                    || error.problem().contains("image ID");
                prop_assert!(stricter, "{}", error);
            }
            (Err(_), Err(_)) => {}
        }
    }

    #[test]
    fn the_parser_never_panics(text in any::<String>()) {
        if let Err(error) = ImageRef::parse(&text) {
            prop_assert!(!error.to_string().contains('\n'));
        }
        let _ = Digest::parse(&text);
    }
}
