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
