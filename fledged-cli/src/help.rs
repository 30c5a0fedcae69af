//! Examples and rules at the end of each command's `--help`.

/// With the demo and the commands for a cluster, or without.
macro_rules! root {
    ($($more:expr)*) => {
        concat!(
            "Examples:\n",
            $($more,)*
            "  fledged node apply -f images.yaml             put the images on this machine
  fledged check -f images.yaml                  can they all be pulled?

Exit codes:
  0  everything that was asked for is so
  1  the answer is no, at least one image failed, or no runtime or cluster answers
  2  the arguments or a file are not valid; nothing was changed
  129, 130, 143  ended by SIGHUP (the demo), SIGINT or SIGTERM before it was done

Colours and progress bars are for terminals only; NO_COLOR turns colours off there too."
        )
    };
}

#[cfg(feature = "cluster")]
macro_rules! cluster {
    () => {
        "  fledged get -A                                the ImageCaches of a cluster
  fledged status storefront                     one of them, node by node
  fledged why storefront node-1 nginx           why is it there, or not?
"
    };
}

#[cfg(feature = "demo")]
pub(crate) const ROOT: &str = root!(
    "  fledged demo                                  see it at work, needs nothing\n"
    cluster!()
);
#[cfg(all(feature = "cluster", not(feature = "demo")))]
pub(crate) const ROOT: &str = root!(cluster!());
#[cfg(not(feature = "cluster"))]
pub(crate) const ROOT: &str = root!();

pub(crate) const APPLY: &str = "\
Examples:
  fledged node apply -f images.yaml
  fledged node apply -f images.yaml --node-label tier=edge --dry-run
  fledged node apply -f images.yaml --runtime unix:///run/containerd/containerd.sock
  fledged node apply -f images.yaml --runtime oci:/srv/images --platform linux/arm64 -o json
  kubectl get imagecaches -A -o yaml | fledged node apply -f -

The manifests are kubefledged.io/v1alpha2 ImageCaches as a cluster takes them. Of each, the entries
count whose nodeSelector and nodeAffinity match this node. Its labels are kubernetes.io/hostname
(the node's name), kubernetes.io/os, kubernetes.io/arch, and every --node-label, which wins.

What is there stays as it is, except references that move (no tag, :latest) and imagePullPolicy
Always, which are pulled again. Transient failures are retried until the deadline; others end the
image at once.

Exit codes: 0 everything is there, 1 something failed, 2 bad input, 130 interrupted.";

pub(crate) const LIST: &str = "\
Examples:
  fledged node list
  fledged node list --runtime oci:/srv/images -o json";

pub(crate) const PURGE: &str = "\
Examples:
  fledged node purge -f images.yaml --dry-run
  fledged node purge -f images.yaml --runtime oci:/srv/images

Removes what the manifests name for this node's labels and nothing else. An image that a container
uses stays and is shown as InUse, which is no failure.

Exit codes: 0 everything is gone or in use, 1 something failed, 2 bad input, 130 interrupted.";

pub(crate) const RUN: &str = "\
Examples:
  fledged node run -f /etc/fledged/images.yaml
  fledged node run -f images.yaml --runtime oci:/srv/images --inventory-interval 30s
  fledged node run -f images.yaml --image-cache-refresh-frequency 0s

Edits of the manifests take effect within seconds, by whatever means they are made: in place, by an
atomic rename, or by a ConfigMap's symbolic links. An edit counts once the file has stayed the same for
three seconds; a write that pauses for longer is taken as it stands, so write a new file and rename it
over the old one where writing may be slow. An edit that is not valid is reported and the last good one
stays in force. Images that leave the manifests while it runs are removed, unless a
container uses them; images that the file never named are never touched.

While the runtime does not answer, it waits for it. SIGTERM and SIGINT end it with exit code 0, within
ten seconds; a pull that was under way goes on at the next start from what the runtime kept.
With Type=notify it tells systemd when it is ready: manifests read, runtime found.";

pub(crate) const CHECK: &str = "\
Examples:
  fledged check -f images.yaml
  fledged check -f images.yaml --registry-config ~/.docker/config.json --platform linux/arm64
  fledged check -f images.yaml -o json

Every image of the manifests is asked for, whatever node it is meant for; no layer is downloaded.

Exit codes: 0 every image can be pulled, 1 at least one can't, 2 bad input, 130 interrupted.";

#[cfg(feature = "demo")]
pub(crate) const DEMO: &str = "\
Examples:
  fledged demo
  fledged demo --nodes 20 --no-wait
  fledged demo -f images.yaml --keep

An API server and a registry on loopback ports, the controller, and for each node an agent with an OCI
image layout, all in this process and in one folder below $TMPDIR. An ImageCache is rolled out; a node
joins; an image gets lost and comes back; everything is purged.

At a terminal the cluster then stays up, with the images back on it, until Enter or Ctrl-C; without
one, or with --no-wait, the demo ends. With --keep it stays until SIGINT or SIGTERM in any case. The
kubeconfig whose path is shown works with kubectl. That of $KUBECONFIG is neither read nor written.
Nothing is left behind, however it ends.

-f FILE: the images of the file are served as generated ones of the same repository and tag; nothing
is fetched from elsewhere. The nodes are given in turn the labels that the nodeSelectors ask for;
entries that mean no node are named.

Exit codes: 0 all was shown, also when a signal ends it after the last act; 1 something did not come
to its end, which is named; 2 bad input; 130, 143 interrupted before the end.";

pub(crate) const COMPLETIONS: &str = "\
Examples:
  fledged completions bash > /etc/bash_completion.d/fledged
  fledged completions zsh > \"${fpath[1]}/_fledged\"
  fledged completions fish > ~/.config/fish/completions/fledged.fish";

pub(crate) const MAN: &str = "\
Examples:
  fledged man | man -l -
  fledged man --directory /usr/local/share/man/man1";
