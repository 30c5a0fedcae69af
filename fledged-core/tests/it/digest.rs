//! Parsing of content digests.
use fledged_core::model::Digest;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn only_well_formed_digests_are_parsed() {
    for (algorithm, digits) in [("sha256", 64), ("sha384", 96), ("sha512", 128)] {
        let text = format!("{algorithm}:{}", "a".repeat(digits));
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.algorithm(), algorithm);
        assert_eq!(digest.hex().len(), digits);
        assert_eq!(digest.to_string(), text);
        let wire = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&wire).unwrap(), digest);
    }
    for (text, expected) in [
        ("", "algorithm:hex"),
        (HEX, "algorithm:hex"),
        ("md5:d41d8cd98f00b204e9800998ecf8427e", "sha256"),
        (&format!("SHA256:{HEX}"), "sha256"),
        ("sha256:", "wrong number"),
        (&format!("sha256:{}", &HEX[1..]), "wrong number"),
        (&format!("sha512:{HEX}"), "wrong number"),
        (&format!("sha256:{}", HEX.to_uppercase()), "lower-case"),
        (&format!("sha256:{}/", &HEX[1..]), "lower-case"),
    ] {
        let error = Digest::parse(text).unwrap_err();
        assert!(error.problem().contains(expected), "{text:?}: {error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}
