//! What all pages share: the head, the landmarks, notices, the footer, and the headers of the answer.

use axum::{
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use super::{
    assets::{SCRIPT, STYLE},
    figures::{grouped, name},
    headers::PROTECTION,
    links::Root,
};
use crate::{
    domain::UtcDay,
    http::{HttpState, error::HttpError},
    ledger::StoreState,
    telemetry::metrics::ReconcileState,
};

/// A page.
pub(super) struct Page {
    pub(super) status: StatusCode,
    pub(super) title: String,
    pub(super) root: Root,
    /// What is wrong, for everyone to see.
    pub(super) notice: Option<String>,
    pub(super) main: Markup,
    /// None for those who may read nothing.
    pub(super) footer: Option<Markup>,
}

impl Page {
    /// The page of an error.
    pub(super) fn of_error(root: Root, error: &HttpError) -> Self {
        let HttpError(status, why) = error;
        let title = status.canonical_reason().unwrap_or("Error");
        Self {
            status: *status,
            title: title.to_owned(),
            root,
            notice: None,
            main: html! {
                h1 { (title) }
                p { (why) }
                p { a href=(root.path()) { "All organizations" } }
            },
            footer: None,
        }
    }

    fn document(&self) -> Markup {
        let root = self.root.path();
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " · Tollgate" }
                    link rel="icon" href={ (root) "icon.svg" } type="image/svg+xml";
                    link rel="stylesheet" href={ (root) (STYLE.address()) };
                    script src={ (root) (SCRIPT.address()) } defer {}
                }
                body {
                    a.skip href="#main" { "Skip to the content" }
                    header {
                        a.brand href=(root) { "Tollgate" }
                        p #live role="status" hidden {}
                    }
                    div #notices role="status" {
                        @if let Some(notice) = &self.notice { p.notice { (notice) } }
                    }
                    main #main tabindex="-1" { (self.main) }
                    footer #footer { @if let Some(footer) = &self.footer { (footer) } }
                }
            }
        }
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let document = self.document().into_string();
        (self.status, PROTECTION, Html(document)).into_response()
    }
}

/// An error of a page, with the challenge that makes browsers ask for a token.
pub(super) fn error_page(root: Root, error: HttpError) -> Response {
    let page = Page::of_error(root, &error).into_response();
    let (head, body) = page.into_parts();
    let challenge = error
        .into_response()
        .headers_mut()
        .remove(header::WWW_AUTHENTICATE);
    let mut page = Response::from_parts(head, body);
    if let Some(challenge) = challenge {
        page.headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    page
}

/// What is wrong with the store, if anything is.
pub(super) fn store_notice(state: &HttpState) -> Option<String> {
    match &*state.ledger.store_state().borrow() {
        StoreState::Down(outage) => Some(format!("No new figures: {outage}.")),
        StoreState::Up | StoreState::Unknown => None,
    }
}

/// Version, store, policy, day, and the state of this replica's background reconcile.
pub(super) fn footer(state: &HttpState) -> Markup {
    let policy = state.ledger.policy();
    let program = &policy.program;
    let store = match &*state.ledger.store_state().borrow() {
        StoreState::Up => "up",
        StoreState::Down(_) => "down",
        StoreState::Unknown => "not asked yet",
    };
    let reconcile = reconcile(state);
    html! {
        ul {
            li { "Tollgate " (env!("CARGO_PKG_VERSION")) }
            li { "Store: " (state.store_kind) ", " (store) }
            li {
                "Policy: " (name(&program.name))
                @if let Some(as_of) = program.as_of { ", lists as of " (as_of) }
            }
            li { "Day: " (UtcDay::of(state.ledger.now())) " (UTC)" }
            @if let Some(reconcile) = reconcile { li { "Reconcile, of this replica: " (reconcile) } }
        }
    }
}

/// How many organizations the background reconcile has in each state, if this replica compares.
fn reconcile(state: &HttpState) -> Option<String> {
    let figures = state.metrics.reconcile_figures()?;
    let states = figures.orgs.iter().filter(|(_, orgs)| **orgs > 0);
    let states = states.map(|(state, orgs): (ReconcileState, &u64)| {
        format!("{orgs} {}", <&str>::from(state).replace('_', " "))
    });
    let states: Vec<String> = states.collect();
    let drift = figures
        .drift_tokens
        .iter()
        .filter(|(_, tokens)| *tokens > 0);
    let drift =
        drift.map(|(kind, tokens)| format!("{} {}", kind.replace('_', " "), grouped(*tokens)));
    let drift: Vec<String> = drift.collect();
    let minutes = figures.compared_at.elapsed().as_secs() / 60;
    let mut text = format!(
        "{}; the oldest comparison is {minutes} min old",
        states.join(", ")
    );
    if !drift.is_empty() {
        text += &format!("; drift in tokens: {}", drift.join(", "));
    }
    Some(text)
}
