//! Parsing of values that command lines and manifests share.
use fledged_core::model::{CountOrPercent, ImagePullPolicy, NodeName};

#[test]
fn counts_and_percentages_parse_and_display() {
    for (text, of_forty) in [
        ("1", 1),
        ("100", 100),
        ("5%", 2),
        ("100%", 40),
        ("4294967295", 4_294_967_295),
    ] {
        let parsed: CountOrPercent = text.parse().unwrap();
        assert_eq!(
            (parsed.to_string().as_str(), parsed.of(40)),
            (text, Some(of_forty))
        );
        assert_eq!(parsed.check(), Ok(()));
    }
}

#[test]
fn invalid_counts_and_percentages_are_named() {
    for text in [
        "",
        "0",
        "-1",
        "1.5",
        "0%",
        "101%",
        "%",
        "+5%",
        "5 %",
        "many",
        "4294967296",
    ] {
        let error = text.parse::<CountOrPercent>().unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains(&format!("\"{text}\"")), "{shown}");
        assert!(shown.contains("1% to 100%"), "{shown}");
        let unchecked = CountOrPercent::Percent(text.to_owned());
        assert_eq!(unchecked.check(), Err(error));
    }
    let hostile = "\u{1b}[31m%".parse::<CountOrPercent>().unwrap_err();
    assert!(!hostile.to_string().contains('\u{1b}'), "{hostile}");
}

#[test]
fn a_pull_policy_has_one_spelling() {
    for policy in ImagePullPolicy::ALL {
        assert_eq!(policy.to_string(), policy.as_str());
        assert_eq!(policy.as_str().parse(), Ok(policy));
        assert_eq!(policy.as_str().to_lowercase().parse(), Ok(policy));
        assert_eq!(serde_json::to_value(policy).unwrap(), policy.as_str());
    }
    let error = "Never".parse::<ImagePullPolicy>().unwrap_err().to_string();
    assert_eq!(
        error,
        "invalid image pull policy \"Never\": it must be IfNotPresent or Always"
    );
}

#[test]
fn parsing_a_node_name_equals_new() {
    assert_eq!("node-1".parse(), NodeName::new("node-1"));
    assert!("Node 1".parse::<NodeName>().is_err());
}
