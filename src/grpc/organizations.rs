//! Conversion of ListOrganizations.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tonic::Status;

use super::{
    authorization::Permit,
    convert::{
        day_comparisons, faulty, invalid, not_enrolled_number, page_size, pool_quota, timestamp,
    },
    proto::{self, ListOrganizationsRequest, ListOrganizationsResponse, OrganizationSummary},
};
use crate::{
    domain::{OrgId, ids::check_query},
    ledger::{
        ComparedDay, Fullness, OrganizationFigures, OrganizationList, OrganizationOrder,
        OrganizationPage, PagePosition,
    },
};

pub(super) fn organization_page(
    request: ListOrganizationsRequest,
    permit: &Permit,
) -> Result<OrganizationPage, Status> {
    let size = page_size(request.page_size)?;
    check_query(&request.query).map_err(invalid)?;
    let order = order(request.order)?;
    let after = match request.page_token.as_str() {
        "" => None,
        token => {
            let position = parse_page_token(token, &request.query, order);
            let foreign = "was not given out by this service for this query and order";
            Some(position.ok_or_else(|| faulty("page_token", foreign))?)
        }
    };
    Ok(OrganizationPage {
        query: request.query,
        readable: permit.organizations(),
        order,
        after,
        size,
    })
}

fn order(number: i32) -> Result<OrganizationOrder, Status> {
    let order = proto::OrganizationOrder::try_from(number)
        .map_err(|_| faulty("order", format!("has no value of number {number}")))?;
    Ok(match order {
        proto::OrganizationOrder::Unspecified | proto::OrganizationOrder::Name => {
            OrganizationOrder::Name
        }
        proto::OrganizationOrder::NearestToEnd => OrganizationOrder::NearestToEnd,
    })
}

/// A page token of ListOrganizations: order, query, and the last organization of a page. Opaque to callers. The parts
/// are separated by line feeds, which neither a name nor a query can contain.
fn page_token(position: &PagePosition, query: &str, order: OrganizationOrder) -> String {
    let (order, PagePosition { fullness, name }) = (order_letter(order), position);
    let fullness = fullness.to_bits();
    URL_SAFE_NO_PAD.encode(format!("{order}\n{query}\n{fullness}\n{name}"))
}

fn parse_page_token(token: &str, query: &str, order: OrganizationOrder) -> Option<PagePosition> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let mut parts = text.split('\n');
    let is_of_order = parts.next()? == order_letter(order);
    let is_of_query = parts.next()? == query;
    let fullness = Fullness::from_bits(parts.next()?.parse().ok()?);
    let name = parts.next()?.to_owned();
    let is_whole = is_of_order && is_of_query && !name.is_empty() && parts.next().is_none();
    is_whole.then_some(PagePosition { fullness, name })
}

/// The letter of an order in page tokens.
fn order_letter(order: OrganizationOrder) -> &'static str {
    match order {
        OrganizationOrder::Name => "n",
        OrganizationOrder::NearestToEnd => "e",
    }
}

pub(super) fn organizations_response(
    list: OrganizationList,
    query: &str,
    order: OrganizationOrder,
    comparisons: impl Fn(&OrgId) -> Arc<[ComparedDay]>,
) -> ListOrganizationsResponse {
    let next = list.next.as_ref();
    let summaries = list.organizations.into_iter().map(|figures| {
        let comparisons = comparisons(&figures.org);
        summary(figures, &comparisons)
    });
    ListOrganizationsResponse {
        next_page_token: next.map_or_else(String::new, |it| page_token(it, query, order)),
        total: list.total as u64,
        organizations: summaries.collect(),
    }
}

fn summary(figures: OrganizationFigures, comparisons: &[ComparedDay]) -> OrganizationSummary {
    let enrollment = figures.enrollment;
    OrganizationSummary {
        org: figures.org.to_string(),
        tier: u32::from(enrollment.tier),
        enrolled: enrollment.not_enrolled.is_none(),
        not_enrolled_reason: not_enrolled_number(enrollment.not_enrolled),
        pools: figures.pools.into_iter().map(pool_quota).collect(),
        as_of: figures.as_of.map(timestamp),
        comparisons: day_comparisons(comparisons),
    }
}
