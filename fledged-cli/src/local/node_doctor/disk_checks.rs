//! The image file system against the kubelet's thresholds, and the pressure on the machine.

use fledged_core::model::ByteSize;
use fledged_cri::inspection::{
    EvictionThreshold, Fact, ImageDisk, KubeletSettings, Pressure, Unread,
};

use super::checks;
use super::kubelet_checks::{AGENT_THRESHOLD, GC_THRESHOLDS, setting, with_valid};
use crate::doctor::{Check, Finding};

/// Free inodes in percent below which they are scarce: the kubelet's default for `nodefs.inodesFree`.
const INODES_FREE_MIN: u8 = 5;
/// Shares of time over 60 seconds from which pressure is advice. This program's own choice.
const IO_PRESSURE: f64 = 20.0;
const MEMORY_PRESSURE: f64 = 10.0;
const CPU_PRESSURE: f64 = 50.0;

/// The kubelet that deletes images and evicts pods.
fn running(kubelet: &Fact<KubeletSettings>) -> Option<&KubeletSettings> {
    kubelet
        .as_ref()
        .ok()
        .filter(|kubelet| kubelet.process.is_ok())
}

pub(super) fn space(disk: &Fact<ImageDisk>, kubelet: &Fact<KubeletSettings>) -> Finding {
    let check = checks::DISK_SPACE;
    let disk = match disk {
        Ok(disk) => disk,
        Err(unread) => return Finding::skipped(check, unread),
    };
    let usage = &disk.usage;
    let (Some(percent), Some(available), Some(capacity)) =
        (usage.used_percent(), usage.available, usage.capacity)
    else {
        let unread = Unread::new(format!("the size of {} is not known", usage.path));
        return Finding::skipped(check, &unread);
    };
    let (path, images) = (&usage.path, usage.used);
    let invalid = running(kubelet).and_then(|kubelet| kubelet.invalid(&GC_THRESHOLDS));
    let invalid = invalid.map(|invalid| {
        let field = &invalid.field;
        format!("; the kubelet's threshold is not known: {field} is invalid")
    });
    let found = format!(
        "{path}: {percent} % used, {available} of {capacity} free; images take {images}{}",
        invalid.as_deref().unwrap_or_default()
    );
    let free = "free space on it, or give images a larger disk";
    if available == ByteSize::ZERO {
        return Finding::advice(check, found, "every pull fails", free).into_failed();
    }
    let percent = i64::from(percent);
    if let Some(kubelet) = running(kubelet)
        && invalid.is_none()
    {
        let high = kubelet.image_gc_high_threshold_percent;
        let low = kubelet.image_gc_low_threshold_percent;
        if high < 100 && percent >= high {
            let flag = "--image-gc-high-threshold";
            let higher = setting(kubelet, flag, "imageGCHighThresholdPercent", "N");
            return Finding::advice(
                check,
                found,
                format!("it is at or over the kubelet's threshold of {high} %: unused images, such as pre-pulled ones, are deleted down to {low} %"),
                format!("{free}; or a higher {higher}"),
            )
            .into_failed();
        }
    }
    if percent >= AGENT_THRESHOLD {
        return Finding::advice(
            check,
            found,
            format!(
                "agents of fledged begin no pull from {AGENT_THRESHOLD} % used space on (--image-fs-high-threshold)"
            ),
            free,
        );
    }
    Finding::ok(check, found)
}

pub(super) fn eviction(disk: &Fact<ImageDisk>, kubelet: &Fact<KubeletSettings>) -> Finding {
    let check = checks::DISK_EVICTION;
    let kubelet = with_valid(kubelet, &["evictionHard", "mergeDefaultEvictionSettings"]);
    let (disk, kubelet) = match (disk, &kubelet) {
        (Ok(disk), Ok(kubelet)) => (disk, kubelet),
        (Err(unread), _) | (_, Err(unread)) => return Finding::skipped(check, unread),
    };
    if let Err(unread) = &kubelet.process {
        return Finding::skipped(check, unread);
    }
    let (Some(available), Some(capacity)) = (disk.usage.available, disk.usage.capacity) else {
        let unread = Unread::new(format!("the size of {} is not known", disk.usage.path));
        return Finding::skipped(check, &unread);
    };
    let (shown, is_below) = match &kubelet.image_eviction {
        None => {
            return Finding::ok(
                check,
                "evictionHard has no imagefs.available: a full image disk evicts no pod",
            );
        }
        Some(EvictionThreshold::Bytes(bytes)) => (bytes.to_string(), available < *bytes),
        Some(EvictionThreshold::Percent(percent)) => {
            #[allow(
                clippy::cast_precision_loss,
                reason = "a share of a disk needs no more than 52 bits"
            )]
            let share = available.bytes() as f64 / capacity.bytes() as f64 * 100.0;
            (format!("{percent} %"), share < *percent)
        }
        Some(other) => {
            let unread = Unread::new(format!("evictionHard imagefs.available is {other:?}"));
            return Finding::skipped(check, &unread);
        }
    };
    let found = format!(
        "{available} free; the kubelet evicts pods below {shown} (evictionHard imagefs.available)"
    );
    if is_below {
        return Finding::advice(
            check,
            found,
            "the node is under disk pressure: the kubelet deletes all unused images, evicts pods, and takes no new ones",
            "free space on it, or give images a larger disk",
        )
        .into_failed();
    }
    Finding::ok(check, found)
}

pub(super) fn inodes(disk: &Fact<ImageDisk>) -> Finding {
    let check = checks::DISK_INODES;
    let disk = match disk {
        Ok(disk) => disk,
        Err(unread) => return Finding::skipped(check, unread),
    };
    let Some(percent) = disk.inodes_free_percent() else {
        return Finding::ok(check, "the file system has no fixed number of inodes");
    };
    let found = format!(
        "{percent} % of the inodes free ({} of {})",
        disk.inodes_free, disk.inodes
    );
    if percent >= INODES_FREE_MIN {
        return Finding::ok(check, found);
    }
    let finding = Finding::advice(
        check,
        found,
        "each file of an unpacked layer takes an inode: pulls fail when there is none, and the kubelet evicts pods before",
        "delete images with many files, or make the file system with more inodes (mkfs.ext4 -N) or as XFS",
    );
    match disk.inodes_free {
        0 => finding.into_failed(),
        _ => finding,
    }
}

pub(super) fn pressure(check: Check, pressure: &Fact<Pressure>) -> Finding {
    let pressure = match pressure {
        Ok(pressure) => pressure,
        Err(unread) => return Finding::skipped(check, unread),
    };
    let (some, full) = (pressure.some, pressure.full);
    let full = full.map(|full| format!("; all waited {:.1} %", full.avg60));
    let found = format!(
        "some tasks waited {:.1} % of the last 60 s, {:.1} % of the last 10 s{}",
        some.avg60,
        some.avg10,
        full.unwrap_or_default()
    );
    let (limit, cost) = match check {
        checks::PRESSURE_IO => (
            IO_PRESSURE,
            "unpacking an image and the pods of this node wait for the same disk",
        ),
        checks::PRESSURE_MEMORY => (
            MEMORY_PRESSURE,
            "the page cache of an unpacked image displaces memory of pods, and is read again from disk",
        ),
        _ => (
            CPU_PRESSURE,
            "decompressing layers and the pods of this node wait for the same processors",
        ),
    };
    if some.avg60 < limit {
        return Finding::ok(check, found);
    }
    Finding::advice(
        check,
        found,
        cost,
        "pull fewer images at a time: --max-parallel-pulls 1, in the Helm chart agent.maxParallelPulls",
    )
}

#[cfg(test)]
mod tests {
    use fledged_core::port::FilesystemUsage;
    use fledged_cri::inspection::{InvalidSetting, PressureLine};

    use super::*;
    use crate::doctor::Verdict;

    /// A disk of 100 GiB with this many GiB free.
    fn disk(free: u64) -> Fact<ImageDisk> {
        let usage = FilesystemUsage::new("/images", ByteSize::new(1 << 30))
            .with_available(ByteSize::new(free << 30))
            .with_capacity(ByteSize::new(100 << 30));
        Ok(ImageDisk::new(usage, 1000, 500))
    }

    fn no_kubelet() -> Fact<KubeletSettings> {
        Err(Unread::new("no kubelet runs here"))
    }

    #[test]
    fn space_is_compared_with_the_kubelets_threshold() {
        let kubelet = Ok(KubeletSettings::default());
        for (free, kubelet, expected) in [
            (30, &kubelet, Verdict::Ok),
            (20, &kubelet, Verdict::Advice),
            (16, &kubelet, Verdict::Advice),
            (15, &kubelet, Verdict::Failed),
            (15, &no_kubelet(), Verdict::Advice),
            (30, &no_kubelet(), Verdict::Ok),
            (0, &no_kubelet(), Verdict::Failed),
        ] {
            let finding = space(&disk(free), kubelet);
            assert_eq!(finding.result, expected, "{free}: {finding:?}");
        }
        let finding = space(&disk(15), &kubelet);
        let cost = finding.cost.as_deref().unwrap();
        assert!(cost.starts_with("it is at or over"), "{cost}");
        assert!(
            finding
                .found
                .starts_with("/images: 85 % used, 15.0 GiB of 100.0 GiB free"),
            "{finding:?}"
        );
        let mut stopped = KubeletSettings::default();
        stopped.process = Err(Unread::new("no kubelet runs here"));
        let stopped = Ok(stopped);
        assert_eq!(space(&disk(15), &stopped).result, Verdict::Advice);
        assert_eq!(eviction(&disk(14), &stopped).result, Verdict::Skipped);
        let mut off = KubeletSettings::default();
        off.image_gc_high_threshold_percent = 100;
        assert_eq!(space(&disk(1), &Ok(off)).result, Verdict::Advice);
    }

    #[test]
    fn an_invalid_threshold_is_not_compared() {
        let mut kubelet = KubeletSettings::default();
        let setting = InvalidSetting::new(GC_THRESHOLDS[0], "\"x\"", "a number");
        kubelet.invalid.push(setting);
        let finding = space(&disk(10), &Ok(kubelet));
        assert_eq!(finding.result, Verdict::Advice, "{finding:?}");
        assert!(
            finding
                .found
                .ends_with("imageGCHighThresholdPercent is invalid"),
            "{finding:?}"
        );
    }

    #[test]
    fn eviction_is_compared_with_shares_and_bytes() {
        let mut kubelet = KubeletSettings::default();
        assert_eq!(
            eviction(&disk(15), &Ok(kubelet.clone())).result,
            Verdict::Ok
        );
        assert_eq!(
            eviction(&disk(14), &Ok(kubelet.clone())).result,
            Verdict::Failed
        );
        kubelet.image_eviction = Some(EvictionThreshold::Bytes(ByteSize::new(10 << 30)));
        assert_eq!(
            eviction(&disk(10), &Ok(kubelet.clone())).result,
            Verdict::Ok
        );
        assert_eq!(
            eviction(&disk(9), &Ok(kubelet.clone())).result,
            Verdict::Failed
        );
        let mut invalid = kubelet.clone();
        let setting = InvalidSetting::new("evictionHard", "\"120%\"", "a share");
        invalid.invalid.push(setting);
        let finding = eviction(&disk(9), &Ok(invalid));
        assert_eq!(finding.result, Verdict::Skipped);
        assert!(finding.found.contains("120%"), "{finding:?}");
        kubelet.image_eviction = None;
        assert_eq!(eviction(&disk(0), &Ok(kubelet)).result, Verdict::Ok);
        assert_eq!(eviction(&disk(0), &no_kubelet()).result, Verdict::Skipped);
    }

    #[test]
    fn scarce_inodes_are_found() {
        for (all, free, expected) in [
            (1000, 500, Verdict::Ok),
            (1000, 49, Verdict::Advice),
            (1000, 0, Verdict::Failed),
            (0, 0, Verdict::Ok),
        ] {
            let mut disk = disk(50).unwrap();
            (disk.inodes, disk.inodes_free) = (all, free);
            assert_eq!(inodes(&Ok(disk)).result, expected, "{free} of {all}");
        }
    }

    #[test]
    fn pressure_has_a_limit_for_each_resource() {
        let of = |avg60| Ok(Pressure::new(PressureLine::new(0.0, avg60), None));
        for (check, below, over) in [
            (checks::PRESSURE_IO, 19.9, 20.0),
            (checks::PRESSURE_MEMORY, 9.9, 10.0),
            (checks::PRESSURE_CPU, 49.9, 50.0),
        ] {
            assert_eq!(pressure(check, &of(below)).result, Verdict::Ok);
            assert_eq!(pressure(check, &of(over)).result, Verdict::Advice);
        }
    }
}
