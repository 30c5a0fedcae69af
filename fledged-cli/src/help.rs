//! Examples, rules and exit codes at the end of each command's `--help`.

/// The text of the program itself, with or without the examples of optional features.
macro_rules! root {
    ($($more:expr)*) => {
        concat!(
            "Examples:\n",
            $($more,)*
            "  fledged node apply -f images.yaml             pull the missing images onto this machine
  fledged check -f images.yaml                  check that every image can be pulled

Exit codes:
  0  success
  1  the answer is no, at least one image failed, or the runtime or cluster does not answer or exist
  2  invalid arguments, a file where a directory must be, or an invalid file; nothing was changed
  129, 130, 143  interrupted by SIGHUP (demo only), SIGINT or SIGTERM

Colours and progress bars appear only on a terminal; NO_COLOR turns colours off."
        )
    };
}

#[cfg(feature = "cluster")]
macro_rules! cluster {
    () => {
        "  fledged doctor                                check that the operator of a cluster works
  fledged get -A                                list the ImageCaches of a cluster
  fledged status storefront                     show one of them, node by node
  fledged why storefront node-1 nginx           why is this image on that node, or not?
  fledged node status node-1                    show a node of a cluster, cache by cache
"
    };
}

#[cfg(feature = "demo")]
pub(crate) const ROOT: &str = root!(
    "  fledged demo                                  show fledged at work; needs no cluster\n"
    cluster!()
);
#[cfg(all(feature = "cluster", not(feature = "demo")))]
pub(crate) const ROOT: &str = root!(cluster!());
#[cfg(not(feature = "cluster"))]
pub(crate) const ROOT: &str = root!();

pub(crate) const NODE_APPLY: &str = "\
Examples:
  fledged node apply -f images.yaml
  fledged node apply -f images.yaml --node-label tier=edge --dry-run
  fledged node apply -f images.yaml --runtime unix:///run/containerd/containerd.sock
  fledged node apply -f images.yaml --runtime oci:/srv/images --platform linux/arm64 -o json
  kubectl get imagecaches -A -o yaml | fledged node apply -f -

The manifests are ImageCaches of kubefledged.io/v1alpha2, as a cluster accepts them. Entries whose \
nodeSelector and nodeAffinity match this node are used. The node's labels are kubernetes.io/hostname \
(the node's name), kubernetes.io/os, kubernetes.io/arch, and every --node-label, which takes precedence.

Images that are present are not pulled, except mutable tags (no tag, :latest) and entries with \
imagePullPolicy Always. Transient failures are retried until the deadline; other failures are final.

Exit codes: 0 every image is present, 1 at least one image failed, 2 invalid input, 130 interrupted.";

pub(crate) const NODE_DOCTOR: &str = "\
Examples:
  fledged node doctor
  fledged node doctor --runtime unix:///run/containerd/containerd.sock
  fledged node doctor -o json | jq '.checks[] | select(.result == \"advice\")'
  fledged node doctor --root /host --runtime unix:///host/run/containerd/containerd.sock

Reads the runtime, containerd's configuration, the kubelet's configuration, the image file system and the \
kernel's pressure information; changes nothing and sends nothing to registries. Run it as root: otherwise it \
cannot read files and processes of other users.

ok       nothing to change
advice   something slows pulls down or puts images at risk: its cost, and the setting that fixes it
FAILED   images cannot be pulled or kept
skipped  not read, and why

Exit codes: 0 no check failed, also with advice; 1 at least one check failed, for example because no runtime \
answers or the image file system is at the kubelet's threshold; 2 invalid input.";

pub(crate) const NODE_LIST: &str = "\
Examples:
  fledged node list
  fledged node list --runtime oci:/srv/images -o json";

pub(crate) const NODE_PURGE: &str = "\
Examples:
  fledged node purge -f images.yaml --dry-run
  fledged node purge -f images.yaml --runtime oci:/srv/images

Removes the images of the entries that match this node, and no others. An image that a container uses \
is kept and shown as InUse; that is not a failure.

Exit codes: 0 every image is removed or in use, 1 at least one image failed, 2 invalid input, \
130 interrupted.";

pub(crate) const NODE_RUN: &str = "\
Examples:
  fledged node run -f /etc/fledged/images.yaml
  fledged node run -f images.yaml --runtime oci:/srv/images --inventory-interval 30s
  fledged node run -f images.yaml --image-cache-refresh-frequency 0s

Edits of the manifests take effect within seconds: edits in place, atomic renames, and the symbolic links \
of a ConfigMap volume. An edit is applied once the file has not changed for three seconds. If writing the \
file can pause for longer, write a new file and rename it over the old one. An invalid edit is reported, \
and the last valid manifests stay in effect. Images that leave the manifests while the program runs are \
removed unless a container uses them. Images that were never in the manifests are never removed.

If the runtime does not answer, the program waits for it. SIGTERM and SIGINT end it with exit code 0 \
within ten seconds; an interrupted pull resumes at the next start where the runtime supports it. \
Under systemd (Type=notify) it reports READY once the manifests are read and the runtime answers.";

pub(crate) const CHECK: &str = "\
Examples:
  fledged check -f images.yaml
  fledged check -f images.yaml --registry-config registry.json --platform linux/arm64
  fledged check -f images.yaml -o json

Checks every image of the manifests, whatever nodes it is for. No layers are downloaded. Credentials are those \
of docker login; with --anonymous there are none.

Exit codes: 0 every image can be pulled, 1 at least one cannot, 2 invalid input, 130 interrupted.";

#[cfg(feature = "demo")]
pub(crate) const DEMO: &str = "\
Examples:
  fledged demo
  fledged demo --nodes 20 --no-wait
  fledged demo -f images.yaml --keep

Starts an API server and a registry on loopback ports, the controller, and for each node an agent with an \
OCI image layout, all in this process and in one directory below $TMPDIR. Then it rolls out an ImageCache, \
adds a node, deletes an image behind an agent's back and purges everything.

At a terminal, the images are then pulled again and the cluster stays up until Enter or Ctrl-C. Otherwise, \
or with --no-wait, the demo exits. With --keep, it stays up until SIGINT or SIGTERM in either case. kubectl \
works with the kubeconfig whose path is shown; the one of $KUBECONFIG is neither read nor written. All \
files are removed at the end, also after an interrupt.

With -f, the registry serves generated images under the repositories and tags of the file; nothing is \
downloaded. Nodes get, in turn, the labels of the nodeSelectors in the file. Entries that select no node \
are reported.

Exit codes: 0 all steps completed, also if a signal ends the demo after the last step; 1 a step failed; \
2 invalid input; 130, 143 interrupted before the end.";

pub(crate) const COMPLETIONS: &str = "\
Examples:
  fledged completions bash > /etc/bash_completion.d/fledged
  fledged completions zsh > \"${fpath[1]}/_fledged\"
  fledged completions fish > ~/.config/fish/completions/fledged.fish";

pub(crate) const MAN: &str = "\
Examples:
  fledged man | man -l -
  fledged man --directory /usr/local/share/man/man1";

#[cfg(feature = "cluster")]
pub(crate) const GET: &str = "\
Examples:
  fledged get
  fledged get -A
  fledged get storefront -n shop -w
  fledged get -A -o json

The counts are pairs of image and node. Unreachable pairs are on nodes that are NotReady or not Linux, or \
whose agent is unresponsive. NotTakenUp: no controller has processed the newest version of the ImageCache. \
Pulling: the last action has succeeded, and nodes that joined or lost images pull them now.

With -w, bytes of running pulls are shown on stderr, if the user may list pods and get pods/proxy where \
the agents run.

Exit codes: 0 success, 1 not found or no answer from the cluster, 2 invalid input.";

#[cfg(feature = "cluster")]
pub(crate) const STATUS: &str = "\
Examples:
  fledged status storefront
  fledged status storefront -w
  fledged status storefront -n shop --max-nodes 100
  fledged status storefront -o json | jq '.nodes[] | select(.unreachable)'

Columns are images, numbered as in the list above the matrix; failing nodes come first. With more than \
--max-nodes nodes, the nodes without problems are counted; the others are shown one by one, worst first, up \
to --max-nodes, and counted beyond that. Images that are in the same state on the same nodes share a column \
if there are more than 20, or more than fit into the terminal (100 columns without one). --all shows \
everything. JSON and YAML contain every node and image.

Bytes, rate and remaining time of running pulls come from the agents, through the API server: the user needs list \
on pods and get on pods/proxy where the agents run. A pull that CRI makes without --pull-via auto has none. With -w, \
JSON is one document on a line for each change.

Exit codes: 0 success, 1 not found, with -w: deleted, or no answer from the cluster, 2 invalid input.";

#[cfg(feature = "cluster")]
pub(crate) const NODE_STATUS: &str = "\
Examples:
  fledged node status node-1
  fledged node status node-1 -o json | jq '.removals'

Shows whether the node is Ready and its agent responds, every ImageCache that selects the node with the state \
of its images, images that are still to be removed and why they are kept, and the size of the node's \
NodeImageCache. Agents report changes, so that the last report of an idle agent can be old.

Exit codes: 0 the node is shown, whatever its state; 1 not found or no answer from the cluster; 2 invalid \
input.";

#[cfg(feature = "cluster")]
pub(crate) const WAIT: &str = "\
Examples:
  fledged wait storefront
  fledged wait storefront -n shop --for=purged --timeout 10m

cached: every image of the newest spec is on every reachable node, and no refresh is pending.
purged: every image is removed from every reachable node, except images that a container uses or another \
ImageCache lists. The purge is requested with `fledged purge`.
Unreachable nodes are ignored. The ImageCache is watched, not polled.

Failed pulls are named, and the wait goes on, because they are retried. It ends at once if waiting changes \
nothing: the spec is invalid; or, for cached, the ImageCache is purged or being deleted.

Exit codes: 0 condition met; 1 timed out, never met, deleted, or no answer from the cluster; 2 invalid input.";

#[cfg(feature = "cluster")]
pub(crate) const REFRESH: &str = "\
Examples:
  fledged refresh storefront
  fledged refresh storefront -n shop --wait --timeout 10m

Sets the annotation kubefledged.io/refresh-imagecache. Every node re-checks its images and pulls what is \
missing. Mutable tags (no tag, :latest, imagePullPolicy Always) are pulled again and failures are retried. \
The refresh completes when all reachable nodes have reported. It also ends a purge.

Exit codes: 0 requested, or with --wait: succeeded; 1 with --wait: failed, superseded or timed out; 1 also \
if not found or without an answer from the cluster; 2 invalid input.";

#[cfg(feature = "cluster")]
pub(crate) const PURGE: &str = "\
Examples:
  fledged purge storefront
  fledged purge storefront -n shop --wait --timeout 10m

Sets the annotation kubefledged.io/purge-imagecache. Images that another ImageCache wants or a container \
uses are kept. The ImageCache stays purged until a refresh or an edit.

Exit codes: 0 requested, or with --wait: succeeded; 1 with --wait: failed, superseded or timed out; 1 also \
if not found or without an answer from the cluster; 2 invalid input.";

#[cfg(feature = "cluster")]
pub(crate) const WHY: &str = "\
Examples:
  fledged why storefront node-1 nginx
  fledged why storefront node-1 registry.example.com/web:1.2 -n shop -o json

Answers with the first cause that keeps the image off the node, the fields that show it, and a remedy.

Exit codes: 0 the image is cached, for any ImageCache; 1 it is not, something was not found, or no answer \
from the cluster; 2 invalid input.";

#[cfg(feature = "cluster")]
pub(crate) const PLAN: &str = "\
Examples:
  fledged plan -f images.yaml
  fledged plan -f images.yaml --exit-code -o json

Compares what the controller would decide with and without the file, for the cluster as it is now. Nothing \
is written. Rollout limits are ignored: every node is planned for, also nodes that are NotReady.

pull     the image is pulled, unless it is present already
remove   the image is removed, unless a container uses it
release  the image stays on the node and is no longer managed
keep     other ImageCaches still want the image

All files are planned as one change. kubectl applies their ImageCaches one after another, so put the \
ImageCache that adds an image before the one that drops it.

Exit codes: 0 success; 1 no answer from the cluster, or with --exit-code: something would be pulled, \
removed or released; 2 invalid input.";

#[cfg(feature = "cluster")]
pub(crate) const DOCTOR: &str = "\
Examples:
  fledged doctor
  fledged doctor --operator-namespace images -n shop
  fledged doctor -o json | jq '.checks[] | select(.result == \"failed\")'

Reads the API server's version, the CustomResourceDefinitions, the controller and its Lease, the agents, the \
webhook, permissions and clocks; changes nothing. Permissions of the user are checked for the namespace of -n. \
What the user may not read is skipped, with the missing permission.

ok       nothing to change
advice   images are at risk, or their state is not shown: the cost, and the setting or command that fixes it
FAILED   images cannot be pulled, or ImageCaches have no effect
skipped  not read, and why

Exit codes: 0 no check failed, also with advice; 1 at least one check failed, for example because no controller \
leads, or the API server does not answer; 2 invalid input.";
