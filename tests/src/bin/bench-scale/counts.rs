//! Requests that an API server has answered, and what a process takes.

use fledged_tests::kube::TestCluster;

/// Writes to NodeImageCaches so far, of the controller and of all agents.
pub(crate) async fn record_writes(cluster: &TestCluster) -> Result<u64, String> {
    if let Some(server) = cluster.embedded() {
        let ours = |resource: &str| resource == "nodeimagecaches";
        return Ok(server.count(|key| key.is_write() && ours(&key.resource)));
    }
    let request = http::Request::get("/metrics")
        .body(Vec::new())
        .map_err(|error| error.to_string())?;
    let text = cluster.client().request_text(request).await;
    let text = text.map_err(|error| format!("cannot read the API server's metrics: {error}"))?;
    let counted = |line: &&str| {
        let writes = ["APPLY", "PATCH", "POST", "PUT", "DELETE"];
        line.starts_with("apiserver_request_total{")
            && line.contains("resource=\"nodeimagecaches\"")
            && writes
                .iter()
                .any(|verb| line.contains(&format!("verb=\"{verb}\"")))
    };
    let numbers = text.lines().filter(counted).filter_map(|line| {
        let (_, number) = line.rsplit_once(' ')?;
        number.parse::<f64>().ok()
    });
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    let sum = numbers.sum::<f64>() as u64;
    Ok(sum)
}

/// Memory and processor time of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// The most memory it held, in bytes.
    pub(crate) peak_rss: u64,
    /// Processor time so far, in seconds.
    pub(crate) cpu: f64,
}

/// What a process has taken so far (proc(5)).
pub(crate) fn usage(pid: u32) -> Option<Usage> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = peak.split_whitespace().nth(1)?.parse().ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields after the name, which may hold blanks: user and system time are the 14th and 15th.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    // USER_HZ is 100 on every Linux platform that Rust has.
    let cpu = (ticks(11)? + ticks(12)?) / 100.0;
    Some(Usage {
        peak_rss: kib * 1024,
        cpu,
    })
}
