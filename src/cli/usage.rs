//! `tollgate usage`: the usage of a day or of a range of days, as tables, JSON or CSV.
//!
//! Usage of a range, of all organizations and as CSV is printed page by page, so that any number of rows takes the
//! memory of one page.

use std::{
    mem,
    ops::ControlFlow::{self, Break, Continue},
};

use anyhow::{Context as _, anyhow, ensure};
use clap::builder::NonEmptyStringValueParser;
use tonic::{Code, Status};

use super::{
    calls::{all_usage, connect, show},
    tables,
};
use crate::{
    client::{
        connection::{AuthorizedChannel, ConnectionArgs},
        failure::rpc_error,
        output::{counted, print, print_part, shown},
    },
    grpc::proto::{
        ListOrganizationsRequest, ListUsageRequest, ListUsageResponse, UsageRow,
        quota_service_client::QuotaServiceClient,
    },
    settings::args::TrimmedParser,
    spreadsheet::{CsvTable, USAGE_COLUMNS, UsageLine},
};

/// The arguments of `tollgate usage`.
#[derive(Debug, clap::Args)]
pub struct UsageArgs {
    /// The organization
    #[arg(required_unless_present = "all")]
    org: Option<String>,
    /// Every organization that the caller may read, instead of one
    #[arg(long, conflicts_with = "org")]
    all: bool,
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

/// Prints usage page by page.
struct UsageExport<'a> {
    args: &'a UsageArgs,
    client: QuotaServiceClient<AuthorizedChannel>,
    format: UsageFormat,
    /// An organization's first page, without the organization.
    first_page: ListUsageRequest,
    /// Whether the first answer has fixed the days of all.
    has_fixed_days: bool,
    /// The first day that the answers have, as far as is known.
    kept_from: String,
    /// Whether anything was printed.
    has_begun: bool,
    /// How many rows were printed.
    rows: usize,
}

pub(super) async fn run(args: &UsageArgs) -> anyhow::Result<()> {
    let connection = &args.connection;
    let client = connect(connection)?;
    let first_page = args.first_page();
    let format = match (args.csv, connection.json) {
        (true, _) => UsageFormat::Csv,
        (false, true) => UsageFormat::JsonLines,
        (false, false) => UsageFormat::Tables,
    };
    if let (Some(org), None, false) = (&args.org, &args.from, args.csv) {
        let org = org.clone();
        let request = ListUsageRequest { org, ..first_page };
        let answer = all_usage(client, request).await;
        return show(connection, answer, tables::usage);
    }
    let mut export = UsageExport {
        args,
        client,
        format,
        first_page,
        has_fixed_days: false,
        kept_from: String::new(),
        has_begun: false,
        rows: 0,
    };
    match &args.org {
        Some(org) => export.print(org).await.map(drop),
        None => export.print_all().await,
    }
}

impl UsageArgs {
    fn first_page(&self) -> ListUsageRequest {
        let day = |day: &Option<String>| day.clone().unwrap_or_default();
        ListUsageRequest {
            day: day(&self.day),
            page_size: 1000,
            from_day: day(&self.from),
            to_day: day(&self.to),
            ..ListUsageRequest::default()
        }
    }
}

impl UsageExport<'_> {
    /// Prints every organization that the caller may read, by name.
    async fn print_all(&mut self) -> anyhow::Result<()> {
        let mut request = ListOrganizationsRequest {
            page_size: 100,
            ..ListOrganizationsRequest::default()
        };
        loop {
            let page = self.client.list_organizations(request.clone()).await;
            let page = page.map_err(|status| self.error(&status))?.into_inner();
            for it in page.organizations {
                let printed = self.print(&it.org).await;
                if printed.with_context(|| it.org)?.is_break() {
                    return Ok(());
                }
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        match self.format {
            UsageFormat::Csv if !self.has_begun => print(&csv("", &[], true)?),
            UsageFormat::Tables if !self.has_begun => print("nothing was used"),
            _ => Ok(()),
        }
    }

    /// Prints all pages of an organization. `Break`: nobody reads them any more.
    async fn print(&mut self, org: &str) -> anyhow::Result<ControlFlow<()>> {
        let mut request = ListUsageRequest {
            org: org.to_owned(),
            ..self.first_page.clone()
        };
        loop {
            let page = match self.client.list_usage(request.clone()).await {
                Ok(page) => page.into_inner(),
                // It left the policy after it was listed.
                Err(status) if self.args.all && status.code() == Code::NotFound => {
                    return Ok(Continue(()));
                }
                Err(status) => return Err(self.error(&status)),
            };
            ensure!(
                !page.from_day.is_empty(),
                "the service is of an earlier release, which lists no ranges and no days in its rows: upgrade it"
            );
            let is_first = request.page_token.is_empty();
            if is_first {
                self.fix_days(&page);
            }
            if self.print_page(org, &page, is_first)?.is_break() {
                return Ok(Break(()));
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(Continue(()));
            }
        }
    }

    fn print_page(
        &mut self,
        org: &str,
        page: &ListUsageResponse,
        is_first: bool,
    ) -> anyhow::Result<ControlFlow<()>> {
        let text = match self.format {
            UsageFormat::Csv => csv(org, &page.rows, !self.has_begun)?,
            UsageFormat::JsonLines => json_lines(org, &page.rows)?,
            // Of all organizations, most may have used nothing.
            UsageFormat::Tables if self.args.all && page.rows.is_empty() => String::new(),
            UsageFormat::Tables => {
                let gap = if self.has_begun { "\n" } else { "" };
                format!("{gap}{}", table(org, page, is_first))
            }
        };
        if text.is_empty() {
            return Ok(Continue(()));
        }
        self.has_begun = true;
        self.rows += page.rows.len();
        print_part(&text)
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

    /// Lists the days of the first answer for each organization, also after midnight. Warns of days that it left out:
    /// a sum over the output would silently lack them.
    fn fix_days(&mut self, page: &ListUsageResponse) {
        let days = &mut self.first_page;
        if mem::replace(&mut self.has_fixed_days, true) {
            if !days.from_day.is_empty() && page.from_day > self.kept_from {
                self.kept_from.clone_from(&page.from_day);
                let kept = &page.from_day;
                eprintln!(
                    "warning: midnight has passed: from here on usage is kept from {kept} on"
                );
            }
            return;
        }
        if days.from_day.is_empty() {
            days.day.clone_from(&page.day);
            return;
        }
        let kept = &page.from_day;
        if days.from_day != *kept {
            eprintln!(
                "warning: usage is kept from {kept} on: the days before it are not in the output"
            );
        }
        self.kept_from.clone_from(kept);
        days.to_day.clone_from(&page.to_day);
    }
}

fn csv(org: &str, rows: &[UsageRow], with_header: bool) -> anyhow::Result<String> {
    let mut table = CsvTable::new();
    if with_header {
        table.add_row(USAGE_COLUMNS)?;
    }
    for row in rows {
        table.add_usage(&line(org, row))?;
    }
    table.into_text()
}

fn json_lines(org: &str, rows: &[UsageRow]) -> anyhow::Result<String> {
    let lines = rows
        .iter()
        .map(|row| serde_json::to_string(&line(org, row)));
    let lines: Result<Vec<String>, _> = lines.collect();
    Ok(lines?.join("\n"))
}

fn line<'l>(org: &'l str, row: &'l UsageRow) -> UsageLine<'l> {
    UsageLine {
        org,
        day: &row.day,
        project: &row.project,
        model: &row.model,
        pool: &row.pool,
        free_tokens: row.free_tokens,
        billed_tokens: row.billed_tokens,
        free_requests: row.free_requests,
        billed_requests: row.billed_requests,
        provider_free_tokens: row.provider.map(|it| it.free_tokens),
        provider_billed_tokens: row.provider.map(|it| it.billed_tokens),
    }
}

fn table(org: &str, page: &ListUsageResponse, is_first: bool) -> String {
    let table = tables::usage_by_day(&page.rows);
    if !is_first {
        return table;
    }
    let (org, from, to) = (shown(org), &page.from_day, &page.to_day);
    let days = match from == to {
        true => from.clone(),
        false => format!("{from} to {to}"),
    };
    match page.rows.is_empty() {
        true => format!("{org}, {days} (UTC): nothing was used"),
        false => format!("{org}, {days} (UTC)\n{table}"),
    }
}
