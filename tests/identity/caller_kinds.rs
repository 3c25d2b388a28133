//! The kinds of caller: their credentials and their rights.

use tollgate::auth::Role;

use super::{DNS, STRANGER, Service, URI, listener::TestPort};
use crate::support::certificates::Files;

/// A kind of caller.
pub(super) struct CallerKind<'s> {
    pub(super) what: &'static str,
    pub(super) wire: &'s TestPort,
    pub(super) certificate: Option<Files>,
    pub(super) headers: Vec<&'static str>,
    pub(super) may: Access,
}

/// Its rights.
pub(super) enum Access {
    /// It is unknown.
    Nothing,
    /// These roles, for these organizations.
    These(&'static [Role], &'static [&'static str]),
}

const EVERY_ROLE: &[Role] = &Role::ALL;
const BUT_ADMIN: &[Role] = &[Role::Reserve, Role::Read];
const ACME: &[&str] = &["acme"];
const ALL: &[&str] = &["acme", "other", STRANGER];

impl Service {
    fn by_certificate(&self, what: &'static str, names: &[&str], may: Access) -> CallerKind<'_> {
        CallerKind {
            what,
            wire: &self.tls,
            certificate: Some(self.certificate(names)),
            headers: Vec::new(),
            may,
        }
    }

    pub(super) fn kinds(&self) -> Vec<CallerKind<'_>> {
        let mut kinds = self.with_certificates();
        kinds.extend(self.with_tokens());
        let Self {
            tls,
            loopback,
            in_the_clear,
            everyone,
            everyone_here,
            bare,
            ..
        } = self;
        for (what, wire, headers, may) in [
            ("nobody, over TLS", tls, vec![], Access::Nothing),
            ("nobody, on loopback", loopback, vec![], Access::Nothing),
            (
                "nobody, in the clear",
                in_the_clear,
                vec![],
                Access::Nothing,
            ),
            ("nobody, bare", bare, vec![], Access::Nothing),
            (
                "a good token in the clear",
                in_the_clear,
                vec!["Bearer tg_everywhere"],
                Access::Nothing,
            ),
            (
                "a good token, and nothing known of the connection",
                bare,
                vec!["Bearer tg_everywhere"],
                Access::Nothing,
            ),
            (
                "no callers file",
                everyone,
                vec![],
                Access::These(BUT_ADMIN, ALL),
            ),
            (
                "no callers file, and some token",
                everyone,
                vec!["Bearer x"],
                Access::These(BUT_ADMIN, ALL),
            ),
            (
                "no callers file, on loopback",
                everyone_here,
                vec![],
                Access::These(EVERY_ROLE, ALL),
            ),
        ] {
            kinds.push(CallerKind {
                what,
                wire,
                certificate: None,
                headers,
                may,
            });
        }
        kinds
    }

    fn with_certificates(&self) -> Vec<CallerKind<'_>> {
        let of = |what, names: &[&str], may| self.by_certificate(what, names, may);
        let acme = || Access::These(EVERY_ROLE, ACME);
        vec![
            of("by URI", &[URI], acme()),
            of("by DNS name", &[DNS], acme()),
            of("by DNS name in capitals", &["Gateway.INTERNAL"], acme()),
            of("by a name among others", &["x.internal", URI], acme()),
            of(
                "by two names of one caller",
                &["admin.internal", "spiffe://example.org/admin"],
                Access::These(EVERY_ROLE, ALL),
            ),
            of(
                "a URI that begins alike",
                &["spiffe://example.org/gateway2"],
                Access::Nothing,
            ),
            of(
                "a URI below",
                &["spiffe://example.org/gateway/x"],
                Access::Nothing,
            ),
            of(
                "a URI that is shorter",
                &["spiffe://example.org/gatewa"],
                Access::Nothing,
            ),
            of(
                "a URI in capitals",
                &["spiffe://example.org/Gateway"],
                Access::Nothing,
            ),
            of(
                "a DNS name that begins alike",
                &["gateway.internal.example.org"],
                Access::Nothing,
            ),
            of(
                "a DNS name that ends alike",
                &["x.gateway.internal"],
                Access::Nothing,
            ),
            of("a wildcard", &["*.internal"], Access::Nothing),
            of("no names", &[], Access::Nothing),
            of("names of two callers", &[URI, DNS], Access::Nothing),
            CallerKind {
                headers: vec!["Bearer tg_wrong"],
                ..of(
                    "a good certificate with a wrong token",
                    &[URI],
                    Access::Nothing,
                )
            },
            CallerKind {
                headers: vec!["Bearer tg_elsewhere"],
                ..of(
                    "a certificate with another caller's token",
                    &[URI],
                    Access::These(EVERY_ROLE, &["other"]),
                )
            },
        ]
    }

    fn with_tokens(&self) -> Vec<CallerKind<'_>> {
        let acme = || Access::These(EVERY_ROLE, ACME);
        let kinds = [
            ("the token before", "Bearer tg_before", acme()),
            ("the token after", "Bearer tg_after", acme()),
            ("the scheme in small letters", "bearer tg_after", acme()),
            (
                "reserve only",
                "Bearer tg_reserver",
                Access::These(&[Role::Reserve], ACME),
            ),
            (
                "read only",
                "Bearer tg_reader",
                Access::These(&[Role::Read], ACME),
            ),
            (
                "everywhere",
                "Bearer tg_everywhere",
                Access::These(EVERY_ROLE, ALL),
            ),
            (
                "elsewhere",
                "Bearer tg_elsewhere",
                Access::These(EVERY_ROLE, &["other"]),
            ),
            ("a wrong token", "Bearer tg_wrong", Access::Nothing),
            (
                "a token that begins alike",
                "Bearer tg_afte",
                Access::Nothing,
            ),
            (
                "a token that is longer",
                "Bearer tg_after1",
                Access::Nothing,
            ),
            ("a token in capitals", "Bearer TG_AFTER", Access::Nothing),
        ];
        let wires = [&self.tls, &self.loopback];
        let kinds = kinds.into_iter().zip(wires.into_iter().cycle());
        let kind = |((what, header, may), wire)| CallerKind {
            what,
            wire,
            certificate: None,
            headers: vec![header],
            may,
        };
        kinds.map(kind).collect()
    }
}
