//! `/orgs/NAME`: an organization's pools today, the changes of its external usage, and its usage.

use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::{
    drift,
    external_changes::ChangesView,
    figures::{RunOut, counted, fact, grouped, name, until, utc_time},
    layout::{Page, footer, store_notice},
    links::{PageQuery, Root, encoded},
    pools,
    range::KeptDays,
    state::Dashboard,
    usage::UsageView,
};
use crate::{
    domain::{BilledReason, OrgId, PoolCounters, PoolName, ShareBalance, ShareId, UtcDay},
    http::{
        auth::Reader,
        error::{HttpError, query_error},
    },
    ledger::{LedgerError, Quota},
    policy::Enrollment,
    store::PoolBalance,
};

/// The shares of a pool that are shown.
const MAX_SHARES: usize = 100;

/// The parameters of the page. `org` is for names that a path can't have.
pub(super) const PARAMETERS: [&str; 7] = [
    "org",
    "from",
    "to",
    "project",
    "project_sort",
    "model",
    "model_sort",
];

/// The page. While the store has no answer, it says so, and shows the usage that this replica knows.
pub(super) async fn page(
    dashboard: &Dashboard,
    reader: &Reader,
    org: OrgId,
    root: Root,
    query: &PageQuery,
) -> Result<Response, HttpError> {
    reader.may_read(&org)?;
    let ledger = dashboard.ledger();
    let (quota, failure) = match ledger.quota(&org).await {
        Ok(quota) => (Some(quota), None),
        Err(error @ LedgerError::UnknownOrganization) => return Err(query_error(error)),
        Err(error) => (None, Some(query_error(error))),
    };
    let today = UtcDay::of(ledger.now());
    let kept = KeptDays::new(today, ledger.usage_retention_days());
    let range = kept.range(query);
    let range = range.map_err(|fault| HttpError(StatusCode::BAD_REQUEST, fault.to_string()))?;
    let mut days = [range.days(), kept.chart_days()].concat();
    days.sort_unstable();
    days.dedup();
    // The newest days first: they are looked at first.
    days.reverse();
    let history = &dashboard.history;
    let timeout = dashboard.http.call_timeout / 2;
    let known = history.days(&dashboard.http.ledger, &org, &days, timeout);
    let known = known.await;
    let policy = dashboard.http.ledger.policy();
    let usage = UsageView {
        org: &org,
        policy: &policy,
        root,
        query,
        kept,
        range,
        known,
    };
    let changes = ChangesView {
        range,
        known: &usage.known,
    };
    let now = dashboard.http.ledger.now();
    let (status, why) = match failure {
        None => (StatusCode::OK, None),
        Some(HttpError(status, why)) => (status, Some(format!("No new figures: {why}."))),
    };
    let content = html! {
        (heading(&org, root, quota.as_ref()))
        (pools_today(&org, reader, quota.as_ref(), now))
        (usage.show())
        (drift::section(&ledger.comparisons(&org), now))
        (changes.show())
    };
    Ok(Page {
        status,
        title: org.to_string(),
        root,
        notice: why.or_else(|| store_notice(&dashboard.http)),
        main: content,
        footer: Some(footer(&dashboard.http)),
    }
    .into_response())
}

fn heading(org: &OrgId, root: Root, quota: Option<&Quota>) -> Markup {
    html! {
        nav aria-label="Breadcrumb" { a href=(root.path()) { "Organizations" } }
        h1 { (name(org.as_str())) }
        @if let Some(quota) = quota { p.note { (enrollment_text(&quota.enrollment)) } }
    }
}

/// Tier and enrolment.
pub(super) fn enrollment_text(enrollment: &Enrollment) -> String {
    let why = match enrollment.not_enrolled {
        None => "enrolled",
        Some(BilledReason::ZeroDataRetention) => "not enrolled: Zero Data Retention",
        Some(BilledReason::EnterprisePlan) => "not enrolled: an enterprise plan",
        Some(BilledReason::ProgramEnded) => "not enrolled: the programme has ended",
        Some(_) => "not enrolled: data sharing is off",
    };
    format!("Tier {}, {why}", enrollment.tier)
}

fn pools_today(org: &OrgId, reader: &Reader, quota: Option<&Quota>, now: DateTime<Utc>) -> Markup {
    html! {
        section #pools aria-labelledby="pools-title" {
            h2 #pools-title { "Today" }
            @match quota {
                None => p { "There are no figures while the store does not answer." },
                Some(quota) => {
                    p.note {
                        (quota.day) " (UTC). Resets at " (utc_time(quota.resets_at)) ", in "
                        (until(quota.resets_at, now)) "."
                    }
                    (pools::legend())
                    div.pool-cards {
                        @for (balance, counters) in &quota.pools {
                            (pool(org, reader, quota, (balance, counters), now))
                        }
                    }
                }
            }
        }
    }
}

fn pool(
    org: &OrgId,
    reader: &Reader,
    quota: &Quota,
    (balance, counters): (&PoolBalance, &PoolCounters),
    now: DateTime<Utc>,
) -> Markup {
    html! {
        article.pool #{ "pool-" (encoded(balance.pool.as_str())) } aria-label={ "Pool " (balance.pool) } {
            h3 { "Pool " (name(balance.pool.as_str())) }
            (pools::head(balance, counters))
            p.run-out { (run_out(balance, quota.resets_at, now)) }
            dl {
                (pools::glance(balance, counters))
                (fact("billed tokens", &grouped(counters.billed_tokens.get())))
                (fact("free requests", &grouped(counters.free_requests)))
                (fact("billed requests", &grouped(counters.billed_requests)))
            }
            (shares(quota, &balance.pool))
            @if reader.may_administrate(org) { (external_form(org, balance, counters)) }
        }
    }
}

/// What projects may use of a pool, the nearest to its end first.
fn shares(quota: &Quota, pool: &PoolName) -> Markup {
    let of_pool = quota.shares.iter().filter(|(id, _)| id.pool == *pool);
    let mut shares: Vec<&(ShareId, ShareBalance)> = of_pool.collect();
    let used =
        |it: &ShareBalance| u128::from(it.used.get()) * 10_000 / u128::from(it.share.get().max(1));
    shares.sort_by(|(one, of_one), (other, of_other)| {
        let by_use = used(of_other).cmp(&used(of_one));
        by_use.then_with(|| one.project.cmp(&other.project))
    });
    html! {
        @if !shares.is_empty() {
            details.shares #{ "shares-" (encoded(pool.as_str())) } {
                summary { "Shares of " (counted(shares.len(), "project")) }
                div.table role="region" aria-label={ "Shares of the pool " (pool) } tabindex="0" {
                    table {
                        caption { "What projects may use of the pool today" }
                        thead { tr {
                            th scope="col" { "Project" }
                            th.number scope="col" { "Used / share" }
                            th.number scope="col" { "Remaining" }
                        } }
                        tbody {
                            @for (id, it) in shares.iter().take(MAX_SHARES) {
                                tr {
                                    th scope="row" { (name(id.project.as_str())) }
                                    td.number { (grouped(it.used.get())) " / " (grouped(it.share.get())) }
                                    td.number { (grouped(it.remaining().get())) }
                                }
                            }
                        }
                    }
                }
                @if shares.len() > MAX_SHARES {
                    p.note { (grouped((shares.len() - MAX_SHARES) as u64)) " more are further from their ends." }
                }
            }
        }
    }
}

fn run_out(balance: &PoolBalance, resets_at: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    let (used, remaining) = (balance.used.get(), balance.remaining().get());
    html! {
        @match RunOut::estimate(used, remaining, now, resets_at) {
            RunOut::Now if balance.allowance.get() == 0 => "No allowance.",
            RunOut::Now if balance.is_closed => "Closed: nothing more is free before the reset.",
            RunOut::Now => "Nothing more is free before the reset.",
            RunOut::At(moment) => { "At today's rate it runs out at about " (utc_time(moment)) "." }
            RunOut::NotToday => "At today's rate it does not run out before the reset.",
        }
    }
}

/// Sets the external usage of a pool. It needs the script, which sends JSON.
fn external_form(org: &OrgId, balance: &PoolBalance, counters: &PoolCounters) -> Markup {
    let pool = balance.pool.as_str();
    let external = counters.external;
    html! {
        details.external data-scripted hidden {
            summary { "Set external usage" }
            form data-external {
                p.note {
                    "Tokens that the provider counted today in this pool and Tollgate did not, in total. Set by hand: "
                    (grouped(external.manual.get())) ". Found by reconcile: " (grouped(external.reconciled.get()))
                    ". The larger counts, until the reset."
                }
                input type="hidden" name="org" value=(org);
                input type="hidden" name="pool" value=(pool);
                label { "Tokens " input type="number" name="tokens" min="0" max="1000000000000" step="1"
                    value=(external.manual.get()) required; }
                label { "Note for the audit log " input type="text" name="note" maxlength="512" autocomplete="off"; }
                button type="submit" { "Set for " (name(pool)) }
                output data-kept {}
            }
        }
    }
}
