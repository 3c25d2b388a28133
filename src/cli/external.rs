//! `tollgate external`: sets the external usage of a pool, or lists its changes.

use std::mem;

use chrono::DateTime;
use clap::builder::NonEmptyStringValueParser;
use comfy_table::Cell;
use tonic::{Code, Response, Status};

use super::{
    calls::{connect, show},
    tables::{self, Column, name, number, rows},
};
use crate::{
    client::{
        connection::{AuthorizedChannel, ConnectionArgs},
        output::counted,
    },
    grpc::proto::{
        ExternalChange, ListExternalChangesRequest, ListExternalChangesResponse,
        SetExternalUsageRequest, quota_service_client::QuotaServiceClient,
    },
    settings::args::TrimmedParser,
};

/// The arguments of `tollgate external`.
#[derive(Debug, clap::Args)]
pub struct ExternalArgs {
    /// The organization
    org: String,
    /// The pool
    #[arg(required_unless_present = "history", conflicts_with = "history")]
    pool: Option<String>,
    /// The tokens of the whole day so far, 0 to 1000000000000. They replace the figure before; 0 removes it
    #[arg(required_unless_present = "history")]
    tokens: Option<u64>,
    /// Why, for the audit log. Whoever may read the organization sees it: put no secret in it
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        conflicts_with = "history"
    )]
    note: String,
    /// Print the changes instead, by hand and by the background reconcile, the newest first
    #[arg(long)]
    history: bool,
    /// The first UTC day of a range of at most 62 days. Default: today
    #[arg(
        long,
        value_name = "DAY",
        requires = "history",
        conflicts_with = "pool",
        value_parser = TrimmedParser(NonEmptyStringValueParser::new())
    )]
    from: Option<String>,
    /// The last UTC day of the range. Default: today
    #[arg(
        long,
        value_name = "DAY",
        requires = "from",
        value_parser = TrimmedParser(NonEmptyStringValueParser::new())
    )]
    to: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(super) async fn run(args: ExternalArgs) -> anyhow::Result<()> {
    let connection = args.connection;
    let mut client = connect(&connection)?;
    let (Some(pool), Some(tokens)) = (args.pool, args.tokens) else {
        let request = ListExternalChangesRequest {
            org: args.org,
            from_day: args.from.unwrap_or_default(),
            to_day: args.to.unwrap_or_default(),
        };
        return show(&connection, all_changes(client, request).await, history);
    };
    let request = SetExternalUsageRequest {
        org: args.org,
        pool,
        tokens,
        note: args.note,
    };
    let answer = client.set_external_usage(request).await;
    show(&connection, answer, tables::external_usage)
}

/// The changes on all days of the range, as one answer. Warns of days that are left out.
async fn all_changes(
    mut client: QuotaServiceClient<AuthorizedChannel>,
    mut request: ListExternalChangesRequest,
) -> Result<Response<ListExternalChangesResponse>, Status> {
    let first = client.list_external_changes(request.clone()).await?;
    let mut all = first.into_inner();
    while !all.next_to_day.is_empty() {
        request.to_day = mem::take(&mut all.next_to_day);
        let earlier = match client.list_external_changes(request.clone()).await {
            Ok(earlier) => earlier.into_inner(),
            // The organization has left the policy, and has no changes on the earlier days.
            Err(status) if status.code() == Code::NotFound => {
                all.from_day.clone_from(&request.from_day);
                break;
            }
            // Midnight has passed, and the earlier days are not kept any more.
            Err(status) if status.code() == Code::OutOfRange => break,
            Err(status) => return Err(status),
        };
        all.changes.extend(earlier.changes);
        all.truncated_days.extend(earlier.truncated_days);
        all.from_day = earlier.from_day;
        all.next_to_day = earlier.next_to_day;
    }
    if all.from_day > request.from_day && !request.from_day.is_empty() {
        let kept = &all.from_day;
        eprintln!("warning: changes are kept from {kept} on: the days before it are not listed");
    }
    for day in &all.truncated_days {
        eprintln!("warning: {day} has changes that are not listed: the audit log has them");
    }
    Ok(Response::new(all))
}

fn history(answer: &ListExternalChangesResponse) -> String {
    let (from, to) = (&answer.from_day, &answer.to_day);
    let days = match from == to {
        true => from.clone(),
        false => format!("{from} to {to}"),
    };
    match answer.changes.as_slice() {
        [] => format!("{days} (UTC): no external usage was set"),
        changes => format!(
            "{days} (UTC), {}\n{}",
            counted(changes.len(), "change"),
            rows(changes, CHANGE_COLUMNS)
        ),
    }
}

const CHANGE_COLUMNS: &[Column<ExternalChange>] = &[
    ("SET AT (UTC)", |change| {
        let seconds = change.changed_at.map_or(0, |at| at.seconds);
        let at = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        Cell::new(at.format("%Y-%m-%d %H:%M:%S"))
    }),
    ("POOL", |change| name(&change.pool)),
    ("SOURCE", |change| {
        let source = change.source().as_str_name();
        Cell::new(source.replace("EXTERNAL_SOURCE_", "").to_lowercase())
    }),
    ("BEFORE", |change| match change.outcome_known {
        true => number(change.before),
        false => Cell::new("unknown outcome"),
    }),
    ("AFTER", |change| number(change.after)),
    ("CALLER", |change| or_dash(&change.caller)),
    ("NOTE", |change| or_dash(&change.note)),
];

fn or_dash(text: &str) -> Cell {
    name(if text.is_empty() { "-" } else { text })
}
