//! The dashboard: pages for people, rendered here (docs/CONTRACT.md, "The dashboard").
//!
//! `/` lists organizations, `/orgs/NAME` shows one. The script fetches the page that is shown again and again, and
//! replaces what has changed in it; so there is one rendering of each figure. Without the script the pages work, too,
//! except for setting external usage, which needs JSON.

mod assets;
mod breakdown;
mod chart;
mod day_changes;
mod download;
mod drift;
mod external;
mod external_changes;
mod figures;
mod headers;
mod history;
mod layout;
mod links;
mod organization;
mod organizations;
mod pools;
mod range;
mod state;
mod usage;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};

use self::{
    assets::{ICON, SCRIPT, STYLE},
    headers::PROTECTION,
    history::UsageHistory,
    layout::error_page,
    links::{PageQuery, Root},
    state::Dashboard,
};
use super::{
    auth::{Administrator, Reader},
    error::HttpError,
    state::HttpState,
};
use crate::domain::OrgId;

type GivenQuery = Query<BTreeMap<String, String>>;

/// The routes of the pages.
pub(super) fn router(http: HttpState) -> Router {
    let external = post(set_external).layer(DefaultBodyLimit::max(external::MAX_BYTES));
    Router::new()
        .route("/", get(organizations))
        .route("/orgs/{org}", get(organization))
        .route("/orgs", get(organization_by_parameter))
        .route("/usage.csv", get(download))
        .route("/api/external", external)
        .route("/style.css", get(|query| async { STYLE.answer(query) }))
        .route("/script.js", get(|query| async { SCRIPT.answer(query) }))
        .route("/icon.svg", get(|query| async { ICON.answer(query) }))
        .with_state(Dashboard {
            http,
            history: Arc::new(UsageHistory::new()),
        })
}

async fn organizations(
    State(dashboard): State<Dashboard>,
    reader: Result<Reader, HttpError>,
    Query(given): GivenQuery,
) -> Response {
    let query = PageQuery::new(given, &organizations::PARAMETERS);
    let page = async { organizations::page(&dashboard, &reader?, &query).await };
    let page = page.await;
    page.unwrap_or_else(|error| error_page(Root::Here, error))
}

async fn organization(
    State(dashboard): State<Dashboard>,
    reader: Result<Reader, HttpError>,
    Path(org): Path<String>,
    Query(mut given): GivenQuery,
) -> Response {
    given.remove("org");
    let page = organization_page(&dashboard, reader, &org, Root::Above, given);
    page.await
        .unwrap_or_else(|error| error_page(Root::Above, error))
}

/// The page of an organization whose name a path can't have.
async fn organization_by_parameter(
    State(dashboard): State<Dashboard>,
    reader: Result<Reader, HttpError>,
    Query(given): GivenQuery,
) -> Response {
    let org = given.get("org").cloned().unwrap_or_default();
    let page = organization_page(&dashboard, reader, &org, Root::Here, given);
    page.await
        .unwrap_or_else(|error| error_page(Root::Here, error))
}

async fn organization_page(
    dashboard: &Dashboard,
    reader: Result<Reader, HttpError>,
    org: &str,
    root: Root,
    given: BTreeMap<String, String>,
) -> Result<Response, HttpError> {
    let reader = reader?;
    let org = OrgId::parse(org);
    let org = org.map_err(|fault| HttpError(StatusCode::BAD_REQUEST, fault.to_string()))?;
    let query = PageQuery::new(given, &organization::PARAMETERS);
    organization::page(dashboard, &reader, org, root, &query).await
}

async fn download(
    State(dashboard): State<Dashboard>,
    reader: Reader,
    Query(given): GivenQuery,
) -> Response {
    let query = PageQuery::new(given, &download::PARAMETERS);
    let file = download::file(&dashboard, &reader, &query).await;
    file.unwrap_or_else(|error| error_page(Root::Here, error))
}

async fn set_external(
    State(dashboard): State<Dashboard>,
    administrator: Result<Administrator, HttpError>,
    request: Request,
) -> Response {
    match external::set(&dashboard, administrator, request).await {
        Ok(answer) => (PROTECTION, Json(answer)).into_response(),
        Err(error) => (PROTECTION, error).into_response(),
    }
}
