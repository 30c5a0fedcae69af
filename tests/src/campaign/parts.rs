//! The processes of a campaign, each of which can be killed, stopped, and started again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::api_server::{ApiServer, Control};
use super::plan::{NODES, Part, pace};
use super::tls_trap::TlsTrap;
use crate::process::Process;
use crate::require::libfaketime;
use crate::{Containerd, FaultProxy, Registry, find_operator};

/// Mebibytes of the second node's disk.
const DISK: u64 = 192;

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Runs,
    /// Killed by the campaign.
    Down,
    /// Stopped by the campaign.
    Paused,
}

/// A process of the operator.
struct Operator {
    args: Vec<String>,
    folder: PathBuf,
    process: Process,
}

impl Operator {
    fn start(args: Vec<String>, folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).expect("a folder for logs");
        std::fs::write(folder.join("clock"), "+0").expect("a file for the clock");
        let process = launch(&args, &folder);
        Self {
            args,
            folder,
            process,
        }
    }

    /// Sets its clock ahead of the machine's by these seconds.
    fn set_clock(&self, seconds: i64) {
        // Renamed, because the process reads it at any time.
        let next = self.folder.join("clock.next");
        std::fs::write(&next, format!("{seconds:+}")).expect("a file for the clock");
        std::fs::rename(&next, self.folder.join("clock")).expect("a file for the clock");
    }
}

fn launch(args: &[String], folder: &Path) -> Process {
    let program = find_operator().unwrap_or_else(|error| panic!("{error}"));
    let set = |name: &str, value: String| (name.to_owned(), value);
    let variables = [
        set(
            "LD_PRELOAD",
            libfaketime().expect("libfaketime").display().to_string(),
        ),
        set(
            "FAKETIME_TIMESTAMP_FILE",
            folder.join("clock").display().to_string(),
        ),
        // Read the file at each call: the clock changes while the process runs.
        set("FAKETIME_NO_CACHE", "1".to_owned()),
        set("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        // Shared memory would stay behind when the process is killed.
        set("FAKETIME_DISABLE_SHM", "1".to_owned()),
        set("HOME", folder.display().to_string()),
    ];
    Process::start_with(&program.display().to_string(), args, &variables, folder)
}

/// All processes.
pub(super) struct Parts {
    states: std::collections::BTreeMap<Part, State>,
    controller: Operator,
    agents: Vec<Operator>,
    pub(super) api: ApiServer,
    pub(super) containerds: Vec<Containerd>,
    pub(super) registry: Registry,
    pub(super) proxy: Arc<FaultProxy>,
    pub(super) trap: TlsTrap,
}

impl Parts {
    /// Starts everything; the operator's logs go below `folder`.
    pub(super) fn start(folder: &Path) -> Self {
        let registry = Registry::start();
        let proxy = Arc::new(FaultProxy::start(registry.addr()));
        let containerds = vec![Containerd::start(), Containerd::start_on_small_disk(DISK)];
        let api = ApiServer::start();
        let common = [
            format!("--kubeconfig={}", api.kubeconfig.display()),
            "--metrics-bind-address=0".to_owned(),
            "--health-probe-bind-address=0".to_owned(),
        ];
        let args = |subcommand: &str, own: &[String]| -> Vec<String> {
            let subcommand = [subcommand.to_owned()];
            subcommand
                .iter()
                .chain(&common)
                .chain(own)
                .cloned()
                .collect()
        };
        let controller = args(
            "controller",
            &[
                format!("--namespace={}", api.namespace),
                // A controller that was killed has its Lease until it expires.
                "--leader-elect-lease-duration=4s".to_owned(),
                "--leader-elect-renew-deadline=3s".to_owned(),
                "--leader-elect-retry-period=300ms".to_owned(),
                "--refresh-min-interval=1s".to_owned(),
                "--image-cache-refresh-frequency=1m".to_owned(),
            ],
        );
        let agents = containerds.iter().enumerate().map(|(node, containerd)| {
            let own = [
                format!("--node-name={}", node_name(&api.tag, node)),
                format!("--runtime={}", containerd.uri()),
                "--inventory-interval=1s".to_owned(),
                // On the small disk, pulls find the disk full.
                "--image-fs-high-threshold=100%".to_owned(),
            ];
            Operator::start(args("agent", &own), folder.join(format!("agent-{node}")))
        });
        let agents = agents.collect();
        Self {
            states: Part::ALL.map(|part| (part, State::Runs)).into(),
            controller: Operator::start(controller, folder.join("controller")),
            agents,
            api,
            containerds,
            registry,
            proxy,
            trap: TlsTrap::start(),
        }
    }

    fn operator(&mut self, part: Part) -> Option<&mut Operator> {
        match part {
            Part::Agent(node) => self.agents.get_mut(node),
            Part::Controller => Some(&mut self.controller),
            _ => None,
        }
    }

    /// The process of a part; the API server has its own controls.
    fn process(&mut self, part: Part) -> Option<&mut Process> {
        match part {
            Part::Containerd(node) => Some(self.containerds[node].process()),
            Part::Registry => Some(self.registry.process()),
            Part::ApiServer => None,
            _ => Some(&mut self.operator(part)?.process),
        }
    }

    /// Whether the part is neither killed nor stopped.
    pub(super) fn runs(&self, part: Part) -> bool {
        self.states.get(&part) == Some(&State::Runs)
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, part: Part) {
        match self.process(part) {
            Some(process) => process.kill9(),
            None => self.api.control(Control::Kill),
        }
        self.states.insert(part, State::Down);
    }

    /// SIGSTOP.
    pub(super) fn pause(&mut self, part: Part) {
        match self.process(part) {
            Some(process) => process.pause(),
            None => self.api.control(Control::Pause),
        }
        self.states.insert(part, State::Paused);
    }

    /// Starts what was killed, and continues what was stopped.
    pub(super) fn mend(&mut self, part: Part) {
        match self.states.insert(part, State::Runs) {
            Some(State::Down) => self.start_again(part),
            Some(State::Paused) => match self.process(part) {
                Some(process) => process.resume(),
                None => self.api.control(Control::Resume),
            },
            _ => {}
        }
    }

    fn start_again(&mut self, part: Part) {
        match part {
            Part::Containerd(node) => self.containerds[node].start_again(),
            Part::Registry => self.registry.start_again(),
            Part::ApiServer => self.api.control(Control::Start),
            _ => {
                if let Some(operator) = self.operator(part) {
                    operator.process = launch(&operator.args, &operator.folder);
                }
            }
        }
    }

    /// Starts processes again that ended although they should run, as systemd and the kubelet do; returns how they
    /// ended.
    pub(super) fn supervise(&mut self) -> Vec<(Part, String)> {
        let mut ended = Vec::new();
        for part in Part::ALL {
            if !self.runs(part) {
                continue;
            }
            let status = self.process(part).and_then(Process::try_wait);
            if let Some(status) = status {
                ended.push((part, status.to_string()));
                self.start_again(part);
            }
        }
        ended
    }

    /// Sets the clock of an agent or of the controller ahead of the machine's.
    pub(super) fn set_clock(&mut self, part: Part, seconds: i64) {
        if let Some(operator) = self.operator(part) {
            operator.set_clock(seconds);
        }
    }

    /// Lets a node's containerd use a registry that aborts TLS handshakes, or ends that.
    pub(super) fn set_tls(&self, node: usize, faulty: bool) {
        let trap = format!("https://{}", self.trap.addr());
        // containerd 1.6 ignores a file without a host.
        let hosts = format!("server = \"{trap}\"\n[host.\"{trap}\"]\n");
        let hosts = faulty.then_some(hosts.as_str());
        self.containerds[node].configure_registry(self.proxy.addr(), hosts);
    }

    /// Fills the disk of the second node, or frees it.
    pub(super) fn fill_disk(&self, full: bool) {
        let file = self.containerds[NODES - 1].root().join("filler");
        if !full {
            let _ = std::fs::remove_file(&file);
            return;
        }
        let Ok(filler) = std::fs::File::create(&file) else {
            return;
        };
        // As much as there is: ever smaller pieces.
        let (mut length, mut piece) = (0_u64, DISK << 20);
        while piece >= 4096 {
            let flags = rustix::fs::FallocateFlags::empty();
            match rustix::fs::fallocate(&filler, flags, length, piece) {
                Ok(()) => length += piece,
                Err(_) => piece /= 2,
            }
        }
    }

    /// Number of times so far that the second node's containerd found its disk full.
    pub(super) fn disk_full_errors(&self) -> usize {
        let log = std::fs::read(self.containerd_log(NODES - 1)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.matches("no space left on device").count()
    }

    /// Lets the registry answer as it does while no fault applies.
    pub(super) fn end_registry_fault(&self) {
        self.proxy.end_faults();
        self.proxy.add(pace());
    }

    /// Ends every fault.
    pub(super) fn mend_all(&mut self) {
        self.proxy.end_faults();
        self.fill_disk(false);
        for node in 0..NODES {
            self.set_tls(node, false);
        }
        for part in Part::ALL {
            self.set_clock(part, 0);
            self.mend(part);
        }
    }

    /// The logs of all processes: a name and the path.
    pub(super) fn logs(&self) -> Vec<(String, PathBuf)> {
        let mut logs = Vec::new();
        for (node, containerd) in self.containerds.iter().enumerate() {
            let folder = containerd.folder();
            let program = std::fs::read_dir(folder)
                .ok()
                .into_iter()
                .flatten()
                .flatten();
            let files = program.map(|entry| entry.path());
            let files = files.filter(|path| path.extension().is_some_and(|e| e == "err"));
            logs.extend(files.map(|path| (format!("containerd-{node}.log"), path)));
        }
        let registry = self.registry.folder();
        logs.push((
            "registry.log".to_owned(),
            registry.join("docker-registry.err"),
        ));
        logs
    }

    /// The log of a node's containerd.
    pub(super) fn containerd_log(&self, node: usize) -> PathBuf {
        let name = format!("containerd-{node}.log");
        let logs = self.logs();
        let found = logs.into_iter().find(|(log, _)| *log == name);
        found.expect("a log of containerd").1
    }
}

/// The name of a node.
pub(super) fn node_name(tag: &str, node: usize) -> String {
    format!("{tag}-{node}")
}
