//! ListUsage: its days, its pages and their tokens (docs/CONTRACT.md, "GetQuota and ListUsage").

use std::mem;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tonic::Status;

use super::{
    authorization::Permit,
    convert::{self, day_comparisons, faulty, invalid, page_size},
    proto::{self, ListUsageRequest, ListUsageResponse},
};
use crate::{
    domain::{InvalidField, ModelName, OrgId, ProjectId, UtcDay},
    ledger::{Usage, UsageDays, UsagePage, UsagePosition, UsageRow},
};

/// A ListUsage.
pub(super) struct UsageQuery {
    pub(super) org: OrgId,
    pub(super) page: UsagePage,
    /// The first day of the range that was asked for; none: a single day.
    from_day: Option<UtcDay>,
}

/// A page token: the query of the next page. It is opaque to callers, and holds for its organization and days. Its
/// parts are separated by line feeds, which no name can contain:
///
/// | of | parts |
/// | --- | --- |
/// | a day | the day, `org`, and project and model of the last row |
/// | a range | `from_day`, the first and the last day with rows, the day of the next row, `org`, and project and model of the last row if that is of the same day |
struct UsagePageToken(UsageQuery);

pub(super) fn query(mut request: ListUsageRequest, permit: &Permit) -> Result<UsageQuery, Status> {
    let org = convert::org(mem::take(&mut request.org), permit)?;
    let days = days(&request.day, &request.from_day, &request.to_day)?;
    let size = page_size(request.page_size)?;
    if !request.page_token.is_empty() {
        let token = UsagePageToken::parse(&request.page_token, &org, size);
        let token = token.filter(|token| token.is_of(days)).ok_or_else(|| {
            faulty(
                "page_token",
                "was not given out by this service for this organization and these days",
            )
        })?;
        return Ok(token.0);
    }
    let from_day = match days {
        UsageDays::Range { from, .. } => Some(from),
        UsageDays::Today | UsageDays::Day(_) => None,
    };
    let page = UsagePage {
        days,
        start: None,
        size,
    };
    Ok(UsageQuery {
        org,
        page,
        from_day,
    })
}

/// The days of a request. An error names the field.
pub(super) fn days(day: &str, from: &str, to: &str) -> Result<UsageDays, Status> {
    let (from_day, to_day) = ("from_day", "to_day");
    let parsed = |field, text: &str| match text {
        "" => Ok(None),
        text => {
            let day = UtcDay::parse(text);
            day.map(Some)
                .map_err(|fault| invalid(InvalidField { field, ..fault }))
        }
    };
    let single = parsed("day", day)?;
    let (from, to) = (parsed(from_day, from)?, parsed(to_day, to)?);
    match (single, from, to) {
        (None, None, None) => Ok(UsageDays::Today),
        (Some(day), None, None) => Ok(UsageDays::Day(day)),
        (Some(_), Some(_), _) => Err(faulty(from_day, "excludes day")),
        (Some(_), None, Some(_)) => Err(faulty(to_day, "excludes day")),
        (None, None, Some(_)) => Err(faulty(to_day, "needs from_day")),
        (None, Some(from), Some(to)) if to < from => {
            Err(faulty(to_day, format!("is {to}, before from_day {from}")))
        }
        (None, Some(from), to) => Ok(UsageDays::Range { from, to }),
    }
}

pub(super) fn response(query: &UsageQuery, usage: Usage) -> ListUsageResponse {
    let next_page_token = UsagePageToken::of_next(query, &usage);
    let (first, last) = usage.days.into_inner();
    ListUsageResponse {
        day: match query.from_day {
            None => first.to_string(),
            Some(_) => String::new(),
        },
        rows: usage.rows.into_iter().map(Into::into).collect(),
        next_page_token: next_page_token.unwrap_or_default(),
        from_day: first.to_string(),
        to_day: last.to_string(),
        comparisons: day_comparisons(&usage.comparisons),
    }
}

impl From<UsageRow> for proto::UsageRow {
    fn from(row: UsageRow) -> Self {
        Self {
            project: row.project.to_string(),
            model: row.model.to_string(),
            pool: row.pool.map(|pool| pool.to_string()).unwrap_or_default(),
            free_tokens: row.counters.free_tokens.get(),
            billed_tokens: row.counters.billed_tokens.get(),
            free_requests: row.counters.free_requests,
            billed_requests: row.counters.billed_requests,
            day: row.day.to_string(),
            provider: row.provider.map(|usage| proto::ProviderUsage {
                free_tokens: usage.free_tokens.get(),
                billed_tokens: usage.billed_tokens.get(),
            }),
        }
    }
}

impl UsagePageToken {
    /// The token of the page after this one; none after the last page.
    fn of_next(query: &UsageQuery, usage: &Usage) -> Option<String> {
        let next = usage.next.as_ref()?;
        let mut parts = Vec::new();
        if let Some(from_day) = query.from_day {
            let (first, last) = (usage.days.start(), usage.days.end());
            parts.extend([from_day, *first, *last].map(|day| day.to_string()));
        }
        parts.extend([next.day.to_string(), query.org.to_string()]);
        if let Some((project, model)) = &next.after {
            parts.extend([project.to_string(), model.to_string()]);
        }
        Some(URL_SAFE_NO_PAD.encode(parts.join("\n")))
    }

    fn parse(token: &str, org: &OrgId, size: usize) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let parts: Vec<&str> = text.split('\n').collect();
        let (range, day, token_org, row) = match parts[..] {
            [day, org, ref row @ ..] if row.len() == 2 => (None, day, org, row),
            [from_day, first, last, day, org, ref row @ ..] if [0, 2].contains(&row.len()) => {
                (Some([from_day, first, last]), day, org, row)
            }
            _ => return None,
        };
        let day = UtcDay::parse(day).ok()?;
        let after = match *row {
            [project, model] => Some((
                ProjectId::parse(project).ok()?,
                ModelName::parse(model).ok()?,
            )),
            _ => None,
        };
        let (days, from_day) = match range {
            None => (UsageDays::Day(day), None),
            Some(range) => {
                let [from_day, first, last] = range.map(|day| UtcDay::parse(day).ok());
                let (from, to) = (first?, last?);
                (from..=to).contains(&day).then_some(())?;
                (UsageDays::Range { from, to: Some(to) }, Some(from_day?))
            }
        };
        let start = Some(UsagePosition { day, after });
        let page = UsagePage { days, start, size };
        (token_org == org.as_str()).then(|| {
            Self(UsageQuery {
                org: org.clone(),
                page,
                from_day,
            })
        })
    }

    /// Whether it continues a query for these days. A request with a token need not repeat the days.
    fn is_of(&self, days: UsageDays) -> bool {
        let UsageQuery { page, from_day, .. } = &self.0;
        match (days, page.days) {
            (UsageDays::Today, _) => true,
            (UsageDays::Day(day), UsageDays::Day(of)) => day == of,
            (UsageDays::Range { from, to }, UsageDays::Range { to: last, .. }) => {
                *from_day == Some(from) && (to.is_none() || to == last)
            }
            _ => false,
        }
    }
}
