//! The benchmark `bench-scale` on a small cluster: it completes, and counts no repeated requests.
use std::process::Command;

use serde_json::Value;

fn run(args: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_bench-scale"))
        .args(args)
        .env_remove("KUBEBUILDER_ASSETS")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.success(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn count(request: &Value, who: &str) -> u64 {
    request[who].as_u64().unwrap()
}

/// Returns the counts of one verb and resource in a phase.
fn requests<'p>(phase: &'p Value, verb: &str, resource: &str) -> Option<&'p Value> {
    let mut all = phase["requests"].as_array().unwrap().iter();
    all.find(|r| r["verb"] == verb && r["resource"] == resource)
}

#[test]
fn bench_scale_counts_no_repeated_requests() {
    let (ok, stdout, stderr) = run(&[
        "--nodes=3",
        "--images=4",
        "--pull=20ms",
        "--joins=2",
        "--idle=2s",
        "--only=join,edit,one,refresh,reconnect,idle,purge,troubled",
        "-o=json",
    ]);
    assert!(ok, "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let phases = report["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 9);
    for phase in phases {
        for request in phase["requests"].as_array().unwrap() {
            // A client counts a watch before the server does.
            let known = count(request, "agents") + count(request, "bench");
            assert!(count(request, "all") >= known, "{phase:#}");
        }
    }
    let [rollout, join, .., idle, purge, troubled] = &phases[..] else {
        panic!("{phases:#?}");
    };
    // Three simulated nodes, and one whose agent is a process.
    let written = requests(rollout, "APPLY", "nodeimagecaches").unwrap();
    assert_eq!(count(written, "all"), 4, "{rollout:#}");
    assert_eq!(rollout["nodes"], 4);
    assert_eq!(join["nodes"], 2);
    let refresh = phases.iter().find(|phase| phase["name"] == "refresh");
    let refresh = refresh.unwrap();
    // Each node gets an assignment and writes a report.
    assert_eq!(refresh["recordWrites"], 2 * 6, "{refresh:#}");
    assert!(requests(refresh, "APPLY", "imagecaches/status").is_some());
    assert_eq!(idle["recordWrites"], 0, "{idle:#}");
    assert_eq!(idle["controllerWrites"], 0, "{idle:#}");
    assert!(idle["figures"]["agentProcessRss"].as_f64() > Some(1e6));
    assert!(count(requests(purge, "DELETE", "nodeimagecaches").unwrap(), "all") >= 1);
    // One node is not Ready and gets no assignment; one has no agent and gets one.
    let written = requests(troubled, "APPLY", "nodeimagecaches").unwrap();
    assert!((7..=14).contains(&count(written, "all")), "{troubled:#}");
    assert_eq!(report["warnings"], serde_json::json!([]));
}

#[test]
fn one_job_pulls_all_images_of_a_node() {
    let (ok, stdout, stderr) = run(&[
        "--node-driver=job",
        "--nodes=3",
        "--images=4",
        "--pull=20ms",
        "--joins=1",
        "--idle=1s",
        "--only=join,edit,idle,purge",
        "-o=json",
    ]);
    assert!(ok, "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let phases = report["phases"].as_array().unwrap();
    let jobs: Vec<u64> = phases
        .iter()
        .map(|phase| requests(phase, "POST", "jobs").map_or(0, |request| count(request, "all")))
        .collect();
    // Phases: rollout, one more node, one more image, idle, removal.
    assert_eq!(jobs, [3, 1, 4, 0, 4], "{phases:#?}");
    assert_eq!(report["warnings"], serde_json::json!([]));
}

/// Some loads on a few nodes. A load fails by itself if it writes more than its limit. Its limits of time are made so
/// large that they assert no speed.
#[test]
fn loads_stay_within_their_limits() {
    let (ok, stdout, stderr) = run(&[
        "--load=storm,caches,wide",
        "--nodes=3",
        "--images=2",
        "--caches=12",
        "--everywhere=2",
        "--pull=20ms",
        "--lasting=2s",
        "--flap-period=2s",
        "--edits=200",
        "--slack=20",
        "-o=json",
    ]);
    assert!(ok, "{stderr}");
    let reports = serde_json::Deserializer::from_str(&stdout).into_iter::<Value>();
    let reports: Vec<Value> = reports.map(Result::unwrap).collect();
    let phases = |report: &Value| report["phases"].as_array().unwrap().clone();
    let [storm, caches, wide] = &reports[..] else {
        panic!("{stdout}");
    };
    assert_eq!([caches, wide].map(|load| phases(load).len()), [4, 3]);
    for report in &reports {
        assert_eq!(report["warnings"], serde_json::json!([]));
        for phase in phases(report) {
            let bounds = phase["bounds"].as_array().unwrap().iter();
            for bound in bounds {
                assert!(count(bound, "written") <= count(bound, "most"), "{phase:#}");
            }
            // Writes that waited, memory, and the time of plans.
            assert!(phase["limits"].as_array().unwrap().len() >= 3, "{phase:#}");
        }
    }
    let edits = &phases(storm)[1];
    assert!(edits["figures"]["editToOrderP99"].as_f64() > Some(0.0));
    assert_eq!(edits["figures"]["perSecondEditsAsked"], 200.0);
    assert!(count(&edits["latency"], "plans") > 0, "{edits:#}");
    // Twelve caches, of which two are for three nodes and one for the agent that is a process.
    let created = &phases(caches)[0];
    assert!(created["recordWrites"].as_u64() >= Some(4), "{created:#}");
    assert!(requests(created, "APPLY", "imagecaches/status").is_some());
}

#[test]
fn an_exceeded_limit_fails_after_the_figures() {
    let (ok, stdout, stderr) = run(&[
        "--load=idle",
        "--nodes=2",
        "--images=1",
        "--pull=20ms",
        "--lasting=1s",
        "--slack=0.001",
    ]);
    assert!(!ok, "{stdout}");
    let exceeded = "load Idle: rollout: controller's peak RSS";
    assert!(stderr.contains(exceeded), "{stderr}");
    assert!(stdout.contains("limit: controller's peak RSS"), "{stdout}");
}
