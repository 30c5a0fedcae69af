//! The kubelet: when it deletes images, and how many it pulls at a time.

use fledged_cri::inspection::{Fact, KubeletSettings, Unread};

use super::checks;
use crate::doctor::Finding;

/// The default of the agent's `--image-fs-high-threshold`, in percent.
pub(super) const AGENT_THRESHOLD: i64 = 80;

const HIGH: &str = "imageGCHighThresholdPercent";
const LOW: &str = "imageGCLowThresholdPercent";
const AGE: &str = "imageMaximumGCAge";
const SERIALIZE: &str = "serializeImagePulls";
const PARALLEL: &str = "maxParallelImagePulls";

/// The settings, unless one of these fields is invalid: then its value is not known.
pub(super) fn with_valid<'a>(
    kubelet: &'a Fact<KubeletSettings>,
    fields: &[&str],
) -> Fact<&'a KubeletSettings> {
    let kubelet = kubelet.as_ref().map_err(Clone::clone)?;
    match kubelet.invalid(fields) {
        Some(invalid) => Err(Unread::new(invalid.to_string())),
        None => Ok(kubelet),
    }
}

/// The fields that decide from which used share on images are deleted.
pub(super) const GC_THRESHOLDS: [&str; 2] = [HIGH, LOW];

/// What to set: the flag if one sets it now, otherwise the field of the file.
pub(super) fn setting(kubelet: &KubeletSettings, flag: &str, field: &str, value: &str) -> String {
    if kubelet.has_flag(flag) {
        return format!("{flag}={value} on the kubelet's command line; then restart the kubelet");
    }
    match &kubelet.file {
        Some(file) => {
            let file = file.display();
            format!("{field}: {value} in {file}; then restart the kubelet")
        }
        None => format!(
            "{field}: {value} in a file for the kubelet's --config; then restart the kubelet"
        ),
    }
}

pub(super) fn settings(kubelet: &Fact<KubeletSettings>) -> Finding {
    let check = checks::KUBELET_SETTINGS;
    let kubelet = match kubelet {
        Ok(kubelet) => kubelet,
        Err(unread) if unread.is_broken() => {
            return checks::broken_file(check, unread.to_string(), "the kubelet");
        }
        Err(unread) => return Finding::skipped(check, unread),
    };
    let file = match &kubelet.file {
        Some(file) => file.display().to_string(),
        None => "no configuration file".to_owned(),
    };
    let flags = match kubelet.flags.as_slice() {
        [] => String::new(),
        flags => format!(", and sets {} by flag", flags.join(", ")),
    };
    let found = match &kubelet.process {
        Ok(()) => format!("a kubelet runs with {file}{flags}"),
        Err(unread) => format!("{unread}; read from {file}"),
    };
    if kubelet.invalid.is_empty() {
        return Finding::ok(check, found);
    }
    let invalid: Vec<String> = kubelet.invalid.iter().map(ToString::to_string).collect();
    let cost = if kubelet.process.is_ok() {
        "the kubelet uses the values it started with, and does not start again with these"
    } else {
        "the kubelet does not start"
    };
    let remedy = match (&kubelet.file, kubelet.flags.as_slice()) {
        (Some(file), []) => format!("correct {}", file.display()),
        (Some(file), _) => format!("correct {}, or the flags", file.display()),
        (None, _) => "correct the flags".to_owned(),
    };
    Finding::advice(
        check,
        format!("{found}; {}", invalid.join("; ")),
        cost,
        format!("{remedy}; then restart the kubelet"),
    )
}

pub(super) fn image_gc(kubelet: &Fact<KubeletSettings>) -> Finding {
    let check = checks::IMAGE_GC;
    let kubelet = match with_valid(kubelet, &GC_THRESHOLDS) {
        Ok(kubelet) => kubelet,
        Err(unread) => return Finding::skipped(check, &unread),
    };
    let high = kubelet.image_gc_high_threshold_percent;
    let low = kubelet.image_gc_low_threshold_percent;
    if high >= 100 {
        return Finding::ok(
            check,
            "imageGCHighThresholdPercent is 100: the kubelet deletes no image to free space",
        );
    }
    let found = format!(
        "the kubelet deletes unused images at {high} % used space, down to {low} % (imageGCHighThresholdPercent, imageGCLowThresholdPercent)"
    );
    if high <= AGENT_THRESHOLD {
        let raised = setting(
            kubelet,
            "--image-gc-high-threshold",
            "imageGCHighThresholdPercent",
            "85",
        );
        return Finding::advice(
            check,
            found,
            format!(
                "agents of fledged begin pulls up to {AGENT_THRESHOLD} % used space: images are deleted and pulled again in turn"
            ),
            format!("{raised}; or start agents with an --image-fs-high-threshold below {high}%"),
        );
    }
    Finding::ok(check, found)
}

pub(super) fn image_age(kubelet: &Fact<KubeletSettings>) -> Finding {
    let check = checks::IMAGE_AGE;
    let kubelet = match with_valid(kubelet, &[AGE]) {
        Ok(kubelet) => kubelet,
        Err(unread) => return Finding::skipped(check, &unread),
    };
    let age = kubelet.image_maximum_gc_age;
    if age.is_zero() {
        return Finding::ok(
            check,
            "imageMaximumGCAge is not set: no image is deleted for its age",
        );
    }
    let age = fledged_core::model::GoDuration(age);
    Finding::advice(
        check,
        format!(
            "imageMaximumGCAge is {age}: the kubelet deletes images that no container has used for that time"
        ),
        "pre-pulled images are deleted before their first use if it comes later, and are pulled again",
        // No flag sets it.
        setting(kubelet, "", "imageMaximumGCAge", "0s"),
    )
}

pub(super) fn image_pulls(kubelet: &Fact<KubeletSettings>) -> Finding {
    let check = checks::IMAGE_PULLS;
    let kubelet = match with_valid(kubelet, &[SERIALIZE, PARALLEL]) {
        Ok(kubelet) => kubelet,
        Err(unread) => return Finding::skipped(check, &unread),
    };
    let limit = "maxParallelImagePulls: 3, because there is no limit otherwise";
    let one_at_a_time = match (
        kubelet.serialize_image_pulls,
        kubelet.max_parallel_image_pulls,
    ) {
        (true, _) => {
            let set = setting(kubelet, "--serialize-image-pulls", SERIALIZE, "false");
            Some(("serializeImagePulls is true", format!("{set}; and {limit}")))
        }
        // No flag sets it.
        (false, Some(1)) => Some((
            "maxParallelImagePulls is 1",
            setting(kubelet, "", PARALLEL, "3"),
        )),
        _ => None,
    };
    if let Some((cause, remedy)) = one_at_a_time {
        return Finding::advice(
            check,
            format!("{cause}: the kubelet pulls one image at a time"),
            "a pod whose image is not pre-pulled waits for all pulls before it, also those of Jobs of --node-driver=job; pulls of agents and of fledged node are not counted",
            remedy,
        );
    }
    let found = match kubelet.max_parallel_image_pulls {
        Some(pulls) if pulls > 0 => format!("the kubelet pulls at most {pulls} images at a time (maxParallelImagePulls)"),
        _ => "serializeImagePulls is false, and maxParallelImagePulls is not set: the kubelet pulls any number of images at a time".to_owned(),
    };
    Finding::ok(check, found)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fledged_cri::inspection::InvalidSetting;

    use super::*;
    use crate::doctor::Verdict;

    fn kubelet() -> KubeletSettings {
        let mut settings = KubeletSettings::default();
        settings.file = Some("/var/lib/kubelet/config.yaml".into());
        settings
    }

    #[test]
    fn thresholds_below_that_of_agents_are_advice() {
        let finding = image_gc(&Ok(kubelet()));
        assert_eq!(finding.result, Verdict::Ok);
        assert!(
            finding.found.contains("at 85 % used space, down to 80 %"),
            "{finding:?}"
        );
        let mut low = kubelet();
        low.image_gc_high_threshold_percent = 70;
        let finding = image_gc(&Ok(low.clone()));
        assert_eq!(finding.result, Verdict::Advice);
        let remedy = finding.remedy.unwrap();
        assert!(
            remedy.contains("imageGCHighThresholdPercent: 85 in /var/lib/kubelet/config.yaml"),
            "{remedy}"
        );
        low.flags.push("--image-gc-high-threshold");
        let remedy = image_gc(&Ok(low)).remedy.unwrap();
        assert!(
            remedy.starts_with("--image-gc-high-threshold=85"),
            "{remedy}"
        );
    }

    #[test]
    fn deletion_by_age_is_advice() {
        let mut settings = kubelet();
        assert_eq!(image_age(&Ok(settings.clone())).result, Verdict::Ok);
        settings.image_maximum_gc_age = Duration::from_secs(12 * 3600);
        let finding = image_age(&Ok(settings));
        assert_eq!(finding.result, Verdict::Advice);
        assert!(finding.found.contains("12h"), "{finding:?}");
    }

    #[test]
    fn pulls_one_after_another_are_advice() {
        let mut settings = kubelet();
        assert_eq!(image_pulls(&Ok(settings.clone())).result, Verdict::Advice);
        settings.serialize_image_pulls = false;
        assert!(
            image_pulls(&Ok(settings.clone()))
                .found
                .contains("any number")
        );
        settings.max_parallel_image_pulls = Some(1);
        let finding = image_pulls(&Ok(settings.clone()));
        assert_eq!(finding.result, Verdict::Advice);
        assert_eq!(
            finding.found,
            "maxParallelImagePulls is 1: the kubelet pulls one image at a time"
        );
        let remedy = finding.remedy.unwrap();
        assert!(
            remedy.starts_with("maxParallelImagePulls: 3 in "),
            "{remedy}"
        );
        settings.max_parallel_image_pulls = Some(4);
        let finding = image_pulls(&Ok(settings));
        assert_eq!(finding.result, Verdict::Ok);
        assert!(finding.found.contains("at most 4"), "{finding:?}");
    }

    #[test]
    fn a_kubelet_that_is_not_seen_is_not_claimed_absent() {
        let mut kubelet = kubelet();
        kubelet.process = Err(Unread::new("no process below /mnt can be seen"));
        let finding = settings(&Ok(kubelet));
        assert_eq!(finding.result, Verdict::Ok);
        assert_eq!(
            finding.found,
            "no process below /mnt can be seen; read from /var/lib/kubelet/config.yaml"
        );
    }

    #[test]
    fn an_invalid_value_is_no_setting() {
        let mut kubelet = kubelet();
        for field in [HIGH, AGE, PARALLEL] {
            kubelet
                .invalid
                .push(InvalidSetting::new(field, "\"x\"", "a number"));
        }
        let kubelet = Ok(kubelet);
        let finding = settings(&kubelet);
        assert_eq!(finding.result, Verdict::Advice);
        for field in [HIGH, AGE, PARALLEL] {
            let named = format!("{field} is \"x\", which is invalid: it must be a number");
            assert!(finding.found.contains(&named), "{finding:?}");
        }
        let remedy = finding.remedy.unwrap();
        assert!(remedy.contains("/var/lib/kubelet/config.yaml"), "{remedy}");
        for finding in [
            image_gc(&kubelet),
            image_age(&kubelet),
            image_pulls(&kubelet),
        ] {
            assert_eq!(finding.result, Verdict::Skipped);
            assert!(finding.found.contains(" is \"x\", "), "{finding:?}");
        }
    }
}
