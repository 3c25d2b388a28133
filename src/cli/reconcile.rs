//! `tollgate reconcile`: compares the ledger with the provider's usage. Reads only.

mod output;

use std::{collections::BTreeSet, env, path::PathBuf};

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::builder::{NonEmptyStringValueParser, PathBufValueParser};
use http::Uri;
use tonic::Code;

use super::{
    calls::{all_usage, connect},
    documents::read_policy,
};
use crate::{
    client::{WrongArguments, connection::ConnectionArgs, failure::rpc_error, output::print},
    domain::{OrgId, PoolName, UtcDay},
    files::read::{read_once, read_stdin, trimmed},
    grpc::proto::{
        GetQuotaRequest, GetQuotaResponse, ListOrganizationsRequest, ListUsageRequest,
        ListUsageResponse, UsageRow,
    },
    policy::Policy,
    reconcile::{
        Comparison, LedgerRow, Scope, Tolerance, UsageReport,
        api::{AdminKey, BucketWidth, DEFAULT_BASE, UsageApi, UsageApiLimits},
        changes::policy_changes,
        compare,
        comparison::{CLOSED_AFTER, FREE_TIER, Unknown},
        file,
        overflow::overflow,
    },
    settings::args::TrimmedParser,
};

/// The variable with the provider's admin key.
const KEY_VARIABLE: &str = "OPENAI_ADMIN_KEY";

/// The most days of a comparison.
const MAX_DAYS: usize = 62;

/// The most days by minutes from the API, which has two pages for each.
const MAX_DAYS_BY_MINUTE: usize = 31;

/// The arguments of `tollgate reconcile`.
#[derive(Debug, clap::Args)]
pub struct ReconcileArgs {
    /// The organization [default: that of the policy file, or that the caller may read, if there is one only]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    org: Option<String>,
    /// The UTC day, such as 2026-11-22 [default: the days of the file; of the API: today]
    #[arg(long, value_name = "DAY", value_parser = TrimmedParser(UtcDay::parse), conflicts_with = "days")]
    day: Option<UtcDay>,
    /// So many days, up to today
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_DAYS as i64))]
    days: Option<u32>,
    /// The provider's usage: pages of its API (JSON), or the CSV of its dashboard; - for standard input
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new())]
    from_file: Option<PathBuf>,
    /// Ask the provider's API, with the admin key in this file [default: the variable OPENAI_ADMIN_KEY]
    #[arg(
        long,
        value_name = "FILE",
        value_parser = TrimmedParser(PathBufValueParser::new()),
        conflicts_with = "from_file"
    )]
    admin_key_file: Option<PathBuf>,
    /// The address of the provider's API
    #[arg(long, value_name = "URL", default_value = DEFAULT_BASE)]
    api_base: Uri,
    /// The policy file, for names, pools and projects [default: the built-in policy]
    #[arg(long, value_name = "FILE", value_parser = TrimmedParser(PathBufValueParser::new()))]
    policy: Option<PathBuf>,
    /// A project's name in the ledger, and its id at the provider. May be repeated
    #[arg(long = "project", value_name = "NAME=ID", value_parser = project)]
    projects: Vec<(String, String)>,
    /// The service tiers that are free, separated by commas
    #[arg(
        long,
        value_name = "TIERS",
        value_delimiter = ',',
        default_value = FREE_TIER
    )]
    free_tiers: Vec<String>,
    /// The largest difference that counts as none: tokens, or per cent as in 5%
    #[arg(long, default_value = "0")]
    tolerance: Tolerance,
    /// Say which overflow rule the provider applied, from buckets of one minute
    #[arg(long)]
    overflow: bool,
    /// Print CSV: a line for each project, model and day
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// The two sides could not be compared, or not completely. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("could not compare")]
pub(super) struct Incomparable;

/// The ledger's side.
struct LedgerUsage {
    quota: GetQuotaResponse,
    rows: Vec<LedgerRow>,
    /// Days that the service does not have.
    unknown: Vec<Unknown>,
}

fn project(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, id)) if !name.is_empty() && !id.is_empty() => {
            Ok((name.to_owned(), id.to_owned()))
        }
        _ => Err("must be NAME=ID".to_owned()),
    }
}

pub(super) async fn run(args: &ReconcileArgs) -> anyhow::Result<()> {
    let key = match &args.from_file {
        Some(_) => None,
        None => Some(admin_key(args)?),
    };
    let policy = args.policy.as_deref().map(read_policy).transpose();
    let policy = policy
        .context(Incomparable)?
        .unwrap_or_else(Policy::builtin);
    let org = organization(args, &policy).await?;
    let result = reconcile(args, key, &policy, &org).await;
    let (comparison, printed) = result.context(Incomparable)?;
    print(&printed)?;
    if !comparison.unknown.is_empty() {
        return Err(anyhow!("not all is known").context(Incomparable));
    }
    if comparison.has_drift() {
        bail!("the ledger and the provider differ");
    }
    Ok(())
}

/// Compares, and formats the result.
async fn reconcile(
    args: &ReconcileArgs,
    key: Option<AdminKey>,
    policy: &Policy,
    org: &OrgId,
) -> anyhow::Result<(Comparison, String)> {
    let now = crate::wall_clock::now();
    let (report, mut days) = report_and_days(args, key, UtcDay::of(now)).await?;
    let mut context = report.days_beside(&days);
    let ledger = usage_of_service(args, org, &mut days, &mut context).await?;
    let scope = Scope {
        policy,
        org,
        enrolled: ledger.quota.enrolled,
        allowances: allowances(&ledger.quota)?,
        projects: args
            .projects
            .iter()
            .map(|(name, id)| (id.clone(), name.clone()))
            .collect(),
        free_tiers: args.free_tiers.clone(),
        tolerance: args.tolerance,
        close_after: CLOSED_AFTER,
        settled: None,
        context,
        now,
    };
    let mut comparison = compare(&scope, days, &ledger.rows, &report);
    comparison.unknown.extend(ledger.unknown);
    let evidence = match args.overflow {
        true => {
            ensure!(
                report.is_by_minute(),
                "--overflow needs buckets of one minute (bucket_width=1m)"
            );
            let mut evidence = overflow(&scope, &report);
            evidence.retain(|(day, _), _| !scope.context.contains(day));
            evidence
        }
        false => Default::default(),
    };
    let changes = policy_changes(&scope, &comparison, evidence.values());
    let result = output::Reconciliation {
        org,
        comparison: &comparison,
        evidence,
        changes,
    };
    let printed = match (args.csv, args.connection.json) {
        (true, _) => result.csv()?,
        (false, true) => result.json()?,
        (false, false) => result.table(),
    };
    Ok((comparison, printed))
}

/// The provider's side, and the days to compare: those that were asked for, otherwise those of the file, or today.
async fn report_and_days(
    args: &ReconcileArgs,
    key: Option<AdminKey>,
    today: UtcDay,
) -> anyhow::Result<(UsageReport, BTreeSet<UtcDay>)> {
    let asked: Option<BTreeSet<UtcDay>> = match (args.day, args.days) {
        (Some(day), _) => Some(BTreeSet::from([day])),
        (None, Some(days)) => Some((0..days).map(|ago| today.minus_days(ago)).collect()),
        (None, None) => None,
    };
    let (report, days) = match key {
        None => {
            let report = report_of_file(args)?;
            let days = asked.unwrap_or_else(|| report.days.clone());
            (report, days)
        }
        Some(key) => {
            let days = asked.unwrap_or_else(|| BTreeSet::from([today]));
            (report_of_api(args, key, &days, today).await?, days)
        }
    };
    ensure!(!days.is_empty(), "the report has no bucket");
    let number = days.len();
    ensure!(
        number <= MAX_DAYS,
        "the report has {number} days, at most {MAX_DAYS} are compared: use --day or --days"
    );
    Ok((report, days))
}

fn admin_key(args: &ReconcileArgs) -> anyhow::Result<AdminKey> {
    let text = match &args.admin_key_file {
        Some(file) => {
            let name = file.display();
            let bytes = read_once(file, AdminKey::MAX_FILE_BYTES)
                .map_err(|error| anyhow!("{name} {error}"));
            String::from_utf8(bytes.context(Incomparable)?)
                .context("the admin key is not UTF-8")
                .context(Incomparable)?
        }
        None => env::var(KEY_VARIABLE).unwrap_or_default(),
    };
    let key = trimmed(&text).map_err(|fault| WrongArguments(format!("the admin key {fault}")))?;
    if key.is_empty() {
        let fault =
            format!("--from-file FILE, or an admin key: --admin-key-file FILE or {KEY_VARIABLE}");
        return Err(WrongArguments(fault).into());
    }
    AdminKey::parse(key).context(Incomparable)
}

async fn organization(args: &ReconcileArgs, policy: &Policy) -> anyhow::Result<OrgId> {
    if let Some(name) = &args.org {
        let org = OrgId::parse(name.as_str());
        return Ok(org.map_err(|fault| WrongArguments(format!("--{fault}")))?);
    }
    let only = policy.orgs.keys().next();
    match only.filter(|_| args.policy.is_some() && policy.orgs.len() == 1) {
        Some(org) => Ok(org.clone()),
        None => only_organization(args).await,
    }
}

/// The organization that the caller may read, if it is one only.
async fn only_organization(args: &ReconcileArgs) -> anyhow::Result<OrgId> {
    let first = ListOrganizationsRequest {
        page_size: 1,
        ..ListOrganizationsRequest::default()
    };
    let mut client = connect(&args.connection)?;
    let listed = client.list_organizations(first).await;
    let listed = listed.map_err(|status| rpc_error(&args.connection, &status));
    let listed = listed.context(Incomparable)?.into_inner();
    match &listed.organizations[..] {
        [only] if listed.total == 1 => OrgId::parse(only.org.as_str()).context(Incomparable),
        _ => {
            let total = listed.total;
            let fault = format!("--org is missing: the caller may read {total} organizations");
            Err(WrongArguments(fault).into())
        }
    }
}

fn report_of_file(args: &ReconcileArgs) -> anyhow::Result<UsageReport> {
    let Some(file) = &args.from_file else {
        bail!("no file");
    };
    let (name, bytes) = match file.to_str() {
        Some("-") => ("standard input".to_owned(), read_stdin(file::MAX_BYTES)),
        _ => (file.display().to_string(), read_once(file, file::MAX_BYTES)),
    };
    let bytes = bytes.map_err(|error| anyhow!("{name} {error}"))?;
    UsageReport::from_bytes(&bytes).with_context(|| name)
}

async fn report_of_api(
    args: &ReconcileArgs,
    key: AdminKey,
    days: &BTreeSet<UtcDay>,
    today: UtcDay,
) -> anyhow::Result<UsageReport> {
    let (Some(first), Some(last)) = (days.first(), days.last()) else {
        bail!("no days");
    };
    let width = match args.overflow {
        true => BucketWidth::Minute,
        false => BucketWidth::Day,
    };
    let is_long = args.overflow && days.len() > MAX_DAYS_BY_MINUTE;
    ensure!(
        !is_long,
        "--overflow compares at most {MAX_DAYS_BY_MINUTE} days"
    );
    let api =
        UsageApi::new(&args.api_base, key, UsageApiLimits::default()).context("--api-base")?;
    // The days before and after are the context. The provider wants no end for today.
    let (first, last) = (first.yesterday(), last.plus_days(1));
    let end = (last < today).then(|| last.end());
    Ok(api.usage(first.start(), end, width).await?)
}

/// The ledger's rows of these days and of the context. Removes the days that the service does not have.
async fn usage_of_service(
    args: &ReconcileArgs,
    org: &OrgId,
    days: &mut BTreeSet<UtcDay>,
    context: &mut BTreeSet<UtcDay>,
) -> anyhow::Result<LedgerUsage> {
    let connection = &args.connection;
    let mut client = connect(connection)?;
    let org = org.to_string();
    let quota = client.get_quota(GetQuotaRequest { org: org.clone() }).await;
    let quota = quota
        .map_err(|status| rpc_error(connection, &status))?
        .into_inner();
    let (mut rows, mut unknown) = (Vec::new(), Vec::new());
    for day in days.union(context).copied().collect::<Vec<_>>() {
        let request = ListUsageRequest {
            org: org.clone(),
            day: day.to_string(),
            page_size: 1000,
            ..ListUsageRequest::default()
        };
        match all_usage(client.clone(), request).await {
            Ok(usage) => rows.extend(ledger_rows(day, usage.into_inner())),
            Err(status) if status.code() == Code::OutOfRange => {
                if context.remove(&day) {
                    continue;
                }
                days.remove(&day);
                let reason = format!("the service: {}", status.message());
                unknown.push(Unknown {
                    day: Some(day),
                    reason,
                });
            }
            Err(status) => return Err(rpc_error(connection, &status)),
        }
    }
    Ok(LedgerUsage {
        quota,
        rows,
        unknown,
    })
}

fn ledger_rows(day: UtcDay, usage: ListUsageResponse) -> impl Iterator<Item = LedgerRow> {
    // Others are the provider's alone.
    let is_counted = |row: &UsageRow| row.free_requests + row.billed_requests > 0;
    let rows = usage.rows.into_iter().filter(is_counted);
    rows.map(move |row| LedgerRow {
        day,
        project: row.project,
        model: row.model,
        free_tokens: row.free_tokens,
        billed_tokens: row.billed_tokens,
    })
}

fn allowances(
    quota: &GetQuotaResponse,
) -> anyhow::Result<std::collections::BTreeMap<PoolName, u64>> {
    let pools = quota.pools.iter();
    let pools = pools.map(|it| Ok((PoolName::parse(it.pool.as_str())?, it.allowance)));
    pools.collect()
}
