//! Metrics of this process from the kernel, under Prometheus' standard names.

use prometheus_client::encoding::EncodeMetric as _;
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};

use super::families::CurrentValue;

/// A metric's name, help text and current value.
type ProcessMetric = (&'static str, &'static str, CurrentValue);

/// Encodes the metrics that can be read.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
    for (name, help, now) in process_metrics() {
        let kind: MetricType = now.metric_type();
        now.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
    }
    Ok(())
}

#[cfg(target_os = "linux")]
#[allow(clippy::cast_precision_loss)]
fn process_metrics() -> Vec<ProcessMetric> {
    use procfs::process::{LimitValue, Process};

    let mut metrics = Vec::new();
    let Ok(process) = Process::myself() else {
        return metrics;
    };
    if let Ok(stat) = process.stat() {
        let ticks = procfs::ticks_per_second() as f64;
        let cpu = (stat.utime + stat.stime) as f64 / ticks;
        let memory = (stat.rss * procfs::page_size()) as f64;
        metrics.extend([
            (
                "process_cpu_seconds",
                "CPU time that the process has used, user and system.",
                CurrentValue::Counter(cpu),
            ),
            (
                "process_resident_memory_bytes",
                "Memory that the process holds.",
                CurrentValue::Gauge(memory),
            ),
            (
                "process_threads",
                "Threads of the process.",
                CurrentValue::Gauge(stat.num_threads as f64),
            ),
        ]);
        if let Ok(booted_at) = procfs::boot_time_secs() {
            metrics.push((
                "process_start_time_seconds",
                "When the process started, in seconds since 1970.",
                CurrentValue::Gauge(booted_at as f64 + stat.starttime as f64 / ticks),
            ));
        }
    }
    if let Ok(open) = process.fd_count() {
        metrics.push((
            "process_open_fds",
            "Files and sockets that the process has open.",
            CurrentValue::Gauge(open as f64),
        ));
    }
    if let Ok(limits) = process.limits() {
        let most = match limits.max_open_files.soft_limit {
            LimitValue::Value(most) => most as f64,
            LimitValue::Unlimited => f64::INFINITY,
        };
        metrics.push((
            "process_max_fds",
            "Files and sockets that the process may have open.",
            CurrentValue::Gauge(most),
        ));
    }
    metrics
}

#[cfg(not(target_os = "linux"))]
fn process_metrics() -> Vec<ProcessMetric> {
    Vec::new()
}
