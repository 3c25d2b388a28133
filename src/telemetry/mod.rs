//! Metrics, traces and logs.

mod log_limit;
pub mod logs;
pub mod metrics;
pub mod traces;

pub use log_limit::LogLimit;
pub(crate) use log_limit::log_limited;
