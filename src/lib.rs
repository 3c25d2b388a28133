//! Tollgate answers one question for every LLM request, before it is dispatched: is this request
//! **wholly free**, or **wholly billed**? It keeps the daily complimentary-token allowance of the
//! provider's data-sharing programme for many organizations at once, atomically, across replicas.
//!
//! # The map
//!
//! | module | what it is | knows |
//! | --- | --- | --- |
//! | [`domain`] | the rules, as values and pure functions | nothing of ours |
//! | [`callers`] | who may call, and what they may | `domain`, `document` |
//! | [`policy`] | who gets what: pools, tiers, organizations; follows its file | `domain`, `document`, `reload` |
//! | [`store`] | the counters, behind one interface: file, Redis, memory | `domain` |
//! | [`ledger`] | policy and store put together: the use cases | those three, `metrics`, `traces` |
//! | [`metrics`] | what is counted of all this, and what a scrape is answered | `domain` |
//! | [`traces`] | spans, sent by OTLP | |
//! | [`grpc`], [`http`] | the surfaces: convert, call, convert | `ledger`, `callers`, `domain`, the store's values, `metrics` |
//! | [`server`] | binds, wires, runs and drains | all of these |
//! | [`settings`] | what an operator can set | `document`, what it configures |
//! | [`cli`] | the subcommands: a client, `check-policy` and the like | `grpc::proto`, `policy`, `callers`, `settings`, `pem`, `tls` |
//! | [`document`], [`pem`], [`tls`], [`reload`], [`logs`], [`throttle`], [`trim`], [`wall_clock`] | TOML with all its faults; certificates; TLS as a client; files that change; structured logs, a line a second; the form of a value; the wall clock | |
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

pub mod callers;
pub mod cli;
pub mod document;
pub mod domain;
pub mod grpc;
pub mod http;
pub mod ledger;
pub mod logs;
pub mod metrics;
pub mod pem;
pub mod policy;
pub mod reload;
pub mod server;
pub mod settings;
pub mod store;
pub mod throttle;
pub mod tls;
pub mod traces;
pub mod trim;
pub mod wall_clock;
