//! Addresses of the pages. They are relative, so that the pages also work behind a proxy under a path of its own.

use std::collections::BTreeMap;

use percent_encoding::utf8_percent_encode;

use crate::domain::ids::ENCODED;

/// From a page to the folder of `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    /// From `/`.
    Here,
    /// From `/orgs/NAME`.
    Above,
}

/// The parameters of a page that are set.
#[derive(Debug, Clone, Default)]
pub(super) struct PageQuery(BTreeMap<String, String>);

impl Root {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Here => "./",
            Self::Above => "../",
        }
    }

    /// The page of an organization. Browsers remove `.` and `..` from a path, also encoded ones: organizations of these
    /// names are a parameter.
    pub(super) fn org(self, org: &str) -> String {
        let name = encoded(org);
        match org {
            "." | ".." => format!("{}orgs?org={}", self.path(), name),
            _ => format!("{}orgs/{name}", self.path()),
        }
    }
}

pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

impl PageQuery {
    /// Takes those of the given parameters that the page has. Empty ones count as absent.
    pub(super) fn new(given: BTreeMap<String, String>, known: &[&str]) -> Self {
        let known =
            |(name, value): &(String, String)| known.contains(&name.as_str()) && !value.is_empty();
        Self(given.into_iter().filter(known).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The address of the same page with other parameters; empty ones are removed.
    pub(super) fn with(&self, changes: &[(&str, &str)]) -> String {
        let mut query = self.0.clone();
        for (name, value) in changes {
            query.insert((*name).to_owned(), (*value).to_owned());
        }
        let set = query.iter().filter(|(_, value)| !value.is_empty());
        let set = set.map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
        format!("?{}", set.collect::<Vec<_>>().join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_organization_has_an_address_that_browsers_leave_as_it_is() {
        for (org, address) in [
            ("org-acme", "../orgs/org-acme"),
            ("a/b?c#d&\"<é", "../orgs/a%2Fb%3Fc%23d%26%22%3C%C3%A9"),
            ("..", "../orgs?org=.."),
            ("...", "../orgs/..."),
        ] {
            assert_eq!(Root::Above.org(org), address);
        }
    }

    #[test]
    fn a_link_keeps_the_parameters_that_it_does_not_change() {
        let given = [
            ("from", "2026-11-01"),
            ("junk", "1"),
            ("to", ""),
            ("q", "a&b"),
        ];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let query = PageQuery::new(BTreeMap::from(given), &["from", "to", "q"]);
        assert_eq!(query.get("to"), None);
        assert_eq!(query.with(&[]), "?from=2026-11-01&q=a%26b");
        assert_eq!(query.with(&[("from", ""), ("q", "c")]), "?q=c");
    }
}
