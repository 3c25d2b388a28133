//! `tollgate estimate`: the tokens of a request in a file.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::builder::{NonEmptyStringValueParser, PathBufValueParser};

use super::{documents::read_policy, tables};
use crate::{
    client::{
        WrongArguments,
        output::{json, print},
    },
    estimate::{Endpoint, estimate},
    files::read::{read_once, read_stdin},
    grpc::proto::EstimateResponse,
    policy::Policy,
    settings::args::TrimmedParser,
};

/// The size of the largest body: what the service can be set to accept.
const MAX_BYTES: u64 = 32 << 20;

/// The arguments of `tollgate estimate`.
#[derive(Debug, clap::Args)]
pub struct EstimateArgs {
    /// The request's body (JSON); - for standard input
    #[arg(value_parser = PathBufValueParser::new())]
    file: PathBuf,
    /// The policy file, for the capacities of the models [default: the built-in policy]
    #[arg(long, value_name = "FILE", value_parser = TrimmedParser(PathBufValueParser::new()))]
    policy: Option<PathBuf>,
    /// The request's path, such as /v1/embeddings [default: /v1/responses if the body has input and no messages,
    /// otherwise /v1/chat/completions]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    path: Option<String>,
    /// The model, in the place of the body's
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    model: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &EstimateArgs) -> anyhow::Result<()> {
    let path = args.path.as_deref().map(Endpoint::of_path);
    let path = path
        .transpose()
        .map_err(|error| WrongArguments(format!("--{error}")))?;
    let policy = args.policy.as_deref().map(read_policy);
    let policy = policy.transpose()?.unwrap_or_else(Policy::builtin);
    let (name, body) = match args.file.to_str() {
        Some("-") => ("standard input".to_owned(), read_stdin(MAX_BYTES)),
        _ => {
            let name = args.file.display().to_string();
            (name, read_once(&args.file, MAX_BYTES))
        }
    };
    let body = body.map_err(|error| anyhow!("{name} {error}"))?;
    let estimate = path
        .map_or_else(|| Endpoint::of_body(&body), Ok)
        .and_then(|endpoint| {
            let model = args.model.as_deref();
            let capacity = |model: &str| policy.capacity(model);
            estimate(endpoint, &body, model, capacity, |it| policy.covers(it))
        });
    let estimate = estimate.map_err(|error| anyhow!("{name}: {error}"))?;
    let estimate = EstimateResponse::from(estimate);
    print(&match args.json {
        true => json(&estimate)?,
        false => tables::estimate(&estimate),
    })
}
