//! Downloads of blobs in parts.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, CacheId, Digest, PullLimit};
use fledged_core::port::{ProgressSink, SharedPullLimit};

use super::super::blob_download::BlobDownload;
use super::super::connections::{Connections, Downloads};
use super::super::fake::{Answer, Asked, Fake};
use super::super::manifest::Blob;
use super::super::meter::Meter;
use super::super::rate_limit::RateOptions;
use super::super::session::Session;
use super::super::{ConnectionLimit, PressureLimits, PullRate, Registry, RegistryOptions, sha256};
use crate::PullSlowdowns;

/// Ten parts and a half.
const LENGTH: usize = 1050;
const PART: u64 = 100;

fn content() -> String {
    let numbers: String = (0..LENGTH).map(|n| format!("{n},")).collect();
    numbers[..LENGTH].to_owned()
}

fn range(asked: &Asked) -> Option<Range<usize>> {
    let (start, last) = asked
        .header("range")?
        .strip_prefix("bytes=")?
        .split_once('-')?;
    Some(start.parse().unwrap()..last.parse::<usize>().unwrap() + 1)
}

/// The answer of a registry that serves ranges.
fn part(asked: &Asked) -> Answer {
    let content = content();
    let Some(range) = range(asked) else {
        return Answer::new(200, content);
    };
    let header = format!("bytes {}-{}/{LENGTH}", range.start, range.end - 1);
    Answer::new(206, &content[range]).with("content-range", header)
}

fn limited(limit: Option<PullRate>) -> RateOptions {
    RateOptions {
        limit,
        pressure: PressureLimits::none(),
        slowdowns: PullSlowdowns::default(),
    }
}

fn download(fake: &Fake, connections: usize, offset: u64) -> BlobDownload {
    let connections = ConnectionLimit::new(connections).unwrap();
    let connections = Connections::with_part(connections, limited(None), PART);
    let limit = SharedPullLimit::default();
    download_of(fake, &content(), connections, offset, limit)
}

fn download_of(
    fake: &Fake,
    content: &str,
    connections: Connections,
    offset: u64,
    limit: SharedPullLimit,
) -> BlobDownload {
    let (downloads, blob) = mk_downloads(fake, content, connections, limit);
    downloads.blob(&blob, offset)
}

fn mk_downloads(
    fake: &Fake,
    content: &str,
    connections: Connections,
    limit: SharedPullLimit,
) -> (Downloads, Blob) {
    let image = format!("{}/team/app:1", fake.addr).parse().unwrap();
    let registry = Registry::new(RegistryOptions::default()).unwrap();
    let downloads = Downloads {
        session: Arc::new(Session::new(registry, &image, None)),
        connections,
        meter: Arc::new(Meter::new(ProgressSink::none())),
        limit,
    };
    let blob = Blob {
        digest: Digest::parse(&sha256(content.as_bytes())).unwrap(),
        size: content.len() as u64,
        urls: Vec::new(),
    };
    (downloads, blob)
}

async fn read(mut download: BlobDownload) -> Result<String, Failure> {
    let mut read = Vec::new();
    while let Some(chunk) = download.next().await? {
        read.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8(read).unwrap())
}

/// The ranges of all requests, by their start.
fn ranges(fake: &Fake) -> Vec<Option<Range<usize>>> {
    let mut ranges: Vec<_> = fake.asked().iter().map(range).collect();
    ranges.sort_by_key(|range| range.as_ref().map(|range| range.start));
    ranges
}

#[tokio::test]
async fn parts_come_in_order_and_each_once() {
    let fake = Fake::start(|asked, _| part(asked)).await;
    assert_eq!(read(download(&fake, 4, 0)).await.unwrap(), content());
    let expected: Vec<_> = (0..LENGTH)
        .step_by(100)
        .map(|start| Some(start..LENGTH.min(start + 100)))
        .collect();
    assert_eq!(ranges(&fake), expected);
}

#[tokio::test]
async fn a_download_goes_on_at_an_offset() {
    let fake = Fake::start(|asked, _| part(asked)).await;
    assert_eq!(
        read(download(&fake, 2, 930)).await.unwrap(),
        content()[930..]
    );
    assert_eq!(ranges(&fake), [Some(930..1030), Some(1030..1050)]);
    assert_eq!(read(download(&fake, 2, LENGTH as u64)).await.unwrap(), "");
}

#[tokio::test]
async fn no_more_parts_than_connections_are_in_memory() {
    let fake = Fake::start(|asked, _| part(asked)).await;
    let mut download = download(&fake, 3, 0);
    while fake.asked().len() < 3 {
        assert!(download.next().await.unwrap().is_some());
    }
    assert_eq!(download.free_connections(), 0);
    while download.next().await.unwrap().is_some() {}
    assert_eq!(download.free_connections(), 3);
}

#[tokio::test]
async fn a_registry_without_ranges_is_asked_for_the_whole() {
    let whole: fn(&Asked) -> Answer = |_| Answer::new(200, content());
    let misplaced: fn(&Asked) -> Answer = |asked| match range(asked) {
        Some(range) => Answer::new(206, &content()[range])
            .with("content-range", format!("bytes 7-106/{LENGTH}")),
        None => Answer::new(200, content()),
    };
    fn refused<const STATUS: u16>(asked: &Asked) -> Answer {
        match range(asked) {
            Some(_) => Answer::new(STATUS, ""),
            None => Answer::new(200, content()),
        }
    }
    let answers = [
        whole,
        misplaced,
        refused::<416>,
        refused::<400>,
        refused::<403>,
        refused::<405>,
        refused::<501>,
    ];
    for answer in answers {
        for offset in [0, 930] {
            let fake = Fake::start(move |asked, _| answer(asked)).await;
            let read = read(download(&fake, 4, offset as u64)).await.unwrap();
            assert_eq!(read, content()[offset..]);
            assert_eq!(
                ranges(&fake),
                [None, Some(offset..LENGTH.min(offset + 100))]
            );
        }
    }
    // It stops honouring ranges in the middle of the blob.
    let fake = Fake::start(|asked, _| match range(asked) {
        Some(range) if range.start >= 500 => Answer::new(200, content()),
        _ => part(asked),
    })
    .await;
    assert_eq!(read(download(&fake, 4, 0)).await.unwrap(), content());
    assert_eq!(
        ranges(&fake).iter().filter(|range| range.is_none()).count(),
        1
    );
}

#[tokio::test]
async fn a_refusal_that_is_not_about_ranges_is_reported() {
    let fake = Fake::start(|_, _| Answer::new(403, "")).await;
    let failure = read(download(&fake, 4, 0)).await.unwrap_err();
    assert_eq!(failure.reason, Reason::Unauthorized, "{failure}");
    assert_eq!(ranges(&fake), [None, Some(0..100)]);
}

#[tokio::test]
async fn a_broken_connection_is_continued() {
    let cuts = Arc::new(AtomicUsize::new(0));
    let fake = {
        let cuts = Arc::clone(&cuts);
        Fake::start(move |asked, _| match range(asked) {
            Some(range) if range.start == 200 && cuts.fetch_add(1, Ordering::Relaxed) == 0 => {
                part(asked).cut_after(40)
            }
            Some(range) if range.start == 240 => Answer::new(503, ""),
            _ => part(asked),
        })
        .await
    };
    // The part's request is repeated behind what has arrived, and then the registry fails for good.
    let failure = read(download(&fake, 4, 0)).await.unwrap_err();
    assert_eq!(failure.reason, Reason::RegistryError, "{failure}");
    let repeated = ranges(&fake)
        .iter()
        .filter(|range| **range == Some(240..300))
        .count();
    assert_eq!(repeated, 3);

    let fake = Fake::start(|asked, _| match range(asked) {
        Some(range) if range.start == 200 => part(asked).cut_after(40),
        _ => part(asked),
    })
    .await;
    assert_eq!(read(download(&fake, 4, 0)).await.unwrap(), content());
    assert!(ranges(&fake).contains(&Some(240..300)));
}

#[tokio::test]
async fn a_part_that_stalls_is_requested_again() {
    let stalls = Arc::new(AtomicUsize::new(0));
    let fake = {
        let stalls = Arc::clone(&stalls);
        Fake::start(move |asked, _| match range(asked) {
            Some(range) if range.start == 200 => part(asked).stalling_after(40),
            Some(range) if range.start == 240 && stalls.fetch_add(1, Ordering::Relaxed) == 0 => {
                part(asked).stalling_after(10)
            }
            _ => part(asked),
        })
        .await
    };
    let connections = ConnectionLimit::new(4).unwrap();
    let connections = Connections::with_part(connections, limited(None), PART);
    let connections = connections.stalled_after(Duration::from_millis(200));
    let limit = SharedPullLimit::default();
    let download = download_of(&fake, &content(), connections, 0, limit);
    assert_eq!(read(download).await.unwrap(), content());
    // Each time behind what has arrived.
    for start in [200, 240, 250] {
        assert!(ranges(&fake).contains(&Some(start..300)), "{start}");
    }
}

#[cfg(feature = "cri")]
#[tokio::test]
async fn a_first_part_that_stalls_fails() {
    let fake = Fake::start(|asked, _| part(asked).stalling_after(40)).await;
    let connections = ConnectionLimit::new(4).unwrap();
    let connections = Connections::with_part(connections, limited(None), PART);
    let connections = connections.stalled_after(Duration::from_millis(200));
    let limit = SharedPullLimit::default();
    let (downloads, blob) = mk_downloads(&fake, &content(), connections, limit);
    let failure = downloads.first_part(&blob, 0).await.err().unwrap();
    let stalled = "the registry sent no byte of blob";
    assert!(failure.to_string().contains(stalled), "{failure}");
}

#[tokio::test]
async fn a_delay_that_the_registry_asks_for_is_returned_at_once() {
    for status in [429, 503] {
        let fake = Fake::start(move |asked, _| match range(asked) {
            Some(range) if range.start == 300 => {
                Answer::new(status, "slow down").with("retry-after", "30")
            }
            _ => part(asked),
        })
        .await;
        let failure = read(download(&fake, 4, 0)).await.unwrap_err();
        assert_eq!(
            failure.retry_after,
            Some(Duration::from_secs(30)),
            "{failure}"
        );
        let asked = ranges(&fake);
        let asked = asked.iter().filter(|range| **range == Some(300..400));
        assert_eq!(asked.count(), 1);
    }
}

#[tokio::test]
async fn content_of_another_length_is_refused() {
    let fake = Fake::start(|asked, _| match range(asked) {
        Some(range) => Answer::new(206, &content()[range]).with("content-range", "bytes 0-99/9999"),
        None => Answer::new(200, "short"),
    })
    .await;
    let failure = read(download(&fake, 4, 0)).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DigestMismatch, "{failure}");
}

#[tokio::test]
async fn the_rates_of_all_and_of_a_cache_slow_parts_and_whole_blobs() {
    let rate = 64 * 1024;
    let content = "x".repeat(3 * rate);
    for (has_ranges, of_cache) in [(true, false), (false, false), (true, true), (false, true)] {
        let answer = content.clone();
        let fake = Fake::start(move |asked, _| match range(asked) {
            Some(range) if has_ranges => {
                let header = format!("bytes {}-{}/{}", range.start, range.end - 1, answer.len());
                Answer::new(206, &answer[range]).with("content-range", header)
            }
            _ => Answer::new(200, answer.clone()),
        })
        .await;
        let limit = PullRate::new(ByteSize::new(rate as u64)).unwrap();
        let four = ConnectionLimit::new(4).unwrap();
        let of_all = Some(limit).filter(|_| !of_cache);
        let connections = Connections::with_part(four, limited(of_all), 8 * 1024);
        let cache = CacheId::new("shop", "web", "u");
        let own = Some(PullLimit::new(cache, limit)).filter(|_| of_cache);
        let began = Instant::now();
        let limit = SharedPullLimit::new(own);
        let download = download_of(&fake, &content, connections, 0, limit);
        assert_eq!(read(download).await.unwrap(), content);
        // The burst, and what arrived last, is not waited for.
        let ended = began.elapsed();
        assert!(ended >= Duration::from_millis(1_000), "{ended:?}");
    }
}
