//! The integration tests, in one binary. Redis is always real: each test that needs one starts its own redis-server
//! processes on free ports.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod cli;
mod clients;
mod clock;
mod contract;
mod dashboard;
mod envoy;
mod estimate;
mod faults;
mod file_store;
mod grpc;
mod grpcurl;
mod helm;
mod http_api;
mod identity;
mod listeners;
mod metrics;
mod midnight;
mod notify;
mod oracle;
mod overview;
mod property;
mod python_client;
mod queue;
mod reconcile;
mod redis_faults;
mod releases;
mod reload;
mod replicas;
mod rollout;
mod server;
mod simulation;
mod supply;
mod support;
mod tidy;
mod topologies;
