//! The key `notify_at` of an organization (docs/CONTRACT.md, "Notices").

use crate::{
    domain::{Threshold, Thresholds},
    files::toml::Section,
};

/// Reads `[orgs.X] notify_at`: whole per cent, each once.
pub(super) fn notify_at(section: &Section<'_>) -> Option<Thresholds> {
    section.get("notify_at", |list| {
        let mut read: Vec<Threshold> = Vec::new();
        for entry in list.entries("a list of whole numbers")? {
            let Some(threshold) = entry.number(1, 100).and_then(Threshold::new) else {
                continue;
            };
            if read.contains(&threshold) {
                entry.fault(format!("has {threshold} twice"));
            }
            read.push(threshold);
        }
        Some(read.into_iter().collect())
    })
}
