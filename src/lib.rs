//! Tollgate answers one question for every LLM request, before it is dispatched: is this request
//! **wholly free**, or **wholly billed**? It keeps the daily complimentary-token allowance of the
//! provider's data-sharing programme for many organizations at once, atomically, across replicas.
//!
//! # How a Reserve flows
//!
//! [`grpc`]'s `CallLayer` judges the caller's rights and reads the deadline; the handler converts the message into
//! a [`ledger::Reserve`], whose values can't be out of bounds. The circuit breaker of the [`ledger`] lets it pass,
//! and it waits in the queue of its organization, where it goes at once if no call of that organization is under
//! way. When its batch is formed, the [`policy`] assesses it (eligibility, terms), for the store's day and as the
//! policy is at that moment. [`store::Store::decide`] takes the batches of a call, decides each atomically by the
//! rules of [`domain`], counts, and gives outcomes with its own clock; where its day is another one, nothing was
//! written, and the batch is assessed and decided again. The outcome returns as a [`ledger::Reserved`], is recorded
//! in metrics and log, and is converted into the response.
//!
//! # The map
//!
//! | module | what it is | knows |
//! | --- | --- | --- |
//! | [`domain`] | the rules, as values and pure functions | nothing of ours |
//! | [`auth`] | who may call, and what they may | `domain`, `files` |
//! | [`policy`] | who gets what: pools, tiers, organizations; follows its file | `domain`, `files` |
//! | [`store`] | the counters, behind one interface: file, Redis, memory | `domain` |
//! | [`ledger`] | policy and store put together: the use cases | `policy`, `store`, `telemetry` |
//! | [`telemetry`] | metrics, traces, logs | `domain` |
//! | [`grpc`], [`http`] | the surfaces: convert, call, convert | `ledger`, `auth`, `domain`, the store's values, `telemetry` |
//! | [`net`] | ports: sockets, connections and their limits, TLS | `auth`, `telemetry` |
//! | [`server`] | binds, wires, runs and drains | all of these |
//! | [`settings`] | what an operator can set | what it configures |
//! | [`client`] | a gRPC client: connection, TLS, explanations of failed calls | `grpc::proto`, `tls` |
//! | [`bench`](mod@bench) | `tollgate bench`, a load generator | `client` |
//! | [`cli`] | the subcommands: calls, `check-policy` and the like | `client`, `bench`, `policy`, `auth`, `settings` |
//! | [`files`], [`tls`], [`wall_clock`] | files that are read, parsed and followed; TLS as a client; the wall clock | |
//!
//! # The invariants
//!
//! * No answer FREE takes a pool's `used` past its allowance, whatever replicas and retries do, as long as
//!   the store remembers what it was told.
//! * A request counts once, as what it finally was. A request id counts once.
//! * A decision is judged whole before its first write.
//! * The day is the store's clock's, at the moment of the decision.
//! * A write that was begun is carried to its end, also when its caller goes away.
//!
//! docs/CONTRACT.md has the rules, docs/ARCHITECTURE.md the why.

/// Requests and answers are many small pieces, which this allocator takes and gives for less.
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
