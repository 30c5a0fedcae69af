//! A node's report in the API: when the status of a NodeImageCache is written, and how it is made to fit.

pub(crate) mod node_status;
pub(crate) mod status_writer;
