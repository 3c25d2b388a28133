//! The section `[notify]` (docs/CONTRACT.md, "Notifications").

use super::{
    args::{NOTIFY_URL, variable},
    error::SettingsError,
};
use crate::{files::toml::Section, notify::WebhookUrl};

/// Reads the section: the receiver of notifications, if there is one. The variable takes precedence.
pub(super) fn receiver(section: &Section<'_>) -> Result<Option<WebhookUrl>, SettingsError> {
    let in_file = section.get("url", |it| it.parse(WebhookUrl::parse));
    section.finish();
    let variable = variable(NOTIFY_URL)?.map(|text| WebhookUrl::parse(&text));
    let variable = variable.transpose();
    let variable = variable.map_err(|fault| SettingsError::value(NOTIFY_URL, fault))?;
    Ok(variable.or(in_file))
}
