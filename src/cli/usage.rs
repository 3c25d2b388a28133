//! `tollgate usage`: the usage of a day or of a range of days, as tables, JSON or CSV.
//!
//! The usage of a range is printed page by page, so that any number of rows takes the memory of one page.

use std::ops::ControlFlow::{self, Break, Continue};

use anyhow::{anyhow, ensure};
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use tonic::Status;

use super::{
    calls::{all_usage, connect, show},
    tables,
};
use crate::{
    client::{
        connection::{AuthorizedChannel, ConnectionArgs},
        csv_table::CsvTable,
        failure::rpc_error,
        output::{counted, print_part},
    },
    grpc::proto::{
        ListUsageRequest, ListUsageResponse, UsageRow, quota_service_client::QuotaServiceClient,
    },
    settings::args::TrimmedParser,
};

/// The columns of the CSV. Stable.
const COLUMNS: [&str; 9] = [
    "org",
    "day",
    "project",
    "model",
    "pool",
    "free_tokens",
    "billed_tokens",
    "free_requests",
    "billed_requests",
];

/// The arguments of `tollgate usage`.
#[derive(Debug, clap::Args)]
pub struct UsageArgs {
    /// The organization
    org: String,
    /// The UTC day, such as 2026-11-22. Default: today
    #[arg(long)]
    day: Option<String>,
    /// The first UTC day of a range of at most 62 days
    #[arg(
        long,
        value_name = "DAY",
        conflicts_with = "day",
        value_parser = TrimmedParser(NonEmptyStringValueParser::new())
    )]
    from: Option<String>,
    /// The last UTC day of the range. Default: today
    #[arg(
        long,
        value_name = "DAY",
        requires = "from",
        conflicts_with = "day",
        value_parser = TrimmedParser(NonEmptyStringValueParser::new())
    )]
    to: Option<String>,
    /// Print CSV: a line for each day, project and model
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// What is printed page by page.
#[derive(Debug, Clone, Copy)]
enum UsageFormat {
    Csv,
    /// An object on each line.
    JsonLines,
    /// A table for each page.
    Tables,
}

/// A line of the JSON.
#[derive(Serialize)]
struct UsageLine<'r> {
    org: &'r str,
    day: &'r str,
    project: &'r str,
    model: &'r str,
    pool: &'r str,
    free_tokens: u64,
    billed_tokens: u64,
    free_requests: u64,
    billed_requests: u64,
}

/// Prints usage page by page.
struct UsageExport<'a> {
    args: &'a UsageArgs,
    client: QuotaServiceClient<AuthorizedChannel>,
    format: UsageFormat,
    /// How many rows were printed.
    rows: usize,
}

pub(super) async fn run(args: &UsageArgs) -> anyhow::Result<()> {
    let connection = &args.connection;
    let client = connect(connection)?;
    let format = match (args.csv, connection.json) {
        (true, _) => UsageFormat::Csv,
        (false, true) => UsageFormat::JsonLines,
        (false, false) => UsageFormat::Tables,
    };
    if args.from.is_none() && !args.csv {
        let answer = all_usage(client, args.first_page(&args.org)).await;
        return show(connection, answer, tables::usage);
    }
    let mut export = UsageExport {
        args,
        client,
        format,
        rows: 0,
    };
    export.print(&args.org).await.map(drop)
}

impl UsageArgs {
    fn first_page(&self, org: &str) -> ListUsageRequest {
        let day = |day: &Option<String>| day.clone().unwrap_or_default();
        ListUsageRequest {
            org: org.to_owned(),
            day: day(&self.day),
            page_size: 1000,
            page_token: String::new(),
            from_day: day(&self.from),
            to_day: day(&self.to),
        }
    }
}

impl UsageExport<'_> {
    /// Prints all pages of an organization. `Break`: nobody reads them any more.
    async fn print(&mut self, org: &str) -> anyhow::Result<ControlFlow<()>> {
        let mut request = self.args.first_page(org);
        loop {
            let page = self.client.list_usage(request.clone()).await;
            let page = page.map_err(|status| self.error(&status))?.into_inner();
            ensure!(
                !page.from_day.is_empty(),
                "the service is of an earlier release, which lists no ranges and no days in its rows: upgrade it"
            );
            let is_first = request.page_token.is_empty();
            if is_first {
                self.warn_of_days_left_out(&page);
            }
            let text = self.format.page(org, &page, is_first)?;
            if !text.is_empty() && print_part(&text)?.is_break() {
                return Ok(Break(()));
            }
            self.rows += page.rows.len();
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(Continue(()));
            }
        }
    }

    fn error(&self, status: &Status) -> anyhow::Error {
        let error = rpc_error(&self.args.connection, status);
        match self.rows {
            0 => error,
            rows => anyhow!(
                "{error:#}; the output is incomplete, it ends after {}",
                counted(rows, "row")
            ),
        }
    }

    /// Without it, a sum over the output would silently lack days.
    fn warn_of_days_left_out(&self, page: &ListUsageResponse) {
        let kept = &page.from_day;
        if self.args.from.as_ref().is_some_and(|from| from != kept) {
            eprintln!(
                "warning: usage is kept from {kept} on: the days before it are not in the output"
            );
        }
    }
}

impl UsageFormat {
    /// The text of a page, without the line feed at its end; empty if there is nothing to print.
    fn page(self, org: &str, page: &ListUsageResponse, is_first: bool) -> anyhow::Result<String> {
        match self {
            Self::Csv => csv(org, &page.rows, is_first),
            Self::JsonLines => json_lines(org, &page.rows),
            Self::Tables if is_first => Ok(first_table(org, page)),
            Self::Tables => Ok(format!("\n{}", tables::usage_by_day(&page.rows))),
        }
    }
}

fn csv(org: &str, rows: &[UsageRow], with_header: bool) -> anyhow::Result<String> {
    let mut table = CsvTable::new();
    if with_header {
        table.add_row(COLUMNS)?;
    }
    for row in rows {
        table.add_row([
            org,
            &row.day,
            &row.project,
            &row.model,
            &row.pool,
            &row.free_tokens.to_string(),
            &row.billed_tokens.to_string(),
            &row.free_requests.to_string(),
            &row.billed_requests.to_string(),
        ])?;
    }
    table.into_text()
}

fn json_lines(org: &str, rows: &[UsageRow]) -> anyhow::Result<String> {
    let lines = rows.iter().map(|row| {
        serde_json::to_string(&UsageLine {
            org,
            day: &row.day,
            project: &row.project,
            model: &row.model,
            pool: &row.pool,
            free_tokens: row.free_tokens,
            billed_tokens: row.billed_tokens,
            free_requests: row.free_requests,
            billed_requests: row.billed_requests,
        })
    });
    let lines: Result<Vec<String>, _> = lines.collect();
    Ok(lines?.join("\n"))
}

fn first_table(org: &str, page: &ListUsageResponse) -> String {
    let (from, to) = (&page.from_day, &page.to_day);
    let heading = match from == to {
        true => format!("{org}, {from} (UTC)"),
        false => format!("{org}, {from} to {to} (UTC)"),
    };
    match page.rows.as_slice() {
        [] => format!("{heading}: nothing was used"),
        rows => format!("{heading}\n{}", tables::usage_by_day(rows)),
    }
}
