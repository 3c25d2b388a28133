//! The command line: `serve`, the checks of files, and a client that prints tables or JSON.
//!
//! Exit codes: 0 for an answer (FREE or BILLED), 1 for an error of the service, with its code and
//! message, 2 for wrong arguments.

mod callers;
mod health;
mod tables;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, anyhow};
use clap::{
    Parser, Subcommand, ValueEnum,
    builder::{NonEmptyStringValueParser, PathBufValueParser},
};
use tonic::Status;

pub use self::callers::{check_callers, print_new_token};
use crate::{
    bench::{self, BenchArgs},
    client::{
        WrongArguments,
        connection::{AuthorizedChannel, ConnectionArgs},
        failure::rpc_error,
        output::{counted, json, print},
    },
    domain::{UtcDay, Workload},
    files::read::read_all,
    grpc::proto::{
        self, GetQuotaRequest, ListUsageRequest, ListUsageResponse, ReleaseRequest, ReserveRequest,
        SettleRequest, quota_service_client::QuotaServiceClient,
    },
    policy::{self, Policy},
    settings::{ServeArgs, args::TrimmedParser},
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
    /// Check a policy file, and print its content or all of its faults
    CheckPolicy {
        /// The policy file (TOML)
        #[arg(value_parser = TrimmedParser(PathBufValueParser::new()))]
        file: PathBuf,
        /// Print the changes from this file, such as the one in force
        #[arg(long, value_name = "FILE", value_parser = TrimmedParser(PathBufValueParser::new()))]
        against: Option<PathBuf>,
    },
    /// Check a callers file, and print its content or all of its faults
    CheckCallers {
        /// The callers file (TOML)
        #[arg(value_parser = TrimmedParser(PathBufValueParser::new()))]
        file: PathBuf,
    },
    /// Print a new random token, and its line for the callers file
    NewToken,
    /// Call a running service.
    #[command(flatten)]
    Client(ClientCommand),
}

/// A call to a running service.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)] // A comment on `connection` would become the subcommand's.
pub enum ClientCommand {
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
        #[command(flatten)]
        connection: ConnectionArgs,
    },
    /// Release a reserved request that never ran, or ran elsewhere
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
    /// Generate load and measure it. The requests count: use a deployment whose counters may be used up
    Bench(BenchArgs),
    /// Print the usage of a day, by project and model
    Usage {
        /// The organization
        org: String,
        /// The UTC day, such as 2026-11-22. Default: today
        #[arg(long)]
        day: Option<String>,
        #[command(flatten)]
        connection: ConnectionArgs,
    },
}

impl ValueEnum for Workload {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(self.name().into())
    }
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
    #[arg(long, default_value = "inference")]
    workload: Workload,
    /// Answer without counting
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// The program's exit code for this error.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<WrongArguments>() {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// Prints the content of a policy file, or its changes from another one. Warnings go to standard error.
///
/// # Errors
///
/// A file can't be read, or has faults.
pub fn check_policy(file: &Path, against: Option<&Path>) -> anyhow::Result<()> {
    let (name, policy) = (file.display(), read_policy(file)?);
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

/// Accepts a pipe too. The service does not, since it reads its file repeatedly.
fn read_policy(file: &Path) -> anyhow::Result<Policy> {
    let name = file.display().to_string();
    let opened = fs::File::open(file).with_context(|| format!("{name} can't be read"))?;
    let bytes = read_all(opened, policy::MAX_BYTES).map_err(|error| anyhow!("{name} {error}"))?;
    Policy::from_bytes(&name, &bytes)
        .map_err(|faults| anyhow!("{}\n{faults}", counted(faults.faults.len(), "fault")))
}

/// Calls the service and prints its answer.
///
/// # Errors
///
/// The service's code and message, or why it can't be reached.
pub async fn run(command: ClientCommand) -> anyhow::Result<()> {
    match command {
        ClientCommand::Reserve(args) => reserve(args).await,
        ClientCommand::Settle {
            org,
            request_id,
            tokens,
            connection,
        } => {
            let request = SettleRequest {
                org,
                request_id,
                tokens,
            };
            let answer = connect(&connection)?.settle(request).await;
            show(
                &connection,
                "tollgate.v1.SettleResponse",
                answer,
                tables::settled,
            )
        }
        ClientCommand::Release {
            org,
            request_id,
            connection,
        } => {
            let answer = connect(&connection)?
                .release(ReleaseRequest { org, request_id })
                .await;
            show(
                &connection,
                "tollgate.v1.ReleaseResponse",
                answer,
                tables::released,
            )
        }
        ClientCommand::Quota { org, connection } => {
            let answer = connect(&connection)?
                .get_quota(GetQuotaRequest { org })
                .await;
            show(
                &connection,
                "tollgate.v1.GetQuotaResponse",
                answer,
                tables::quota,
            )
        }
        ClientCommand::Bench(bench) => bench::run(bench).await,
        ClientCommand::Health(health) => health::check(&health).await,
        ClientCommand::Usage {
            org,
            day,
            connection,
        } => {
            let answer = all_usage(&connection, org, day.unwrap_or_default()).await?;
            show(
                &connection,
                "tollgate.v1.ListUsageResponse",
                Ok(tonic::Response::new(answer)),
                tables::usage,
            )
        }
    }
}

async fn reserve(args: ReserveArgs) -> anyhow::Result<()> {
    let request = ReserveRequest {
        org: args.org,
        project: args.project,
        model: args.model,
        tokens: args.tokens,
        request_id: args.request_id.unwrap_or_default(),
        workload: workload_number(args.workload),
        dry_run: args.dry_run,
    };
    let answer = connect(&args.connection)?.reserve(request).await;
    show(
        &args.connection,
        "tollgate.v1.ReserveResponse",
        answer,
        tables::reserved,
    )
}

/// All pages of a day's usage, as one answer.
async fn all_usage(
    connection: &ConnectionArgs,
    org: String,
    day: String,
) -> anyhow::Result<ListUsageResponse> {
    let mut client = connect(connection)?;
    let mut all = ListUsageResponse::default();
    loop {
        let page = client.list_usage(ListUsageRequest {
            org: org.clone(),
            day: day.clone(),
            page_size: 1000,
            page_token: std::mem::take(&mut all.next_page_token),
        });
        let page = page
            .await
            .map_err(|status| rpc_error(connection, &status))?
            .into_inner();
        all.day = page.day;
        all.rows.extend(page.rows);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        all.next_page_token = page.next_page_token;
    }
}

fn connect(connection: &ConnectionArgs) -> anyhow::Result<QuotaServiceClient<AuthorizedChannel>> {
    Ok(QuotaServiceClient::new(connection.open()?))
}

fn show<T: prost::Message>(
    connection: &ConnectionArgs,
    message: &str,
    answer: Result<tonic::Response<T>, Status>,
    table: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    let answer = answer
        .map_err(|status| rpc_error(connection, &status))?
        .into_inner();
    let text = if connection.json {
        json(proto::DESCRIPTORS, message, &answer)?
    } else {
        table(&answer)
    };
    print(&text)
}

fn workload_number(workload: Workload) -> i32 {
    match workload {
        Workload::Inference => proto::Workload::Inference,
        Workload::HostedTool => proto::Workload::HostedTool,
        Workload::FineTuning => proto::Workload::FineTuning,
        Workload::Evaluation => proto::Workload::Evaluation,
    }
    .into()
}
