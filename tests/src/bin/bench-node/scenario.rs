//! The comparisons: images, runtime and tools.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;

use clap::ValueEnum;
use fledged_tests::leftovers::TemporaryFolder;
use fledged_tests::{
    Compression, Containerd, ImageBuilder, Layer, Pushed, Registry, images_with_shared_base,
    pull_like_the_kubelet,
};

use crate::measure::{Sample, measure, measure_here};

/// The runtime that receives the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Place {
    /// containerd, against `ctr images pull`.
    Containerd,
    /// An OCI layout, against `skopeo copy`.
    Oci,
}

impl Place {
    /// The programs that the comparison needs.
    pub(crate) fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Containerd => &["containerd", "ctr", "docker-registry"],
            Self::Oci => &["skopeo", "docker-registry"],
        }
    }

    pub(crate) fn rival(self) -> &'static str {
        match self {
            Self::Containerd => "ctr images pull",
            Self::Oci => "skopeo copy",
        }
    }
}

/// Images in a registry, with a description.
#[derive(Debug)]
pub(crate) struct ImageSet {
    pub(crate) name: String,
    pub(crate) references: Vec<String>,
}

const MB: usize = 1_000_000;

/// One large image.
pub(crate) fn one_image(registry: &Registry, megabytes: usize, layers: usize) -> ImageSet {
    let each = megabytes * MB / layers;
    let image = (0..layers).fold(ImageBuilder::new(), |image, number| {
        image.random_layer(&format!("layer-{number}"), number as u64, each)
    });
    let pushed = image.push(registry, "large", "1");
    ImageSet {
        name: format!("one image of {megabytes} MB in {layers} layers"),
        references: vec![pushed.reference],
    }
}

/// Smaller images that share a base of half their size.
pub(crate) fn many_images(registry: &Registry, count: usize, megabytes: usize) -> ImageSet {
    let half = megabytes * MB / 2;
    let base = [Layer::random("base", 999, half, Compression::Stored)];
    let pushed = images_with_shared_base(registry, "small", count, &base, half);
    ImageSet {
        name: format!("{count} images of {megabytes} MB, half of it shared"),
        references: pushed.into_iter().map(|p: Pushed| p.reference).collect(),
    }
}

/// Images of one size, each with four layers that no other image has.
pub(crate) fn equal_images(registry: &Registry, count: usize, megabytes: usize) -> ImageSet {
    let each = megabytes * MB / 4;
    let references = (0..count).map(|number| {
        let layers = (0..4).map(|layer| (format!("layer-{layer}"), number * 4 + layer));
        let image = layers.fold(ImageBuilder::new(), |image, (name, seed)| {
            image.random_layer(&name, (megabytes * 1_000 + seed) as u64, each)
        });
        let name = format!("equal-{megabytes}-{number}");
        image.push(registry, &name, "1").reference
    });
    ImageSet {
        name: format!("{count} images of {megabytes} MB"),
        references: references.collect(),
    }
}

/// One comparison.
#[derive(Debug)]
pub(crate) struct Scenario<'a> {
    pub(crate) place: Place,
    pub(crate) images: &'a ImageSet,
    pub(crate) fledged: &'a Path,
    pub(crate) max_parallel_pulls: Option<usize>,
}

impl Scenario<'_> {
    pub(crate) fn name(&self) -> String {
        let place = match self.place {
            Place::Containerd => "containerd",
            Place::Oci => "an OCI layout",
        };
        format!("{} into {place}", self.images.name)
    }

    /// Measures `fledged node apply` of a file with all images.
    pub(crate) fn run_fledged(&self) -> Result<Sample, String> {
        let folder = folder();
        let file = folder.path().join("cache.yaml");
        let text = manifest(&self.images.references);
        fs::write(&file, text).map_err(|e| format!("cannot write the manifest: {e}"))?;
        let mut command = fledged_apply(self.fledged, &file, folder.path());
        if let Some(limit) = self.max_parallel_pulls {
            command.args(["--max-parallel-pulls", &limit.to_string()]);
        }
        match self.place {
            Place::Containerd => {
                let containerd = self.fresh_containerd();
                let sample = measure_with(command, &["--runtime", &containerd.uri()])?;
                self.check_containerd(&containerd)?;
                Ok(sample)
            }
            Place::Oci => {
                let layout = folder.path().join("layout");
                settle();
                let runtime = format!("oci:{}", layout.display());
                let sample = measure_with(command, &["--runtime", &runtime])?;
                self.check_layout(&layout)?;
                Ok(sample)
            }
        }
    }

    /// Measures the other tool, called for one image after another.
    pub(crate) fn run_rival(&self) -> Result<Sample, String> {
        match self.place {
            Place::Containerd => {
                let containerd = self.fresh_containerd();
                let sample = self.each(|reference| {
                    containerd.ctr_command(&["images", "pull", "--plain-http", reference])
                })?;
                self.check_containerd(&containerd)?;
                Ok(sample)
            }
            Place::Oci => {
                let folder = folder();
                let layout = folder.path().join("layout");
                settle();
                let sample = self.each(|reference| {
                    let name = reference.split('/').next_back().unwrap_or(reference);
                    let tag = name.replace(':', "-");
                    let mut command = Command::new("skopeo");
                    command
                        .args(["copy", "--quiet", "--src-tls-verify=false"])
                        .arg(format!("docker://{reference}"))
                        .arg(format!("oci:{}:{tag}", layout.display()));
                    command
                })?;
                self.check_layout(&layout)?;
                Ok(sample)
            }
        }
    }

    /// Measures pulls over CRI as the kubelet does them, `at_once` concurrently.
    pub(crate) fn run_kubelet(&self, at_once: NonZeroUsize) -> Result<Sample, String> {
        let containerd = self.fresh_containerd();
        let (socket, images) = (containerd.socket(), &self.images.references);
        let sample = measure_here(|| pull_like_the_kubelet(&socket, images, at_once))?;
        self.check_containerd(&containerd)?;
        Ok(sample)
    }

    fn each(&self, command: impl Fn(&str) -> Command) -> Result<Sample, String> {
        let mut references = self.images.references.iter();
        references.try_fold(Sample::default(), |sum, reference| {
            Ok(sum.then(measure(command(reference))?))
        })
    }

    /// Starts a containerd with an empty store.
    fn fresh_containerd(&self) -> Containerd {
        let containerd = Containerd::start();
        settle();
        containerd
    }

    fn check_containerd(&self, containerd: &Containerd) -> Result<(), String> {
        let names = containerd.image_names();
        let missing = self.images.references.iter().find(|r| !names.contains(r));
        missing.map_or(Ok(()), |r| {
            Err(format!("{r} is not in containerd: {names:?}"))
        })
    }

    fn check_layout(&self, layout: &Path) -> Result<(), String> {
        let path = layout.join("index.json");
        let text = fs::read(&path).map_err(|e| format!("no layout at {}: {e}", path.display()))?;
        let index: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|e| format!("malformed {}: {e}", path.display()))?;
        let held = index.get("manifests").and_then(|m| m.as_array());
        let held = held.map_or(0, Vec::len);
        let wanted = self.images.references.len();
        if held < wanted {
            return Err(format!("the layout holds {held} images of {wanted}"));
        }
        Ok(())
    }
}

/// `fledged node apply` of that manifest, without the caller's credentials.
pub(crate) fn fledged_apply(fledged: &Path, manifest: &Path, home: &Path) -> Command {
    let mut command = Command::new(fledged);
    command
        .args(["node", "apply", "-f"])
        .arg(manifest)
        .args(["-o", "json", "--deadline", "30m"])
        .env("HOME", home)
        .env_remove("DOCKER_CONFIG");
    command
}

/// An ImageCache with these images.
pub(crate) fn manifest(references: &[String]) -> String {
    let images: String = references
        .iter()
        .map(|reference| format!("        - {reference}\n"))
        .collect();
    format!(
        "apiVersion: kubefledged.io/v1alpha2\n\
         kind: ImageCache\n\
         metadata:\n  name: bench\n  namespace: default\n\
         spec:\n  cacheSpec:\n    - images:\n{images}"
    )
}

fn measure_with(mut command: Command, args: &[&str]) -> Result<Sample, String> {
    command.args(args);
    measure(command)
}

/// A temporary folder.
pub(crate) fn folder() -> TemporaryFolder {
    TemporaryFolder::create("bench-")
}

/// Flushes pending writes of earlier runs, so that they don't slow down the next run.
pub(crate) fn settle() {
    rustix::fs::sync();
}
