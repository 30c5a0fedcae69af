//! Examples and rules at the end of each command's `--help`.

pub(super) const GET: &str = "\
Examples:
  fledged get
  fledged get -A
  fledged get storefront -n shop -w
  fledged get -A -o json

The counts are of images times nodes. Unreachable are those on nodes that are NotReady, not Linux,
or whose agent is silent. NotTakenUp is what no controller has looked at since it was made or
edited.

Exit codes: 0 listed, 1 not found or no answer from the cluster, 2 bad input.";

pub(super) const STATUS: &str = "\
Examples:
  fledged status storefront
  fledged status storefront -n shop --max-nodes 100
  fledged status storefront -o json | jq '.nodes[] | select(.unreachable)'

Images are columns, numbered as in the list above the matrix. Of more than --max-nodes nodes,
those on which nothing is amiss are counted; the others are shown one by one, worst first, and
counted from that number on. JSON and YAML have all of them.

Exit codes: 0 shown, 1 not found or no answer from the cluster, 2 bad input.";

pub(super) const WAIT: &str = "\
Examples:
  fledged wait storefront --for=cached
  fledged wait storefront -n shop --for=purged --timeout 10m

cached: every image is on every node that can be reached, for the newest spec, and no refresh is
under way. purged: they were removed from all of these, or something uses them. Nodes that can't
be reached are not waited for. The ImageCache is watched, nothing is polled.

Exit codes: 0 it is so, 1 it is not in time, is deleted, or no answer from the cluster, 2 bad
input.";

pub(super) const REFRESH: &str = "\
Examples:
  fledged refresh storefront
  fledged refresh storefront -n shop --wait --timeout 10m

Sets the annotation kubefledged.io/refresh-imagecache. Every node looks at once whether its images
are there, and pulls what is not. What moves (no tag, :latest, imagePullPolicy Always) is pulled
again, and what has failed is tried again. It is over when all nodes that can be reached have
looked. A purged ImageCache comes back.

Exit codes: 0 asked for, with --wait: ended well; 1 ended as Failed or Unknown, overtaken, not in
time, not found, or no answer from the cluster; 2 bad input.";

pub(super) const PURGE: &str = "\
Examples:
  fledged purge storefront
  fledged purge storefront -n shop --wait --timeout 10m

Sets the annotation kubefledged.io/purge-imagecache. An image that another ImageCache wants or a
container uses stays. The ImageCache wants nothing then until a refresh or an edit.

Exit codes: 0 asked for, with --wait: ended well; 1 ended as Failed or Unknown, overtaken, not in
time, not found, or no answer from the cluster; 2 bad input.";

pub(super) const WHY: &str = "\
Examples:
  fledged why storefront node-1 nginx
  fledged why storefront node-1 registry.example.com/web:1.2 -n shop -o json

One answer: the first thing that keeps the image from the node, with the fields that say so and
what to do about it.

Exit codes: 0 it is cached, for whichever ImageCache; 1 it is not, not found, or no answer from the
cluster; 2 bad input.";

pub(super) const PLAN: &str = "\
Examples:
  fledged plan -f images.yaml
  fledged plan -f images.yaml --exit-code -o json

What the controller would decide with the file applied is compared with what it would decide
without, on the cluster as it is now. Nothing is written. The pace of a rollout is left out: every
node is planned for, also those that are not Ready. Images that are pulled may be there already;
images that are in use are not removed. release: nobody keeps it there any more, and nobody
removes it. keep: other ImageCaches want it. Files are planned as one; kubectl applies their
ImageCaches one after another, so name who wants an image before who gives it up.

Exit codes: 0 planned, 1 no answer from the cluster, or with --exit-code: something would be
pulled, removed or released; 2 bad input.";
