//! Tollgate answers one question for every LLM request, before it is dispatched: is this request
//! **wholly free**, or **wholly billed**? It keeps the daily complimentary-token allowance of the
//! provider's data-sharing programme for many organizations at once, atomically, across replicas.
//!
//! # How a Reserve flows
//!
//! The `CallLayer` of [`grpc`] reads the deadline, authenticates the caller and checks its role. The handler converts
//! the message to a [`ledger::Reserve`], whose values can't be out of bounds, and checks that the caller may speak for
//! the organization. If the circuit breaker of the [`ledger`] admits the request, it enters the queue of its
//! organization. It leaves at once, unless a store call of that organization is under way or the store has as many
//! calls as it takes at a time; `memory:` needs no queue. When its batch is formed, the current [`policy`] assesses it
//! for the day on which the store probably is: eligibility and terms. [`store::Store::decide`] decides each batch of a
//! call atomically by the rules of [`domain`] (in Redis by their twin, `rules.lua`), counts it, and returns the
//! outcomes with its own clock. If that is on another day, the store has written nothing, and the batch is assessed and
//! decided again. The outcome becomes a [`ledger::Reserved`] or an error, is recorded in metrics and in the decision
//! log, and is converted to the response or the status.
//!
//! # The map
//!
//! A module uses only those above it, as far as `tests/tidy` allows.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`domain`] | the rules, as values and pure functions |
//! | [`estimate`](mod@estimate) | an upper bound on the tokens of a request, from its body |
//! | [`wall_clock`], `spreadsheet`, [`files`], [`tls`], `http_client` | the wall clock; CSV for spreadsheets; files that are read, parsed and watched; TLS and HTTP as a client |
//! | [`telemetry`] | metrics, traces, logs |
//! | [`auth`] | who may call, with which rights |
//! | [`policy`] | who gets what: pools, tiers, organizations; reloads its file |
//! | [`store`] | the counters, behind one interface: file, Redis, memory |
//! | [`ledger`] | the use cases: reserve, settle, release, queries |
//! | [`notify`] | delivers notices of pools that reach a threshold: log and webhook |
//! | [`grpc`], [`envoy`], [`http`] | the surfaces: convert, call, convert; RPCs over HTTP pass the call layer of [`grpc`] |
//! | [`net`] | ports: sockets, connections and their limits, TLS |
//! | [`settings`] | flags, environment and settings file |
//! | [`reconcile`] | compares what the provider reports with the ledger; reads its usage API |
//! | [`server`] | builds all parts from the settings, runs and drains them |
//! | [`client`] | a gRPC client: connection, TLS, explanations of failed calls |
//! | [`bench`](mod@bench) | `tollgate bench`, a load generator |
//! | [`cli`] | the subcommands: calls, `check-policy` and the like |
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
pub mod envoy;
pub mod estimate;
pub mod files;
pub mod grpc;
pub mod http;
mod http_client;
pub mod ledger;
pub mod net;
pub mod notify;
pub mod policy;
pub mod reconcile;
pub mod server;
pub mod settings;
mod spreadsheet;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod wall_clock;
