//! Lists organizations with their figures, from the [`Overview`](super::overview::Overview).

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
};

use tokio::sync::Semaphore;

use super::{
    Fullness, Ledger, LedgerError, OrganizationFigures, OrganizationList, OrganizationOrder,
    OrganizationPage, PagePosition, backend::Backend, fullness::counters_of,
};
use crate::{
    domain::{OrgId, PoolCounters, PoolName, UtcDay},
    policy::{Enrollment, Policy},
    store::PoolBalance,
};

impl Ledger {
    /// The policy's organizations, with today's figures as this replica last read them. Does not ask the store.
    ///
    /// # Errors
    ///
    /// The deadline has passed.
    pub async fn organizations(
        &self,
        page: OrganizationPage,
    ) -> Result<OrganizationList, LedgerError> {
        // A search through all names takes a thread that the store needs too. So at most one runs at a time, even if
        // its caller no longer waits.
        static LISTINGS: Semaphore = Semaphore::const_new(1);
        self.answer(async {
            let permit = LISTINGS.acquire().await;
            let backend = Arc::clone(&self.backend);
            let list = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let policy = backend.policy.load_full();
                OrganizationQuery::new(&backend, &policy, &page).list()
            });
            list.await.map_err(|_| LedgerError::TaskPanicked)
        })
        .await
    }
}

/// One page of the policy's organizations, which are ordered by name. They are known by their places there.
struct OrganizationQuery<'l> {
    backend: &'l Backend,
    policy: &'l Arc<Policy>,
    page: &'l OrganizationPage,
    today: UtcDay,
}

/// Places of organizations.
enum Places {
    /// This many: all.
    All(usize),
    /// These, ascending.
    Some(Vec<usize>),
}

/// An organization's rank, and its place.
type Ranked = (Fullness, usize);

impl<'l> OrganizationQuery<'l> {
    fn new(backend: &'l Backend, policy: &'l Arc<Policy>, page: &'l OrganizationPage) -> Self {
        Self {
            backend,
            policy,
            page,
            today: backend.clock.today(),
        }
    }

    fn list(&self) -> OrganizationList {
        let places = self.matching();
        // One more than the page: is there a next page?
        let max = self.page.size + 1;
        let mut listed = match self.page.order {
            OrganizationOrder::Name => self.by_name(&places, max),
            OrganizationOrder::NearestToEnd => self.nearest_to_end(&places, max),
        };
        let has_more = listed.len() > self.page.size;
        listed.truncate(self.page.size);
        let last = listed.last().filter(|_| has_more);
        let next = last.and_then(|(fullness, place)| {
            let (org, _) = self.policy.orgs.get_index(*place)?;
            Some(PagePosition {
                fullness: *fullness,
                name: org.to_string(),
            })
        });
        let organizations = listed.iter();
        let organizations = organizations.filter_map(|(_, place)| self.figures(*place));
        OrganizationList {
            total: places.len(),
            organizations: organizations.collect(),
            next,
        }
    }

    /// The organizations that the caller may read, and whose names have the query in them.
    fn matching(&self) -> Places {
        let (orgs, query) = (&self.policy.orgs, lower_case(&self.page.query));
        let mut name = String::new();
        let mut matches = |org: &OrgId| {
            name.clear();
            push_lower_case(&mut name, org.as_str());
            name.contains(&query)
        };
        match &self.page.readable {
            None if query.is_empty() => Places::All(orgs.len()),
            None => {
                let names = orgs.keys().enumerate();
                let matching = names.filter(|(_, org)| matches(org));
                Places::Some(matching.map(|(place, _)| place).collect())
            }
            Some(readable) => {
                let matching = readable.iter().filter(|org| matches(org));
                let places = matching.filter_map(|org| orgs.get_index_of(org));
                let mut places: Vec<usize> = places.collect();
                places.sort_unstable();
                Places::Some(places)
            }
        }
    }

    /// The first organizations of the page, by name.
    fn by_name(&self, places: &Places, max: usize) -> Vec<Ranked> {
        let first = self.page.after.as_ref();
        let first = first.map_or(0, |after| self.place_after(&after.name));
        let page = places.iter_from(first).take(max);
        page.map(|place| (Fullness::NOT_ENROLLED, place)).collect()
    }

    /// The first organizations of the page, the fullest first.
    fn nearest_to_end(&self, places: &Places, max: usize) -> Vec<Ranked> {
        let known = self.known_fullness();
        let after = self.page.after.as_ref();
        let after = after.map(|it| (Reverse(it.fullness), self.place_after(&it.name)));
        // Of those that were seen, the first ones; the last of them is on top.
        let mut first = BinaryHeap::with_capacity(max + 1);
        for place in places.iter_from(0) {
            let fullness = known.get(&place).copied();
            let fullness = fullness.unwrap_or_else(|| self.fullness(place, &[]));
            let rank = (Reverse(fullness), place);
            if after.is_none_or(|after| rank >= after) {
                first.push(rank);
            }
            if first.len() > max {
                first.pop();
            }
        }
        let first = first.into_sorted_vec().into_iter();
        first
            .map(|(Reverse(fullness), place)| (fullness, place))
            .collect()
    }

    /// The fullness of the organizations that have counted something today.
    fn known_fullness(&self) -> HashMap<usize, Fullness> {
        let mut known = HashMap::new();
        self.backend.overview.visit(self.today, |org, figures| {
            if let Some(place) = self.policy.orgs.get_index_of(org) {
                known.insert(place, self.fullness(place, figures));
            }
        });
        known
    }

    fn fullness(&self, place: usize, figures: &[(PoolName, PoolCounters)]) -> Fullness {
        Fullness::of(&self.enrollment(place), figures)
    }

    fn enrollment(&self, place: usize) -> Enrollment {
        let orgs = &self.policy.orgs;
        self.policy
            .enrollment_of(&orgs.keys()[place], &orgs[place], self.today)
    }

    /// The place of the first organization after this name.
    fn place_after(&self, name: &str) -> usize {
        let names = &self.policy.orgs;
        match names.binary_search_by(|org, _| org.as_str().cmp(name)) {
            Ok(place) => place + 1,
            Err(place) => place,
        }
    }

    fn figures(&self, place: usize) -> Option<OrganizationFigures> {
        self.backend
            .organization_figures(self.policy, place, self.today)
    }
}

impl Backend {
    /// What is known of the organization at this place of the policy.
    pub(super) fn organization_figures(
        &self,
        policy: &Arc<Policy>,
        place: usize,
        today: UtcDay,
    ) -> Option<OrganizationFigures> {
        let (org, known) = policy.orgs.get_index(place)?;
        let enrollment = policy.enrollment_of(org, known, today);
        let known = self.overview.figures(org, place, policy, today);
        let pools = policy.pools.iter().map(|pool| {
            let counters = counters_of(&known.pools, pool);
            let balance = PoolBalance::today(&enrollment.terms, pool.clone(), &counters);
            (balance, counters)
        });
        Some(OrganizationFigures {
            org: org.clone(),
            pools: pools.collect(),
            enrollment,
            as_of: known.as_of,
        })
    }
}

impl Places {
    fn len(&self) -> usize {
        match self {
            Self::All(len) => *len,
            Self::Some(places) => places.len(),
        }
    }

    /// The places from this one on.
    fn iter_from(&self, first: usize) -> impl Iterator<Item = usize> {
        let (all, some) = match self {
            Self::All(len) => (first..*len, &[][..]),
            Self::Some(places) => {
                let at = places.partition_point(|place| *place < first);
                (0..0, &places[at..])
            }
        };
        all.chain(some.iter().copied())
    }
}

fn lower_case(text: &str) -> String {
    let mut lower = String::new();
    push_lower_case(&mut lower, text);
    lower
}

/// Adds a text in lower case, each character by itself: a part of a text is then a part of its lower case.
fn push_lower_case(lower: &mut String, text: &str) {
    if text.is_ascii() {
        let from = lower.len();
        lower.push_str(text);
        lower[from..].make_ascii_lowercase();
    } else {
        lower.extend(text.chars().flat_map(char::to_lowercase));
    }
}
