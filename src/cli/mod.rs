//! The command line: `serve`, the checks of files, and a client that prints tables or JSON.
//!
//! Exit codes: 0 for an answer (FREE or BILLED), 1 for an error of the service, with its code and
//! message, 2 for wrong arguments.

mod calls;
mod documents;
mod drift;
mod estimate;
mod external;
mod health;
mod program;
mod reconcile;
mod tables;
mod top;
mod usage;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{
    Parser, Subcommand,
    builder::{
        NonEmptyStringValueParser, PathBufValueParser, PossibleValuesParser, TypedValueParser,
    },
};

use self::{
    calls::{connect, show},
    documents::{read_document, read_policy},
};
use crate::{
    auth::{self, Callers, TokenHash, new_token},
    bench::{self, BenchArgs},
    client::{WrongArguments, connection::ConnectionArgs, output::print},
    domain::{UtcDay, Workload},
    grpc::proto::{self, GetQuotaRequest, ReleaseRequest, ReserveRequest, SettleRequest},
    policy::Policy,
    settings::{
        ServeArgs,
        args::{self, TrimmedParser},
    },
};

/// Decides whether an LLM request is wholly free or wholly billed, and counts it.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// Without a subcommand: serve.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service (also without any subcommand)
    Serve(ServeArgs),
    /// Check a file, or call a running service.
    #[command(flatten)]
    Tool(ToolCommand),
}

/// Any command but `serve`.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)] // A comment on `connection` would become the subcommand's.
pub enum ToolCommand {
    /// Check a policy file, and print its content or all of its faults
    CheckPolicy {
        /// The policy file (TOML)
        #[arg(value_parser = TrimmedParser(PathBufValueParser::new()))]
        file: PathBuf,
        /// Print the changes from this file, such as the one in force
        #[arg(long, value_name = "FILE", value_parser = TrimmedParser(PathBufValueParser::new()))]
        against: Option<PathBuf>,
        /// The size of the largest policy file that the service takes [default: 134217728] [env: TOLLGATE_POLICY_BYTES]
        #[arg(long, value_name = "BYTES", value_parser = args::policy_bytes())]
        policy_bytes: Option<u64>,
    },
    /// Print the built-in programmes, which a policy may extend
    #[command(subcommand)]
    Program(program::ProgramCommand),
    /// Check a callers file, and print its content or all of its faults
    CheckCallers {
        /// The callers file (TOML)
        #[arg(value_parser = TrimmedParser(PathBufValueParser::new()))]
        file: PathBuf,
    },
    /// Print a new random token, and its line for the callers file
    NewToken,
    /// Decide whether a request is free, and count it
    Reserve(ReserveArgs),
    /// Record the actual tokens of a reserved request
    Settle {
        /// The organization
        org: String,
        /// The id that was given to reserve
        request_id: String,
        /// The actual tokens, 0 to 1000000000
        tokens: u64,
        /// The request ran where nothing is shared: another project, another provider. It is billed
        #[arg(long)]
        outside_program: bool,
        #[command(flatten)]
        connection: ConnectionArgs,
    },
    /// Release a reserved request that never ran
    Release {
        /// The organization
        org: String,
        /// The id that was given to reserve
        request_id: String,
        #[command(flatten)]
        connection: ConnectionArgs,
    },
    /// Print what remains today
    Quota {
        /// The organization
        org: String,
        #[command(flatten)]
        connection: ConnectionArgs,
    },
    /// Print whether the service is ready; exit with 0 if it is. For probes of containers without a shell
    Health(health::HealthArgs),
    /// Print the most tokens that a request may use, from its body. Needs no service
    Estimate(estimate::EstimateArgs),
    /// Compare the ledger with the provider's usage: from a file, or from its API. Exit with 0 if they agree, 1 if they
    /// differ, 2 if they can't be compared
    Reconcile(Box<reconcile::ReconcileArgs>),
    /// Show organizations and pools, nearest to their end first: live in a terminal, or once
    Top(top::TopArgs),
    /// Generate load and measure it. The requests count: use a deployment whose counters may be used up
    Bench(BenchArgs),
    /// Print the usage of a day or of a range of days, by day, project and model
    Usage(usage::UsageArgs),
    /// Set how many tokens the provider counted today in a pool and Tollgate did not. They count until midnight. Or print
    /// the changes
    External(external::ExternalArgs),
}

/// The arguments of `tollgate reserve`.
#[derive(Debug, clap::Args)]
pub struct ReserveArgs {
    /// The organization
    org: String,
    /// The project
    project: String,
    /// The model, by its exact name
    model: String,
    /// The number of tokens, 1 to 1000000000
    tokens: u64,
    /// An id that makes the call idempotent, and lets the reservation be settled or released
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    request_id: Option<String>,
    /// The kind of work
    #[arg(long, default_value = "inference", value_parser = workload_parser())]
    workload: proto::Workload,
    /// Answer without counting
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

fn workload_parser() -> impl TypedValueParser<Value = proto::Workload> {
    PossibleValuesParser::new(Workload::ALL.map(Workload::name)).map(|name| {
        let name = format!("WORKLOAD_{}", name.to_uppercase());
        proto::Workload::from_str_name(&name).expect("the proto has every workload")
    })
}

/// The program's exit code for this error.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<WrongArguments>() || error.is::<reconcile::Incomparable>() {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// Prints the content of a policy file, or its changes from another one. Warnings go to standard error.
fn check_policy(
    file: &Path,
    against: Option<&Path>,
    policy_bytes: Option<u64>,
) -> anyhow::Result<()> {
    let max_bytes = args::policy_bytes_in_force(policy_bytes)?;
    let policy = read_document(file, max_bytes, Policy::from_bytes)?;
    let name = file.display();
    for warning in policy.warnings(UtcDay::of(crate::wall_clock::now())) {
        eprintln!("warning: {name}:{warning}");
    }
    let Some(other) = against else {
        return print(&format!("{name} is valid\n{}", tables::policy(&policy)));
    };
    let diff = read_policy(other)?.diff(&policy);
    let other = other.display();
    print(&match diff.kinds().as_slice() {
        [] => format!("{name} is valid, and changes nothing in {other}"),
        kinds => format!(
            "{name} is valid, and changes in {other}\n{}",
            tables::changes(kinds)
        ),
    })
}

fn check_callers(file: &Path) -> anyhow::Result<()> {
    let callers = read_document(file, auth::MAX_BYTES, Callers::parse)?;
    let name = file.display();
    print(&format!("{name} is valid\n{}", tables::callers(&callers)))
}

/// Prints a new token, and its line for the callers file.
fn print_new_token() -> anyhow::Result<()> {
    let token = new_token();
    let hash = TokenHash::of(token.as_bytes());
    print(&format!("{token}\ntokens = [\"{hash}\"]"))
}

/// Checks a file, or calls the service and prints its answer.
///
/// # Errors
///
/// The file's faults; the service's code and message, or why it can't be reached.
pub async fn run(command: ToolCommand) -> anyhow::Result<()> {
    match command {
        ToolCommand::CheckPolicy {
            file,
            against,
            policy_bytes,
        } => check_policy(&file, against.as_deref(), policy_bytes),
        ToolCommand::Program(command) => program::run(&command),
        ToolCommand::CheckCallers { file } => check_callers(&file),
        ToolCommand::NewToken => print_new_token(),
        ToolCommand::Reserve(args) => reserve(args).await,
        ToolCommand::Settle {
            org,
            request_id,
            tokens,
            outside_program,
            connection,
        } => {
            let request = SettleRequest {
                org,
                request_id,
                tokens,
                outside_program,
            };
            let answer = connect(&connection)?.settle(request).await;
            show(&connection, answer, tables::settled)
        }
        ToolCommand::Release {
            org,
            request_id,
            connection,
        } => {
            let request = ReleaseRequest { org, request_id };
            let answer = connect(&connection)?.release(request).await;
            show(&connection, answer, tables::released)
        }
        ToolCommand::Quota { org, connection } => {
            let request = GetQuotaRequest { org };
            let answer = connect(&connection)?.get_quota(request).await;
            show(&connection, answer, tables::quota)
        }
        ToolCommand::Estimate(args) => estimate::run(&args),
        ToolCommand::Reconcile(args) => reconcile::run(&args).await,
        ToolCommand::Top(args) => top::run(&args).await,
        ToolCommand::Bench(bench) => bench::run(bench).await,
        ToolCommand::Health(health) => health::check(&health).await,
        ToolCommand::Usage(args) => usage::run(&args).await,
        ToolCommand::External(args) => external::run(args).await,
    }
}

async fn reserve(args: ReserveArgs) -> anyhow::Result<()> {
    let request = ReserveRequest {
        org: args.org,
        project: args.project,
        model: args.model,
        tokens: args.tokens,
        request_id: args.request_id.unwrap_or_default(),
        workload: args.workload.into(),
        dry_run: args.dry_run,
    };
    let answer = connect(&args.connection)?.reserve(request).await;
    show(&args.connection, answer, tables::reserved)
}
