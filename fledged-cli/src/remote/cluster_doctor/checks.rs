//! The checks of `fledged doctor`.

use crate::doctor::{Category, Check};

const API_SERVER: Category = Category::new("api-server");
const DEFINITIONS: Category = Category::new("definitions");
const CONTROLLER: Category = Category::new("controller");
const AGENTS: Category = Category::new("agents");
const WEBHOOK: Category = Category::new("webhook");
const PERMISSIONS: Category = Category::new("permissions");
const CLOCKS: Category = Category::new("clocks");

pub(super) const API_SERVER_ANSWERS: Check = Check::new("api-server-answers", API_SERVER);
pub(super) const API_SERVER_VERSION: Check = Check::new("api-server-version", API_SERVER);
pub(super) const CRD_IMAGE_CACHES: Check = Check::new("crd-imagecaches", DEFINITIONS);
pub(super) const CRD_NODE_IMAGE_CACHES: Check = Check::new("crd-nodeimagecaches", DEFINITIONS);
pub(super) const CRD_STORED_VERSIONS: Check = Check::new("crd-stored-versions", DEFINITIONS);
pub(super) const CONTROLLER_DEPLOYMENT: Check = Check::new("controller-deployment", CONTROLLER);
pub(super) const CONTROLLER_LEASE: Check = Check::new("controller-lease", CONTROLLER);
pub(super) const AGENTS_DAEMON_SET: Check = Check::new("agents-daemonset", AGENTS);
pub(super) const AGENTS_ON_NODES: Check = Check::new("agents-on-nodes", AGENTS);
pub(super) const AGENT_RESTARTS: Check = Check::new("agent-restarts", AGENTS);
pub(super) const POD_SECURITY: Check = Check::new("pod-security", AGENTS);
pub(super) const NODE_REPORTS: Check = Check::new("node-reports", AGENTS);
pub(super) const VERSIONS: Check = Check::new("versions", AGENTS);
pub(super) const WEBHOOK_CONFIGURATION: Check = Check::new("webhook-configuration", WEBHOOK);
pub(super) const WEBHOOK_CA_BUNDLE: Check = Check::new("webhook-ca-bundle", WEBHOOK);
pub(super) const WEBHOOK_ENDPOINTS: Check = Check::new("webhook-endpoints", WEBHOOK);
pub(super) const OWN_READ_ACCESS: Check = Check::new("own-read-access", PERMISSIONS);
pub(super) const OWN_WRITE_ACCESS: Check = Check::new("own-write-access", PERMISSIONS);
pub(super) const OWN_PULL_BYTES: Check = Check::new("own-pull-bytes-access", PERMISSIONS);
pub(super) const CONTROLLER_ACCESS: Check = Check::new("controller-access", PERMISSIONS);
pub(super) const AGENT_ACCESS: Check = Check::new("agent-access", PERMISSIONS);
pub(super) const WEBHOOK_ACCESS: Check = Check::new("webhook-access", PERMISSIONS);
pub(super) const CLOCK_HERE: Check = Check::new("clock-here", CLOCKS);
pub(super) const CONTROLLER_CLOCK: Check = Check::new("controller-clock", CLOCKS);
pub(super) const NODE_CLOCKS: Check = Check::new("node-clocks", CLOCKS);
