//! The kinds of caller: how each comes, and what it may.

use tollgate::auth::Role;

use super::{DNS, STRANGER, Service, URI, listener::Wire};
use crate::support::certificates::Files;

/// How a caller comes.
pub(super) struct Kind<'s> {
    pub(super) what: &'static str,
    pub(super) wire: &'s Wire,
    pub(super) certificate: Option<Files>,
    pub(super) headers: Vec<&'static str>,
    pub(super) may: May,
}

/// What it may then.
pub(super) enum May {
    /// It is not known.
    Nothing,
    /// These roles, for these organizations.
    These(&'static [Role], &'static [&'static str]),
}

const EVERY_ROLE: &[Role] = &Role::ALL;
const ACME: &[&str] = &["acme"];
const ALL: &[&str] = &["acme", "other", STRANGER];

impl Service {
    fn by_certificate(&self, what: &'static str, names: &[&str], may: May) -> Kind<'_> {
        Kind {
            what,
            wire: &self.tls,
            certificate: Some(self.certificate(names)),
            headers: Vec::new(),
            may,
        }
    }

    pub(super) fn kinds(&self) -> Vec<Kind<'_>> {
        let mut kinds = self.with_certificates();
        kinds.extend(self.with_tokens());
        let Self {
            tls,
            loopback,
            in_the_clear,
            everyone,
            bare,
            ..
        } = self;
        for (what, wire, headers, may) in [
            ("nobody, over TLS", tls, vec![], May::Nothing),
            ("nobody, on loopback", loopback, vec![], May::Nothing),
            ("nobody, in the clear", in_the_clear, vec![], May::Nothing),
            ("nobody, bare", bare, vec![], May::Nothing),
            (
                "a good token in the clear",
                in_the_clear,
                vec!["Bearer tg_everywhere"],
                May::Nothing,
            ),
            (
                "a good token, and nothing known of the connection",
                bare,
                vec!["Bearer tg_everywhere"],
                May::Nothing,
            ),
            (
                "no callers file",
                everyone,
                vec![],
                May::These(EVERY_ROLE, ALL),
            ),
            (
                "no callers file, and some token",
                everyone,
                vec!["Bearer x"],
                May::These(EVERY_ROLE, ALL),
            ),
        ] {
            kinds.push(Kind {
                what,
                wire,
                certificate: None,
                headers,
                may,
            });
        }
        kinds
    }

    fn with_certificates(&self) -> Vec<Kind<'_>> {
        let of = |what, names: &[&str], may| self.by_certificate(what, names, may);
        let acme = || May::These(EVERY_ROLE, ACME);
        vec![
            of("by URI", &[URI], acme()),
            of("by DNS name", &[DNS], acme()),
            of("by DNS name in capitals", &["Gateway.INTERNAL"], acme()),
            of("by a name among others", &["x.internal", URI], acme()),
            of(
                "by two names of one caller",
                &["admin.internal", "spiffe://example.org/admin"],
                May::These(EVERY_ROLE, ALL),
            ),
            of(
                "a URI that begins alike",
                &["spiffe://example.org/gateway2"],
                May::Nothing,
            ),
            of(
                "a URI below",
                &["spiffe://example.org/gateway/x"],
                May::Nothing,
            ),
            of(
                "a URI that is shorter",
                &["spiffe://example.org/gatewa"],
                May::Nothing,
            ),
            of(
                "a URI in capitals",
                &["spiffe://example.org/Gateway"],
                May::Nothing,
            ),
            of(
                "a DNS name that begins alike",
                &["gateway.internal.example.org"],
                May::Nothing,
            ),
            of(
                "a DNS name that ends alike",
                &["x.gateway.internal"],
                May::Nothing,
            ),
            of("a wildcard", &["*.internal"], May::Nothing),
            of("no names", &[], May::Nothing),
            of("names of two callers", &[URI, DNS], May::Nothing),
            Kind {
                headers: vec!["Bearer tg_wrong"],
                ..of(
                    "a good certificate with a wrong token",
                    &[URI],
                    May::Nothing,
                )
            },
            Kind {
                headers: vec!["Bearer tg_elsewhere"],
                ..of(
                    "a certificate with another caller's token",
                    &[URI],
                    May::These(EVERY_ROLE, &["other"]),
                )
            },
        ]
    }

    fn with_tokens(&self) -> Vec<Kind<'_>> {
        let acme = || May::These(EVERY_ROLE, ACME);
        let kinds = [
            ("the token before", "Bearer tg_before", acme()),
            ("the token after", "Bearer tg_after", acme()),
            ("the scheme in small letters", "bearer tg_after", acme()),
            (
                "reserve only",
                "Bearer tg_reserver",
                May::These(&[Role::Reserve], ACME),
            ),
            (
                "read only",
                "Bearer tg_reader",
                May::These(&[Role::Read], ACME),
            ),
            (
                "everywhere",
                "Bearer tg_everywhere",
                May::These(EVERY_ROLE, ALL),
            ),
            (
                "elsewhere",
                "Bearer tg_elsewhere",
                May::These(EVERY_ROLE, &["other"]),
            ),
            ("a wrong token", "Bearer tg_wrong", May::Nothing),
            ("a token that begins alike", "Bearer tg_afte", May::Nothing),
            ("a token that is longer", "Bearer tg_after1", May::Nothing),
            ("a token in capitals", "Bearer TG_AFTER", May::Nothing),
        ];
        let wires = [&self.tls, &self.loopback];
        let kinds = kinds.into_iter().zip(wires.into_iter().cycle());
        let kind = |((what, header, may), wire)| Kind {
            what,
            wire,
            certificate: None,
            headers: vec![header],
            may,
        };
        kinds.map(kind).collect()
    }
}
