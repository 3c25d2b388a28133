//! The section `[envoy]` (docs/CONTRACT.md, "Envoy").

use http::HeaderName;

use super::{args::parse_choice, file::choice};
use crate::{
    domain::{OrgId, ProjectId},
    envoy::{EnvoySettings, UsageSource},
    files::toml::{Entry, Section, distinct},
};

/// The smallest and the largest bound of a body, in bytes.
const AUTHORIZATION_BYTES: (u64, u64) = (1024, 64 * 1024 * 1024);

/// Reads the section.
pub(super) fn settings(section: &Section<'_>) -> EnvoySettings {
    let default = EnvoySettings::default();
    let services = |it: &Entry<'_>| Some(distinct(it.texts()?, parse_choice));
    let clusters = |it: &Entry<'_>| Some(distinct(it.texts()?, cluster));
    let usage = |it: &Entry<'_>| Some(distinct(it.texts()?, usage_source));
    let (min, max) = AUTHORIZATION_BYTES;
    let bytes = |it: &Entry<'_>| it.number(min, max);
    let organization: Option<OrgId> = section.get("organization", |it| it.parse(OrgId::parse));
    let project: Option<ProjectId> = section.get("project", |it| it.parse(ProjectId::parse));
    let settings = EnvoySettings {
        services: section.get_or("services", default.services, services),
        organization: organization.map(|it| it.to_string()),
        project: project.map(|it| it.to_string()),
        organization_header: section.get("organization_header", header),
        project_header: section.get("project_header", header),
        on_billed: section.get_or("on_billed", default.on_billed, choice),
        program_clusters: section.get_or("program_clusters", default.program_clusters, clusters),
        authorization_bytes: section.get_or(
            "authorization_bytes",
            default.authorization_bytes,
            bytes,
        ),
        usage: section.get_or("usage", default.usage, usage),
    };
    section.finish();
    settings
}

fn cluster(name: &str) -> Result<String, &'static str> {
    match name {
        "" => Err("must not be empty"),
        name => Ok(name.to_owned()),
    }
}

fn usage_source(text: &str) -> Result<UsageSource, &'static str> {
    UsageSource::parse(text).ok_or("must be NAMESPACE (typed metadata) or NAMESPACE:KEY (a number)")
}

/// The name of a header, in lower case, as Envoy sends it.
fn header(entry: &Entry<'_>) -> Option<String> {
    let name = entry.parse(|text| HeaderName::try_from(text).map_err(|_| "is no name of a header"));
    name.map(|name| name.to_string())
}
