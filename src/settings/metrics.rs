//! The section `[metrics]` (docs/CONTRACT.md, "Notifications").

use crate::{
    domain::OrgId,
    files::toml::{Entry, Section, distinct},
    ledger::GaugedOrganizations,
};

/// Reads the section: the organizations that have gauges.
pub(super) fn organizations(section: &Section<'_>) -> GaugedOrganizations {
    let organizations = section.get_or("organizations", GaugedOrganizations::Off, selection);
    section.finish();
    organizations
}

fn selection(entry: &Entry<'_>) -> Option<GaugedOrganizations> {
    if entry.is_text() {
        return entry.parse(|text| match text {
            "off" => Ok(GaugedOrganizations::Off),
            "all" => Ok(GaugedOrganizations::All),
            _ => Err(format!(
                "{text:?} is neither \"off\" nor \"all\", nor a list of organizations"
            )),
        });
    }
    let orgs = distinct(entry.texts()?, |name| OrgId::parse(name.trim()));
    let max = GaugedOrganizations::MAX;
    let count = orgs.len();
    let fault = || format!("has {count} organizations, at most {max} are allowed");
    let orgs = entry.check((count <= max).then_some(orgs).ok_or_else(fault))?;
    Some(GaugedOrganizations::Named(orgs))
}
