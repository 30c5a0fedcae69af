//! `fledged why`: one answer, with its evidence.

mod advice;
mod answer;
mod command;
mod explain;
mod on_node;
mod selection;
mod text;

pub use answer::{Answer, Evidence, WhyReason};
pub(super) use command::why;
pub use explain::{Situation, explain};
