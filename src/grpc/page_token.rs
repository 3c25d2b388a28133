//! The page tokens of ListUsage: organization, day, and the last row of a page. Opaque to callers; a token is valid
//! only for its organization and day.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::domain::{InvalidField, ModelName, OrgId, ProjectId, UtcDay};

/// The day, and the last row of the page before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PageToken {
    pub(super) day: UtcDay,
    pub(super) project: ProjectId,
    pub(super) model: ModelName,
}

/// Between the parts. No name can contain it: names have no control characters.
const SEPARATOR: char = '\n';

impl PageToken {
    pub(super) fn encode(&self, org: &OrgId) -> String {
        let Self {
            day,
            project,
            model,
        } = self;
        let text = [
            &day.to_string(),
            org.as_str(),
            project.as_str(),
            model.as_str(),
        ]
        .join(&SEPARATOR.to_string());
        URL_SAFE_NO_PAD.encode(text)
    }

    /// Decodes a token; an empty text is none.
    pub(super) fn decode(
        token: &str,
        org: &OrgId,
        day: Option<UtcDay>,
    ) -> Result<Option<Self>, InvalidField> {
        if token.is_empty() {
            return Ok(None);
        }
        let parsed = Self::parse(token, org);
        let parsed = parsed.filter(|it| day.is_none_or(|day| day == it.day));
        parsed.map(Some).ok_or_else(|| InvalidField {
            field: "page_token",
            fault: "was not given out by this service for this organization and day".to_owned(),
        })
    }

    fn parse(token: &str, org: &OrgId) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let mut parts = text.split(SEPARATOR);
        let day = UtcDay::parse(parts.next()?).ok()?;
        let is_of_org = parts.next()? == org.as_str();
        let project = ProjectId::parse(parts.next()?).ok()?;
        let model = ModelName::parse(parts.next()?).ok()?;
        (is_of_org && parts.next().is_none()).then_some(Self {
            day,
            project,
            model,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_valid_only_for_its_organization_and_day() {
        let (org, other) = (
            OrgId::parse("a:b").expect("legal"),
            OrgId::parse("a").expect("legal"),
        );
        let day = UtcDay::parse("2026-11-22").expect("a day");
        let token = PageToken {
            day,
            project: ProjectId::parse("p q").expect("legal"),
            model: ModelName::parse("m,n").expect("legal"),
        };
        let text = token.encode(&org);
        assert_eq!(
            PageToken::decode(&text, &org, None),
            Ok(Some(token.clone()))
        );
        assert_eq!(PageToken::decode(&text, &org, Some(day)), Ok(Some(token)));
        assert!(PageToken::decode(&text, &org, Some(day.yesterday())).is_err());
        assert!(PageToken::decode(&text, &other, None).is_err());
        assert!(PageToken::decode("nonsense", &org, None).is_err());
        assert_eq!(PageToken::decode("", &org, None), Ok(None));
    }
}
