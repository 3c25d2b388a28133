//! What `tollgate top` shows, and what keys change in it.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::grpc::proto::{
    ListOrganizationsResponse, OrganizationOrder, OrganizationSummary, PoolQuota,
};

/// Bytes of the longest filter, which the service takes.
const MAX_FILTER_BYTES: usize = 256;

/// What is shown.
pub(super) struct TopState {
    /// The service.
    pub(super) address: String,
    pub(super) order: OrganizationOrder,
    /// Only organizations with this text in their names.
    pub(super) filter: String,
    /// Whether the filter is being typed.
    pub(super) is_typing: bool,
    /// The service's last answer; none: it has not answered yet.
    pub(super) answer: Option<ListOrganizationsResponse>,
    /// Why there is no newer answer.
    pub(super) error: Option<String>,
    /// The first row that is shown.
    first_row: usize,
    /// The rows that fit on the screen.
    height: usize,
}

/// A pool of an organization. A policy without pools leaves only organizations.
pub(super) type PoolRow<'s> = (&'s OrganizationSummary, Option<&'s PoolQuota>);

/// What the loop does after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Draw.
    Draw,
    /// Draw, and ask the service at once.
    Reload,
    /// End.
    Quit,
}

impl TopState {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            order: OrganizationOrder::NearestToEnd,
            filter: String::new(),
            is_typing: false,
            answer: None,
            error: None,
            first_row: 0,
            height: 0,
        }
    }

    /// Takes an answer of the service, or why there is none: then the figures stay.
    pub(super) fn update(&mut self, answer: Result<ListOrganizationsResponse, String>) {
        match answer {
            Ok(answer) => {
                self.answer = Some(answer);
                self.error = None;
                self.scroll_to(self.first_row);
            }
            Err(error) => self.error = Some(error),
        }
    }

    /// Sets how many rows fit on the screen.
    pub(super) fn set_height(&mut self, height: usize) {
        self.height = height;
        self.scroll_to(self.first_row);
    }

    /// How many organizations the service is asked for: those on the screen, and those on the next one.
    pub(super) fn wanted_organizations(&self) -> usize {
        self.first_row + 2 * self.height.max(1)
    }

    /// The rows on the screen.
    pub(super) fn rows(&self) -> impl Iterator<Item = PoolRow<'_>> {
        self.all_rows().skip(self.first_row).take(self.height)
    }

    fn all_rows(&self) -> impl Iterator<Item = PoolRow<'_>> {
        let answer = self.answer.as_ref();
        let organizations = answer.into_iter().flat_map(|it| &it.organizations);
        organizations.flat_map(|organization| {
            let pools = organization.pools.iter().map(Some);
            let none = organization.pools.is_empty().then_some(None);
            pools.chain(none).map(move |pool| (organization, pool))
        })
    }

    pub(super) fn on_key(&mut self, key: KeyEvent) -> Reaction {
        if key.kind == KeyEventKind::Release {
            return Reaction::Draw;
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => Reaction::Quit,
            KeyCode::Char(_) if is_control => Reaction::Draw,
            code if self.is_typing => self.on_typed(code),
            code => self.on_command(code),
        }
    }

    fn on_command(&mut self, code: KeyCode) -> Reaction {
        match code {
            KeyCode::Char('q') | KeyCode::Esc => Reaction::Quit,
            KeyCode::Char('/') => {
                self.is_typing = true;
                Reaction::Draw
            }
            KeyCode::Char('s') => {
                self.order = match self.order {
                    OrganizationOrder::NearestToEnd => OrganizationOrder::Name,
                    _ => OrganizationOrder::NearestToEnd,
                };
                self.first_row = 0;
                Reaction::Reload
            }
            KeyCode::Up => self.scrolled(self.first_row.saturating_sub(1)),
            KeyCode::Down => self.scrolled(self.first_row + 1),
            KeyCode::PageUp => self.scrolled(self.first_row.saturating_sub(self.height)),
            KeyCode::PageDown => self.scrolled(self.first_row + self.height),
            KeyCode::Home => self.scrolled(0),
            KeyCode::End => self.scrolled(usize::MAX),
            _ => Reaction::Draw,
        }
    }

    /// Changes the filter, which applies at once. Esc removes it.
    fn on_typed(&mut self, code: KeyCode) -> Reaction {
        match code {
            KeyCode::Enter => {
                self.is_typing = false;
                return Reaction::Draw;
            }
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => _ = self.filter.pop(),
            KeyCode::Char(c)
                if !c.is_control() && self.filter.len() + c.len_utf8() <= MAX_FILTER_BYTES =>
            {
                self.filter.push(c);
            }
            _ => return Reaction::Draw,
        }
        self.first_row = 0;
        Reaction::Reload
    }

    fn scrolled(&mut self, first_row: usize) -> Reaction {
        self.scroll_to(first_row);
        let answer = self.answer.as_ref();
        let is_missing = answer.is_some_and(|it| {
            let listed = it.organizations.len();
            !it.next_page_token.is_empty() && listed < self.wanted_organizations()
        });
        match is_missing {
            true => Reaction::Reload,
            false => Reaction::Draw,
        }
    }

    /// The last row stays at the end of the screen.
    fn scroll_to(&mut self, first_row: usize) {
        let last = self.all_rows().count().saturating_sub(self.height);
        self.first_row = first_row.min(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    /// A state with this many organizations of two pools each, on a screen of ten rows.
    fn state(organizations: usize, next_page_token: &str) -> TopState {
        let organization = |at| OrganizationSummary {
            org: format!("org-{at}"),
            pools: vec![PoolQuota::default(); 2],
            ..OrganizationSummary::default()
        };
        let mut state = TopState::new("here".to_owned());
        state.set_height(10);
        state.update(Ok(ListOrganizationsResponse {
            organizations: (0..organizations).map(organization).collect(),
            next_page_token: next_page_token.to_owned(),
            total: organizations as u64,
        }));
        state
    }

    fn first(state: &TopState) -> String {
        state
            .rows()
            .next()
            .map(|it| it.0.org.clone())
            .unwrap_or_default()
    }

    #[test]
    fn scrolling_ends_at_both_ends_of_the_rows() {
        let mut state = state(20, "");
        for (code, wanted) in [
            (KeyCode::Up, "org-0"),
            (KeyCode::Down, "org-0"),
            (KeyCode::Down, "org-1"),
            (KeyCode::PageDown, "org-6"),
            (KeyCode::PageUp, "org-1"),
            (KeyCode::End, "org-15"),
            (KeyCode::PageDown, "org-15"),
            (KeyCode::Home, "org-0"),
        ] {
            assert_eq!(state.on_key(key(code)), Reaction::Draw, "{code:?}");
            assert_eq!(first(&state), wanted, "{code:?}");
            assert_eq!(state.rows().count(), 10, "{code:?}");
        }
    }

    #[test]
    fn scrolling_to_the_end_of_what_is_known_asks_for_more() {
        let mut state = state(20, "token");
        assert_eq!(state.on_key(key(KeyCode::Down)), Reaction::Reload);
        assert_eq!(state.on_key(key(KeyCode::End)), Reaction::Reload);
        assert!(state.wanted_organizations() > 20);
    }

    #[test]
    fn fewer_rows_than_before_are_scrolled_back_to() {
        let mut long = state(20, "");
        long.on_key(key(KeyCode::End));
        long.update(Ok(state(6, "").answer.take().expect("an answer")));
        assert_eq!(first(&long), "org-1");
        long.set_height(100);
        assert_eq!(
            (first(&long), long.rows().count()),
            ("org-0".to_owned(), 12)
        );
    }

    #[test]
    fn letters_are_commands_or_text_of_the_filter() {
        let mut state = state(1, "");
        assert_eq!(state.on_key(key(KeyCode::Char('/'))), Reaction::Draw);
        for c in "quits".chars() {
            assert_eq!(state.on_key(key(KeyCode::Char(c))), Reaction::Reload);
        }
        state.on_key(key(KeyCode::Backspace));
        assert_eq!(state.on_key(key(KeyCode::Enter)), Reaction::Draw);
        assert_eq!(state.filter, "quit");
        assert_eq!(state.on_key(key(KeyCode::Char('s'))), Reaction::Reload);
        assert_eq!(state.order, OrganizationOrder::Name);
        state.on_key(key(KeyCode::Char('/')));
        assert_eq!(state.on_key(key(KeyCode::Esc)), Reaction::Reload);
        assert_eq!(state.filter, "");
        assert_eq!(state.on_key(key(KeyCode::Esc)), Reaction::Quit);
        assert_eq!(state.on_key(key(KeyCode::Char('q'))), Reaction::Quit);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        state.is_typing = true;
        assert_eq!(state.on_key(interrupt), Reaction::Quit);
    }

    #[test]
    fn an_error_leaves_the_figures_and_an_answer_removes_it() {
        let mut state = state(1, "");
        state.update(Err("UNAVAILABLE".to_owned()));
        assert_eq!(first(&state), "org-0");
        assert!(state.error.is_some());
        state.update(Ok(ListOrganizationsResponse::default()));
        assert!(state.error.is_none() && state.rows().next().is_none());
    }
}
