//! A containerd that is empty at the start, and pulls into it.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use fledged_tests::Containerd;
use fledged_tests::leftovers::TemporaryFolder;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::measure::{Sample, measure};
use crate::scenario::{fledged_apply, folder, manifest, settle};

/// Who fetches the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// fledged, with `--pull-via auto`.
    Auto,
    /// containerd for fledged, with `--pull-via runtime`.
    Runtime,
    /// `ctr images pull`, one image after another.
    Ctr,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::Auto, Self::Runtime, Self::Ctr];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "fledged, auto",
            Self::Runtime => "fledged, runtime",
            Self::Ctr => "ctr images pull",
        })
    }
}

/// A containerd with an empty store, and a home folder for the programs that pull.
#[derive(Debug)]
pub(super) struct Node<'a> {
    fledged: &'a Path,
    pub(super) containerd: Containerd,
    home: TemporaryFolder,
}

impl<'a> Node<'a> {
    pub(super) fn start(fledged: &'a Path) -> Result<Self, String> {
        let node = Self {
            fledged,
            containerd: Containerd::start(),
            home: folder(),
        };
        settle();
        Ok(node)
    }

    /// Pulls images and checks that they are there.
    pub(super) fn pull(&self, way: Way, images: &[String]) -> Result<Sample, String> {
        let sample = measure(self.command(way, images)?)?;
        self.check(images)?;
        Ok(sample)
    }

    /// Begins to pull images.
    pub(super) fn begin(&self, way: Way, images: &[String]) -> Result<Running, String> {
        let mut command = self.command(way, images)?;
        let output = File::create(self.home.path().join("output"));
        let output = output.map_err(|e| format!("no file for the output: {e}"))?;
        let errors = output.try_clone().map_err(|e| e.to_string())?;
        command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0);
        let child = command.spawn();
        let child = child.map_err(|e| format!("cannot start {command:?}: {e}"))?;
        Ok(Running(child))
    }

    fn command(&self, way: Way, images: &[String]) -> Result<Command, String> {
        let via = match way {
            Way::Auto => "auto",
            Way::Runtime => "runtime",
            Way::Ctr => return Ok(self.ctr(images)),
        };
        let file = self.home.path().join("cache.yaml");
        fs::write(&file, manifest(images))
            .map_err(|e| format!("cannot write the manifest: {e}"))?;
        let mut command = fledged_apply(self.fledged, &file, self.home.path());
        command
            .args(["--pull-via", via, "--runtime", &self.containerd.uri()])
            .env_remove("FLEDGED_MAX_PULL_RATE");
        Ok(command)
    }

    fn ctr(&self, images: &[String]) -> Command {
        let pull = ["images", "pull", "--plain-http"];
        if let [image] = images {
            let mut command = self.containerd.ctr_command(&pull);
            command.arg(image);
            return command;
        }
        let ctr = self.containerd.ctr_command(&pull);
        let mut command = Command::new("sh");
        let script = "images=$1; shift; for image in $images; do \"$@\" \"$image\" || exit; done";
        command
            .args(["-c", script, "sh", &images.join(" ")])
            .arg(ctr.get_program())
            .args(ctr.get_args());
        command
    }

    /// Checks that the images are there.
    pub(super) fn check(&self, images: &[String]) -> Result<(), String> {
        let names = self.containerd.image_names();
        match images.iter().find(|image| !names.contains(image)) {
            None => Ok(()),
            Some(image) => Err(format!("{image} is not in containerd: {names:?}")),
        }
    }
}

/// A pull that was begun. It is killed when it is dropped.
#[derive(Debug)]
pub(super) struct Running(Child);

impl Running {
    /// How it ended, if it has ended.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>, String> {
        self.0
            .try_wait()
            .map_err(|e| format!("no state of a pull: {e}"))
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> Result<ExitStatus, String> {
        self.0
            .wait()
            .map_err(|e| format!("cannot wait for a pull: {e}"))
    }

    /// SIGKILL to it and its children.
    pub(super) fn kill9(&mut self) {
        if let Ok(None) = self.0.try_wait()
            && let Ok(id) = i32::try_from(self.0.id())
            && let Some(group) = Pid::from_raw(id)
        {
            // It may have ended already.
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill9();
    }
}
