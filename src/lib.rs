//! Tollgate answers one question for every LLM request, before it is dispatched: is this request
//! **wholly free**, or **wholly billed**? It keeps the daily complimentary-token allowance of the
//! provider's data-sharing programme for many organizations at once, atomically, across replicas.
//!
//! # How a Reserve flows
//!
//! The `CallLayer` of [`grpc`] authorizes the call and reads its deadline. The handler converts the message to a
//! [`ledger::Reserve`], whose values can't be out of bounds. If the circuit breaker of the [`ledger`] admits it, it
//! enters the queue of its organization, and leaves at once if no store call of that organization is under way. When
//! its batch is formed, the current [`policy`] assesses it for the store's day: eligibility and terms.
//! [`store::Store::decide`] decides each batch of a call atomically by the rules of [`domain`], counts it, and returns
//! the outcomes with its own clock. If that is on another day, the store has written nothing, and the batch is assessed
//! and decided again. The outcome becomes a [`ledger::Reserved`], which is recorded in metrics and log, and converted
//! to the response.
//!
//! # The map
//!
//! | module | what it is | knows |
//! | --- | --- | --- |
//! | [`domain`] | the rules, as values and pure functions | nothing of ours |
//! | [`auth`] | who may call, with which rights | `domain`, `files` |
//! | [`policy`] | who gets what: pools, tiers, organizations; reloads its file | `domain`, `files` |
//! | [`store`] | the counters, behind one interface: file, Redis, memory | `domain` |
//! | [`ledger`] | the use cases: reserve, settle, release, queries | `policy`, `store`, `telemetry` |
//! | [`telemetry`] | metrics, traces, logs | `domain` |
//! | [`grpc`], [`http`] | the surfaces: convert, call, convert | `ledger`, `auth`, `domain`, the store's values, `telemetry` |
//! | [`net`] | ports: sockets, connections and their limits, TLS | `auth`, `telemetry` |
//! | [`server`] | builds all parts from the settings, runs and drains them | all of these |
//! | [`settings`] | flags, environment and settings file | the parts that it configures |
//! | [`client`] | a gRPC client: connection, TLS, explanations of failed calls | `grpc::proto`, `tls` |
//! | [`bench`](mod@bench) | `tollgate bench`, a load generator | `client` |
//! | [`cli`] | the subcommands: calls, `check-policy` and the like | `client`, `bench`, `policy`, `auth`, `settings` |
//! | [`tls`] | TLS as a client: settings, verification, explanations of faults | `files` |
//! | [`files`], [`wall_clock`] | files that are read, parsed and watched; the wall clock | |
//!
//! # The invariants
//!
//! * No answer FREE takes a pool's `used` past its allowance, with any number of replicas and retries, as long as the
//!   store loses no writes.
//! * A request counts once, with its final tokens and verdict. A request id counts once.
//! * A decision is complete before its first write.
//! * The store's clock decides the day, at the moment of the decision.
//! * A write that was sent is completed, even if its caller goes away.
//!
//! docs/CONTRACT.md has the rules, docs/ARCHITECTURE.md the structure.

/// Faster than the system's allocator for small allocations, such as requests and answers.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod auth;
pub mod bench;
pub mod cli;
pub mod client;
pub mod domain;
pub mod files;
pub mod grpc;
pub mod http;
pub mod ledger;
pub mod net;
pub mod policy;
pub mod server;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod wall_clock;
