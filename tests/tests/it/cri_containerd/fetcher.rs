//! Layers that fledged fetches into containerd's content store.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, Digest, PulledVia};
use fledged_core::port::{
    ImageRuntime, ProgressSink, PullProgress, PullRequest, RegistryAuth, RuntimeImage,
};
use fledged_cri::cri::CriRuntime;
use fledged_cri::{FetcherOptions, PressureLimits, PullRate, RegistryOptions};
use fledged_tests::{
    Compression, Containerd, FakeCri, Fault, FaultProxy, ImageBuilder, Layer, Pushed, Registry,
    Rule, SOON, images_with_shared_base, poll_until, require,
};

use crate::cri_containerd::{PARTS, image, pull};

/// Bytes of one part.
const PART: u64 = 8 << 20;

pub(super) struct Setup {
    pub(super) registry: Registry,
    pub(super) proxy: FaultProxy,
    pub(super) containerd: Containerd,
    pub(super) runtime: CriRuntime,
}

pub(super) fn fetching(containerd: &Containerd) -> CriRuntime {
    limited(containerd, None)
}

fn rate(bytes: u64) -> PullRate {
    PullRate::new(ByteSize::new(bytes)).unwrap()
}

/// With a limit in bytes a second.
fn limited(containerd: &Containerd, max_pull_rate: Option<u64>) -> CriRuntime {
    let mut options = options(containerd);
    options.max_pull_rate = max_pull_rate.map(rate);
    CriRuntime::connect(containerd.socket()).with_fetcher(options)
}

/// With which everything is fetched.
pub(super) fn options(containerd: &Containerd) -> FetcherOptions {
    let mut options = FetcherOptions::default();
    options.threshold = ByteSize::ZERO;
    options.registry = RegistryOptions::default();
    options.config_dirs = vec![containerd.config_dir()];
    options.fast_enough = None;
    // That of this machine is not part of the tests.
    options.pressure = PressureLimits::none();
    options
}

pub(super) fn setup() -> Option<Setup> {
    if !require(PARTS) {
        return None;
    }
    let registry = Registry::start();
    let containerd = Containerd::start();
    Some(Setup {
        proxy: FaultProxy::start(registry.addr()),
        runtime: fetching(&containerd),
        registry,
        containerd,
    })
}

impl Setup {
    /// An image with one layer of some parts.
    pub(super) fn one_layer(&self) -> Pushed {
        ImageBuilder::new()
            .random_layer("data", 1, 40_000_000)
            .push(&self.registry, "team/app", "1")
    }

    pub(super) async fn pull(&self, pushed: &Pushed) -> Result<RuntimeImage, Failure> {
        pull(&self.runtime, &pushed.reference_at(self.proxy.addr())).await
    }

    /// Lets containerd look for images of `registry.invalid` at a mirror first, and then at a server.
    fn configure_mirror(&self, mirror: &str, server: &str) {
        let hosts = format!(
            "server = \"{server}\"\n[host.\"http://{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        self.containerd
            .configure_registry("registry.invalid", Some(&hosts));
    }

    /// How many bytes of a blob the registry has sent.
    fn sent(&self, digest: &Digest) -> u64 {
        let requests = self.proxy.requests_matching("GET", digest.as_str());
        requests.iter().map(|request| request.sent).sum()
    }

    /// The length of a blob in the registry.
    fn size(&self, digest: &Digest) -> u64 {
        let hex = digest.hex();
        let path = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        let path = self.registry.storage().join(path);
        std::fs::metadata(path).unwrap().len()
    }

    pub(super) fn assert_each_byte_once(&self, pushed: &Pushed) {
        for layer in &pushed.layers {
            assert_eq!(self.sent(layer), self.size(layer), "{layer}");
        }
    }

    pub(super) fn assert_nothing_left(&self) {
        assert_eq!(leases(&self.containerd), [""; 0]);
        collect_garbage(&self.containerd);
        assert_eq!(ingests(&self.containerd), [""; 0]);
    }
}

/// Lets containerd delete what nothing keeps, expired leases included.
pub(super) fn collect_garbage(containerd: &Containerd) {
    containerd.ctr(&["leases", "create", "--id", "none"]);
    containerd.ctr(&["leases", "delete", "--sync", "none"]);
}

/// The leases of fledged.
pub(super) fn leases(containerd: &Containerd) -> Vec<String> {
    let text = containerd.ctr(&["leases", "list", "--quiet"]);
    let leases = text.lines().filter(|id| id.starts_with("fledged-"));
    leases.map(str::to_owned).collect()
}

/// Unfinished content: names and lengths as `ctr` prints them.
pub(super) fn ingests(containerd: &Containerd) -> Vec<String> {
    let text = containerd.ctr(&["content", "active"]);
    text.lines().skip(1).map(str::to_owned).collect()
}

/// The offsets at which parts of a blob were requested.
fn offsets(proxy: &FaultProxy, digest: &Digest) -> Vec<u64> {
    let requests = proxy.requests_matching("GET", digest.as_str());
    let starts = requests.iter().map(|request| {
        let range = request.range.as_deref()?;
        range
            .strip_prefix("bytes=")?
            .split('-')
            .next()?
            .parse()
            .ok()
    });
    starts.map(Option::unwrap_or_default).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_come_over_several_connections_and_each_byte_once() {
    let Some(setup) = setup() else { return };
    let pushed = ImageBuilder::new()
        .random_layer("base", 1, 40_000_000)
        .random_layer("small", 2, 1000)
        .random_layer("data", 3, 20_000_000)
        .push(&setup.registry, "team/app", "1");
    let slow = Fault::Throttle {
        bytes_per_second: 20_000_000,
    };
    setup.proxy.add(Rule::new(slow).path("/blobs/").always());
    let seen: Arc<Mutex<Vec<PullProgress>>> = Arc::default();
    let progress = {
        let seen = Arc::clone(&seen);
        ProgressSink::new(move |progress| seen.lock().unwrap().push(progress))
    };
    let name = pushed.reference_at(setup.proxy.addr());
    let request = PullRequest::new(image(&name)).with_progress(progress);
    let pulled = setup.runtime.pull(request).await.unwrap();
    assert_eq!(pulled.digest, Some(pushed.digest.clone()));
    assert_eq!(pulled.via, Some(PulledVia::Fetcher));
    setup.assert_each_byte_once(&pushed);
    assert!(
        setup.proxy.peak_downloads() > 3,
        "{}",
        setup.proxy.peak_downloads()
    );
    let expected: Vec<u64> = (0..5).map(|part| part * PART).collect();
    let mut offsets = offsets(&setup.proxy, &pushed.layers[0]);
    offsets.sort_unstable();
    assert_eq!(offsets, expected);
    for (path, times) in [("/manifests/", 1), (pushed.config_digest.as_str(), 1)] {
        let requests = setup.proxy.requests_matching("GET", path);
        assert_eq!(requests.len(), times, "{requests:?}");
    }
    setup.assert_nothing_left();
    let last = *seen.lock().unwrap().last().unwrap();
    let layers: u64 = pushed.layers.iter().map(|layer| setup.size(layer)).sum();
    assert_eq!(
        (last.done.bytes(), last.total),
        (layers, Some(ByteSize::new(layers)))
    );

    // An image that is present and has not changed is not read again.
    setup.pull(&pushed).await.unwrap();
    assert_eq!(setup.proxy.requests_matching("GET", "/manifests/").len(), 1);
    setup.assert_each_byte_once(&pushed);
    setup.assert_nothing_left();
}

/// Lets the layer stop in the middle of its second part.
pub(super) fn stall(setup: &Setup, pushed: &Pushed) {
    let stall = Rule::new(Fault::StallAfter(3_000_000)).path(pushed.layers[0].as_str());
    setup.proxy.add(stall.skip(1).always());
}

/// Waits until containerd has the start of the layer.
pub(super) fn wait_until_stalled(setup: &Setup, pushed: &Pushed) {
    let reference = format!("layer-{}", pushed.layers[0]);
    poll_until("the start of the layer", SOON, || {
        let ingests = ingests(&setup.containerd);
        let line = ingests.iter().find(|line| line.contains(&reference))?;
        let megabytes = line
            .split_whitespace()
            .find_map(|word| word.strip_suffix("MB"))?;
        // One part and some of the second, as far as writes of 1 MiB have it.
        (megabytes.parse::<f64>().unwrap() > 10.3).then_some(())
    });
}

/// Starts a pull whose layer stops in the middle of its second part, and waits until its start is in containerd.
pub(super) fn pull_that_stalls(
    setup: &Arc<Setup>,
    pushed: &Pushed,
) -> tokio::task::JoinHandle<Result<RuntimeImage, Failure>> {
    stall(setup, pushed);
    let pulling = tokio::spawn({
        let (setup, pushed) = (Arc::clone(setup), pushed.clone());
        async move { setup.pull(&pushed).await }
    });
    tokio::task::block_in_place(|| wait_until_stalled(setup, pushed));
    pulling
}

/// The next pull fetches what is missing, and nothing else.
pub(super) async fn assert_continued(setup: &Setup, pushed: &Pushed) {
    setup.proxy.clear();
    let layer = &pushed.layers[0];
    let (sent, asked) = (setup.sent(layer), offsets(&setup.proxy, layer).len());
    setup.pull(pushed).await.unwrap();
    let first = offsets(&setup.proxy, layer)[asked..].iter().copied().min();
    let first = first.unwrap();
    assert!(first > PART + 1_900_000, "{first}");
    assert_eq!(setup.sent(layer) - sent, setup.size(layer) - first);
    setup.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_pull_is_continued_at_its_offset() {
    let Some(setup) = setup().map(Arc::new) else {
        return;
    };
    let pushed = setup.one_layer();
    let pulling = pull_that_stalls(&setup, &pushed);
    pulling.abort();
    assert!(pulling.await.unwrap_err().is_cancelled());
    assert_continued(&setup, &pushed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_attempts_keep_what_an_earlier_one_fetched() {
    let Some(setup) = setup().map(Arc::new) else {
        return;
    };
    let pushed = setup.one_layer();
    let pulling = pull_that_stalls(&setup, &pushed);
    pulling.abort();
    assert!(pulling.await.unwrap_err().is_cancelled());
    let sent = setup.sent(&pushed.layers[0]);
    for (fault, reason) in [
        (Fault::Hangup, Reason::ConnectionFailed),
        (Fault::too_many_requests(1), Reason::TooManyRequests),
    ] {
        setup.proxy.clear();
        setup.proxy.add(Rule::new(fault).always());
        let error = setup.pull(&pushed).await.unwrap_err();
        assert_eq!(error.reason, reason, "{error}");
    }
    assert_eq!(setup.sent(&pushed.layers[0]), sent);
    // The last attempt took over what the others had.
    assert_eq!(leases(&setup.containerd).len(), 1);
    assert_continued(&setup, &pushed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_continued_after_containerd_was_killed() {
    let Some(setup) = setup().map(Arc::new) else {
        return;
    };
    let pushed = setup.one_layer();
    let pulling = pull_that_stalls(&setup, &pushed);
    let pid = setup.containerd.pid();
    let status = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(status.unwrap().success());
    let error = pulling.await.unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::RuntimeUnavailable, "{error}");
    let mut setup = Arc::into_inner(setup).unwrap();
    setup.containerd.restart();
    assert_continued(&setup, &pushed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_sends_whole_layers() {
    let Some(setup) = setup() else { return };
    let pushed = setup.one_layer();
    setup
        .proxy
        .add(Rule::new(Fault::NoRange).path("/blobs/").always());
    setup.pull(&pushed).await.unwrap();
    let requests = setup
        .proxy
        .requests_matching("GET", pushed.layers[0].as_str());
    let whole = requests.iter().filter(|request| request.range.is_none());
    assert_eq!(whole.count(), 1, "{requests:?}");
    setup.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_is_refused() {
    let Some(setup) = setup() else { return };
    let pushed = setup.one_layer();
    let layer = pushed.layers[0].as_str();
    setup
        .proxy
        .add(Rule::new(Fault::CorruptAt(100)).path(layer).always());
    let error = setup.pull(&pushed).await.unwrap_err();
    assert_eq!(error.reason, Reason::DigestMismatch, "{error}");
    let expected = format!(
        "blob {layer} came from {} with digest sha256:",
        setup.proxy.addr()
    );
    assert!(error.message.starts_with(&expected), "{error}");
    assert_eq!(setup.runtime.list().await.unwrap(), []);
    // The runtime, which would get the same, did not fetch it again.
    let starts = offsets(&setup.proxy, &pushed.layers[0]);
    let starts = starts.iter().filter(|offset| **offset == 0);
    assert_eq!(starts.count(), 1);

    setup.proxy.clear();
    setup.pull(&pushed).await.unwrap();
    setup.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_of_a_mirror_is_fetched_from_the_next_host() {
    let Some(setup) = setup() else { return };
    let pushed = setup.one_layer();
    let layer = &pushed.layers[0];
    let mirror = FaultProxy::start(setup.registry.addr());
    mirror.add(
        Rule::new(Fault::CorruptAt(100))
            .path(layer.as_str())
            .always(),
    );
    setup.configure_mirror(mirror.addr(), &format!("http://{}", setup.proxy.addr()));
    let pulled = pull(&setup.runtime, "registry.invalid/team/app:1").await;
    assert_eq!(pulled.unwrap().via, Some(PulledVia::Fetcher));
    for host in [&mirror, &setup.proxy] {
        let starts = offsets(host, layer);
        let starts = starts.iter().filter(|offset| **offset == 0);
        assert_eq!(starts.count(), 1, "{}", host.addr());
    }
    setup.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_another_length_is_deleted() {
    let Some(setup) = setup().map(Arc::new) else {
        return;
    };
    let pushed = setup.one_layer();
    let pulling = pull_that_stalls(&setup, &pushed);
    pulling.abort();
    assert!(pulling.await.unwrap_err().is_cancelled());
    setup.proxy.clear();
    let layer = &pushed.layers[0];
    let asked = offsets(&setup.proxy, layer).len();
    // For a part, then for the whole layer.
    let other = Rule::new(Fault::OtherBody("other content")).method("GET");
    setup.proxy.add(other.path(layer.as_str()).times(2));
    let error = setup.pull(&pushed).await.unwrap_err();
    assert_eq!(error.reason, Reason::DigestMismatch, "{error}");
    setup.pull(&pushed).await.unwrap();
    let offsets = &offsets(&setup.proxy, layer)[asked..];
    // The next pull does not continue what was there.
    assert_eq!(offsets.get(2), Some(&0), "{offsets:?}");
    setup.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registrys_delay_is_returned_at_once() {
    let Some(setup) = setup() else { return };
    let pushed = setup.one_layer();
    for path in ["/manifests/", pushed.layers[0].as_str()] {
        let before = setup.proxy.requests_matching("GET", path).len();
        setup.proxy.add(
            Rule::new(Fault::too_many_requests(17))
                .method("GET")
                .path(path)
                .always(),
        );
        let error = setup.pull(&pushed).await.unwrap_err();
        assert_eq!(error.reason, Reason::TooManyRequests, "{error}");
        assert_eq!(error.retry_after, Some(Duration::from_secs(17)), "{error}");
        assert_eq!(setup.proxy.requests_matching("GET", path).len(), before + 1);
        setup.proxy.clear();
    }
    setup.pull(&pushed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn images_with_a_common_layer_fetch_it_once() {
    let Some(setup) = setup() else { return };
    let base = [Layer::random("base", 1, 30_000_000, Compression::Stored)];
    let pushed = images_with_shared_base(&setup.registry, "app", 2, &base, 50_000);
    let pulls = pushed.iter().map(|pushed| setup.pull(pushed));
    for pulled in futures_util::future::join_all(pulls).await {
        assert_eq!(pulled.unwrap().via, Some(PulledVia::Fetcher));
    }
    for pushed in &pushed {
        setup.assert_each_byte_once(pushed);
    }
    setup.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_unpacked_are_not_fetched() {
    let Some(setup) = setup() else { return };
    let base = [Layer::random("base", 1, 300_000, Compression::Stored)];
    let pushed = images_with_shared_base(&setup.registry, "app", 2, &base, 50_000);
    setup.pull(&pushed[0]).await.unwrap();
    // As with discard_unpacked_layers.
    let layer = pushed[0].layers[0].as_str();
    setup.containerd.ctr(&["content", "delete", layer]);
    setup.pull(&pushed[1]).await.unwrap();
    setup.assert_each_byte_once(&pushed[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_of_the_runtimes_configuration_are_used() {
    let Some(setup) = setup() else { return };
    let pushed = setup.one_layer();
    setup.configure_mirror(setup.proxy.addr(), "https://registry.invalid");
    pull(&setup.runtime, "registry.invalid/team/app:1")
        .await
        .unwrap();
    setup.assert_each_byte_once(&pushed);
    assert!(offsets(&setup.proxy, &pushed.layers[0]).contains(&PART));

    // Without the folders of that configuration, only the runtime reaches the mirror.
    setup.containerd.remove_all_images();
    let mut options = FetcherOptions::default();
    options.threshold = ByteSize::ZERO;
    options.registry = RegistryOptions::default();
    options.config_dirs.clear();
    options.pressure = PressureLimits::none();
    let runtime = CriRuntime::connect(setup.containerd.socket()).with_fetcher(options);
    let asked = offsets(&setup.proxy, &pushed.layers[0]).len();
    pull(&runtime, "registry.invalid/team/app:1").await.unwrap();
    assert_eq!(offsets(&setup.proxy, &pushed.layers[0])[asked..], [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_host_is_left_to_the_runtime_if_a_mirror_cannot_be_reached() {
    let Some(setup) = setup() else { return };
    let pushed = setup.one_layer();
    // Nothing listens there, as on the loopback interface of another network namespace.
    setup.configure_mirror("127.0.0.1:1", &format!("http://{}", setup.proxy.addr()));
    let pulled = pull(&setup.runtime, "registry.invalid/team/app:1").await;
    let why = left_to_the_runtime(pulled.unwrap());
    assert_eq!(why, "ConnectionFailed: the log has the details");
    assert_eq!(offsets(&setup.proxy, &pushed.layers[0]), [0]);
    // The registry is left to the runtime for a while.
    setup.containerd.remove_all_images();
    let pulled = pull(&setup.runtime, "registry.invalid/team/app:1").await;
    left_to_the_runtime(pulled.unwrap());
    assert_eq!(setup.proxy.requests_matching("GET", "/manifests/").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_refuses_only_fledged_is_left_to_the_runtime() {
    let Some(setup) = setup() else { return };
    let pushed = setup.one_layer();
    let mirror = FaultProxy::start(setup.registry.addr());
    let refused = Fault::Status {
        status: 403,
        retry_after: None,
    };
    mirror.add(Rule::new(refused).path("/manifests/"));
    setup.configure_mirror(mirror.addr(), &format!("http://{}", setup.proxy.addr()));
    let pulled = pull(&setup.runtime, "registry.invalid/team/app:1").await;
    let why = left_to_the_runtime(pulled.unwrap());
    assert_eq!(why, "Unauthorized: the log has the details");
    assert_eq!(offsets(&mirror, &pushed.layers[0]), [0]);
    assert_eq!(setup.proxy.requests_matching("GET", "").len(), 0);
}

pub(super) fn left_to_the_runtime(pulled: RuntimeImage) -> String {
    match pulled.via {
        Some(PulledVia::Runtime(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_come_fast_enough_are_left_to_the_runtime() {
    let Some(setup) = setup() else { return };
    let pushed = setup.one_layer();
    let name = pushed.reference_at(setup.proxy.addr());
    let layer = &pushed.layers[0];
    let with = |bytes| {
        let mut options = FetcherOptions::default();
        options.fast_enough = Some(ByteSize::new(bytes));
        options.config_dirs = vec![setup.containerd.config_dir()];
        options.pressure = PressureLimits::none();
        CriRuntime::connect(setup.containerd.socket()).with_fetcher(options)
    };
    // Any rate is fast enough. containerd continues behind the first part.
    let why = left_to_the_runtime(pull(&with(1), &name).await.unwrap());
    assert!(why.starts_with("one connection is fast enough"), "{why}");
    assert_eq!(offsets(&setup.proxy, layer), [0, PART]);
    setup.assert_each_byte_once(&pushed);
    setup.assert_nothing_left();

    setup.containerd.remove_all_images();
    let before = setup.sent(layer);
    let pulled = pull(&with(u64::MAX), &name).await.unwrap();
    assert_eq!(pulled.via, Some(PulledVia::Fetcher));
    assert_eq!(setup.sent(layer) - before, setup.size(layer));
    setup.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn private_images_need_the_right_credentials() {
    if !require(PARTS) {
        return;
    }
    let registry = Registry::start_with_htpasswd("ann", "correct-horse");
    let containerd = Containerd::start();
    let runtime = fetching(&containerd);
    let pushed = ImageBuilder::new()
        .random_layer("data", 1, 20_000_000)
        .push(&registry, "team/private", "1");
    let request = |password: &str| {
        PullRequest::new(pushed.image()).with_auth(RegistryAuth::Basic {
            username: "ann".to_owned(),
            password: password.into(),
        })
    };
    let error = runtime.pull(request("wr0ng")).await.unwrap_err();
    assert_eq!(error.reason, Reason::Unauthorized, "{error}");
    runtime.pull(request("correct-horse")).await.unwrap();
    let blobs = registry.requests_matching("GET", pushed.layers[0].as_str());
    let parts = blobs.iter().filter(|request| request.status == 206);
    assert_eq!(parts.count(), 3, "{blobs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn small_images_are_left_to_the_runtime() {
    let Some(setup) = setup() else { return };
    let runtime =
        CriRuntime::connect(setup.containerd.socket()).with_fetcher(FetcherOptions::default());
    let pushed = ImageBuilder::new()
        .random_layer("data", 1, 15_000_000)
        .random_layer("small", 2, 8_000_000)
        .push(&setup.registry, "team/app", "1");
    let name = pushed.reference_at(setup.proxy.addr());
    let why = left_to_the_runtime(pull(&runtime, &name).await.unwrap());
    assert!(why.ends_with(", less than 16.0 MiB"), "{why}");
    setup.assert_each_byte_once(&pushed);
    let again = pull(&runtime, &name).await.unwrap();
    assert_eq!(again.via, None, "nothing was fetched");
    assert_eq!(offsets(&setup.proxy, &pushed.layers[0]), [0]);
    assert_eq!(setup.proxy.requests_matching("GET", "/manifests/").len(), 1);
    setup.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn small_layers_of_a_large_image_are_left_to_the_runtime() {
    let Some(setup) = setup() else { return };
    let mut options = FetcherOptions::default();
    options.fast_enough = None;
    let runtime = CriRuntime::connect(setup.containerd.socket()).with_fetcher(options);
    let pushed = ImageBuilder::new()
        .random_layer("small", 1, 2_000_000)
        .random_layer("large", 2, 20_000_000)
        .random_layer("above", 3, 1_000_000)
        .push(&setup.registry, "team/app", "1");
    let name = pushed.reference_at(setup.proxy.addr());
    let pulled = pull(&runtime, &name).await.unwrap();
    assert_eq!(pulled.via, Some(PulledVia::Fetcher));
    setup.assert_each_byte_once(&pushed);
    let statuses = |layer: usize| -> Vec<u16> {
        let requests = setup
            .proxy
            .requests_matching("GET", pushed.layers[layer].as_str());
        requests
            .iter()
            .filter_map(|request| request.status)
            .collect()
    };
    assert_eq!(statuses(0), [200]);
    assert_eq!(statuses(1), [206, 206, 206]);
    assert_eq!(statuses(2), [200]);
    setup.assert_nothing_left();
}

#[tokio::test]
async fn a_runtime_without_content_store_pulls_itself() {
    let fake = FakeCri::start();
    let runtime = CriRuntime::connect(fake.socket()).with_fetcher(FetcherOptions::default());
    for name in ["127.0.0.1:9/app:1", "127.0.0.1:9/app:2"] {
        let why = left_to_the_runtime(pull(&runtime, name).await.unwrap());
        assert_eq!(why, "the runtime has no content store");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_rate_also_holds_for_small_images() {
    let Some(mut setup) = setup() else { return };
    let mut options = FetcherOptions::default();
    options.registry = RegistryOptions::default();
    options.max_pull_rate = Some(rate(5_000_000));
    options.pressure = PressureLimits::none();
    setup.runtime = CriRuntime::connect(setup.containerd.socket()).with_fetcher(options);
    let pushed = ImageBuilder::new()
        .random_layer("data", 1, 10_000_000)
        .push(&setup.registry, "team/app", "1");
    let began = Instant::now();
    setup.pull(&pushed).await.unwrap();
    let ended = began.elapsed();
    assert!(ended > Duration::from_millis(1_700), "{ended:?}");
    setup.assert_each_byte_once(&pushed);
    setup.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pull_of_another_client_goes_first() {
    let Some(mut setup) = setup() else { return };
    setup.runtime = limited(&setup.containerd, Some(20_000_000));
    // Alone, ours takes two seconds. The other one takes six; containerd writes each MiB of it.
    let ours = setup.one_layer();
    let other = ImageBuilder::new()
        .random_layer("data", 2, 12_000_000)
        .push(&setup.registry, "team/pod", "1");
    let slow = Fault::Throttle {
        bytes_per_second: 2_000_000,
    };
    let layer = &other.layers[0];
    setup
        .proxy
        .add(Rule::new(slow).path(layer.as_str()).always());
    let kubelet = CriRuntime::connect(setup.containerd.socket());
    let reference = other.reference_at(setup.proxy.addr());
    let pod = tokio::spawn(async move { pull(&kubelet, &reference).await });
    tokio::task::block_in_place(|| {
        poll_until("the layer of the pod", SOON, || {
            let ingests = ingests(&setup.containerd);
            let begun = ingests.iter().any(|line| line.contains(layer.as_str()));
            begun.then_some(())
        });
    });
    let prefetch = setup.pull(&ours);
    tokio::pin!(prefetch, pod);
    tokio::select! {
        _ = &mut prefetch => panic!("the prefetch did not yield"),
        ended = &mut pod => {
            ended.unwrap().unwrap();
        }
    }
    prefetch.await.unwrap();
    setup.assert_each_byte_once(&ours);
    setup.assert_nothing_left();
}
