//! The kubelet: when it deletes images, and how many it pulls at a time.

use fledged_cri::inspection::{Fact, KubeletSettings};

use super::finding::{Check, Finding};

/// The default of the agent's `--image-fs-high-threshold`, in percent.
pub(super) const AGENT_THRESHOLD: i64 = 80;

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
    let check = Check::KUBELET_SETTINGS;
    let kubelet = match kubelet {
        Ok(kubelet) => kubelet,
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
    let found = if kubelet.running {
        format!("a kubelet runs with {file}{flags}")
    } else {
        format!("no kubelet runs here; read from {file}")
    };
    Finding::ok(check, found)
}

pub(super) fn image_gc(kubelet: &Fact<KubeletSettings>) -> Finding {
    let check = Check::IMAGE_GC;
    let kubelet = match kubelet {
        Ok(kubelet) => kubelet,
        Err(unread) => return Finding::skipped(check, unread),
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
    let check = Check::IMAGE_AGE;
    let kubelet = match kubelet {
        Ok(kubelet) => kubelet,
        Err(unread) => return Finding::skipped(check, unread),
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
    let check = Check::IMAGE_PULLS;
    let kubelet = match kubelet {
        Ok(kubelet) => kubelet,
        Err(unread) => return Finding::skipped(check, unread),
    };
    if kubelet.serialize_image_pulls {
        let set = setting(
            kubelet,
            "--serialize-image-pulls",
            "serializeImagePulls",
            "false",
        );
        return Finding::advice(
            check,
            "serializeImagePulls is true: the kubelet pulls one image at a time",
            "a pod whose image is not pre-pulled waits for all pulls before it, also those of Jobs of --node-driver=job; pulls of agents and of fledged node are not counted",
            format!("{set}; and maxParallelImagePulls: 3, because there is no limit otherwise"),
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

    use super::*;
    use crate::local::node_doctor::finding::Verdict;

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
        settings.max_parallel_image_pulls = Some(4);
        let finding = image_pulls(&Ok(settings));
        assert_eq!(finding.result, Verdict::Ok);
        assert!(finding.found.contains("at most 4"), "{finding:?}");
    }
}
