//! `/`: the organizations that the caller may read, those nearest to the end of their allowances first.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use maud::{Markup, html};

use super::{
    drift,
    figures::{counted, name, utc_time_in_seconds},
    layout::{Page, footer, store_notice},
    links::{PageQuery, Root, encoded},
    organization::enrollment_text,
    pools,
    state::Dashboard,
};
use crate::{
    domain::ids::check_query,
    http::{
        auth::Reader,
        error::{HttpError, query_error},
    },
    ledger::{
        ComparedDay, Fullness, Ledger, OrganizationFigures, OrganizationList, OrganizationOrder,
        OrganizationPage, PagePosition,
    },
};

/// Organizations on a page.
const PAGE_SIZE: usize = 25;

/// The parameters of the page: a part of the names, and after which organization it begins.
pub(super) const PARAMETERS: [&str; 3] = ["q", "after", "fullness"];

/// The page, or the only organization's.
pub(super) async fn page(
    dashboard: &Dashboard,
    reader: &Reader,
    query: &PageQuery,
) -> Result<Response, HttpError> {
    let text = query.get("q").unwrap_or_default();
    check_query(text).map_err(|fault| HttpError(StatusCode::BAD_REQUEST, fault.to_string()))?;
    let page = OrganizationPage {
        query: text.to_owned(),
        readable: reader.readable(),
        order: OrganizationOrder::NearestToEnd,
        after: position(query),
        size: PAGE_SIZE,
    };
    let list = dashboard.ledger().organizations(page).await;
    let list = list.map_err(query_error)?;
    if let ([only], true, 0) = (&*list.organizations, text.is_empty(), query.iter().count()) {
        let address = Root::Here.org(only.org.as_str());
        if let Ok(address) = HeaderValue::from_str(&address) {
            return Ok((StatusCode::SEE_OTHER, [(header::LOCATION, address)]).into_response());
        }
    }
    Ok(Page {
        status: StatusCode::OK,
        title: "Organizations".to_owned(),
        root: Root::Here,
        notice: store_notice(&dashboard.http),
        main: content(&dashboard.http.ledger, &list, query),
        footer: Some(footer(&dashboard.http)),
    }
    .into_response())
}

/// Where a page begins. What is malformed counts as the beginning.
fn position(query: &PageQuery) -> Option<PagePosition> {
    Some(PagePosition {
        name: query.get("after")?.to_owned(),
        fullness: Fullness::from_bits(query.get("fullness")?.parse().ok()?),
    })
}

fn content(ledger: &Ledger, list: &OrganizationList, query: &PageQuery) -> Markup {
    let text = query.get("q").unwrap_or_default();
    let matching = match text {
        "" => counted(list.total, "organization"),
        _ => format!("{} found", counted(list.total, "organization")),
    };
    html! {
        h1 { "Organizations" }
        form.search method="get" role="search" data-live {
            label { "Search by name " input type="search" name="q" value=(text) maxlength="256"
                autocomplete="off" spellcheck="false"; }
            button type="submit" { "Search" }
            span.note role="status" { (matching) ", the nearest to the end of an allowance first" }
        }
        (pools::legend())
        @if list.organizations.is_empty() {
            p { @if text.is_empty() { "There is no organization that you may read." } @else { "No organization has this in its name." } }
        }
        ul.organizations {
            @for figures in &list.organizations {
                (organization(figures, &ledger.comparisons(&figures.org)))
            }
        }
        nav.pages aria-label="Pages" {
            @if query.get("after").is_some() {
                a.button href=(query.with(&[("after", ""), ("fullness", "")])) { "First page" }
            }
            @if let Some(next) = &list.next {
                @let fullness = next.fullness.to_bits().to_string();
                a.button href=(query.with(&[("after", &next.name), ("fullness", &fullness)])) rel="next" { "Next page" }
            }
        }
    }
}

fn organization(figures: &OrganizationFigures, comparisons: &[ComparedDay]) -> Markup {
    let org = figures.org.as_str();
    html! {
        li #{ "org-" (encoded(org)) } {
            div.organization-head {
                h2 { a href=(Root::Here.org(org)) { (name(org)) } }
                p.note {
                    (enrollment_text(&figures.enrollment))
                    @match figures.as_of {
                        Some(as_of) => { ", as of " (utc_time_in_seconds(as_of)) }
                        None => ", not read yet",
                    }
                }
                (drift::glance(comparisons))
            }
            div.organization-pools {
                @for (balance, counters) in &figures.pools {
                    div.pool {
                        (pools::head(balance, counters))
                        dl { (pools::glance(balance, counters)) }
                    }
                }
            }
        }
    }
}
