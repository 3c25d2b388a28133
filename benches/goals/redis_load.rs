//! Load on Redis alone: what it costs to count without deciding.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use hdrhistogram::Histogram;
use redis::{Connection, Pipeline, pipe};

use super::{
    load::LoadStats,
    processes::{Redis, cpu_time},
};

/// What is sent for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Commands {
    /// PING: a bare round trip.
    Ping,
    Incrby,
    /// What envoyproxy/ratelimit sends for a request with one descriptor.
    IncrbyAndExpire,
}

/// A closed loop of connections, or an open one.
///
/// With `IncrbyAndExpire` these are the commands of envoyproxy/ratelimit at its defaults: a pipeline of the two for each
/// request, on one of at most ten connections. It is not that service: here nothing but Redis limits a closed loop, so
/// that Redis always has several requests ready, which makes each cheaper than behind the service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RedisLoad {
    pub(crate) commands: Commands,
    pub(crate) connections: usize,
    /// How many requests a connection sends together.
    pub(crate) pipelined: u64,
    pub(crate) organizations: u64,
    /// Requests a second; by default as fast as Redis answers.
    pub(crate) rate: Option<u32>,
}

/// The seconds after which a counter expires.
const EXPIRY_SECONDS: u64 = 86_400;

impl RedisLoad {
    /// Each request waits for the answer of the one before.
    pub(crate) const fn alone(commands: Commands) -> Self {
        Self {
            commands,
            connections: 1,
            pipelined: 1,
            organizations: 1,
            rate: None,
        }
    }

    /// INCRBY of one key, with so many in a pipeline.
    pub(crate) const fn pipelined_incrby(pipelined: u64) -> Self {
        let alone = Self::alone(Commands::Incrby);
        Self { pipelined, ..alone }
    }

    /// The requests of many callers over a pool of ten connections.
    pub(crate) const fn incrby_and_expire(organizations: u64, rate: Option<u32>) -> Self {
        Self {
            connections: 10,
            organizations,
            rate,
            ..Self::alone(Commands::IncrbyAndExpire)
        }
    }

    /// Runs the load, on threads of their own.
    ///
    /// # Errors
    ///
    /// Redis did not answer.
    pub(crate) fn run(&self, redis: &Redis, duration: Duration) -> anyhow::Result<LoadStats> {
        let connections = (0..self.connections).map(|_| redis.connection());
        let connections = connections.collect::<anyhow::Result<Vec<_>>>()?;
        let before = cpu_time(redis.pid())?;
        let (next, started) = (AtomicU64::new(0), Instant::now());
        let ends = started + duration;
        let latencies = thread::scope(|scope| {
            let start = |connection| scope.spawn(|| self.send(connection, &next, started, ends));
            let threads: Vec<_> = connections.into_iter().map(start).collect();
            let mut all = Histogram::<u64>::new(3)?;
            for thread in threads {
                let latencies = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
                all.add(latencies?)?;
            }
            anyhow::Ok(all)
        })?;
        let elapsed = started.elapsed();
        let redis_cpu = cpu_time(redis.pid())?.saturating_sub(before);
        let requests = (latencies.len() * self.pipelined) as f64;
        Ok(LoadStats {
            rate: requests / elapsed.as_secs_f64(),
            p50: latencies.value_at_quantile(0.5) as f64 / 1e3,
            p99: latencies.value_at_quantile(0.99) as f64 / 1e3,
            max: latencies.max() as f64 / 1e3,
            server_cpu: None,
            redis_cpu: Some(redis_cpu.as_secs_f64() * 1e6 / requests),
            client_cpu: None,
        })
    }

    /// Sends what is due on one connection, and returns the latencies of the pipelines in nanoseconds.
    fn send(
        &self,
        mut connection: Connection,
        next: &AtomicU64,
        started: Instant,
        ends: Instant,
    ) -> anyhow::Result<Histogram<u64>> {
        let mut latencies = Histogram::new(3)?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let pipeline = self.pipeline(number);
            let due = match self.rate {
                None => Instant::now(),
                Some(rate) => started + (Duration::from_secs(1) / rate).mul_f64(number as f64),
            };
            if due >= ends {
                return Ok(latencies);
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let sent = pipeline.query::<()>(&mut connection);
            sent.with_context(|| format!("{:?}", self.commands))?;
            latencies.record(due.elapsed().as_nanos() as u64)?;
        }
    }

    fn pipeline(&self, number: u64) -> Pipeline {
        let mut pipeline = pipe();
        let key = format!("bench_organization_bench-{}", number % self.organizations);
        for _ in 0..self.pipelined {
            match self.commands {
                Commands::Ping => pipeline.cmd("PING").ignore(),
                Commands::Incrby => pipeline.cmd("INCRBY").arg(&key).arg(1).ignore(),
                Commands::IncrbyAndExpire => {
                    pipeline.cmd("INCRBY").arg(&key).arg(1).ignore();
                    pipeline
                        .cmd("EXPIRE")
                        .arg(&key)
                        .arg(EXPIRY_SECONDS)
                        .ignore()
                }
            };
        }
        pipeline
    }
}
