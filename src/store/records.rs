//! The records that the embedded stores give the rules access to ([`super::engine`]).

use crate::domain::{
    ModelName, PoolCounters, PoolName, ProjectId, RequestId, Reservation, RowCounts, ShareId,
    Tokens, UsageCounters, UtcDay,
};

/// The records of one organization.
pub(super) trait Records {
    /// Why a record can't be read.
    type Error;

    fn pool(
        &mut self,
        day: RelativeDay,
        pool: &PoolName,
    ) -> Result<Option<PoolCounters>, Self::Error>;

    fn set_pool(&mut self, day: RelativeDay, pool: &PoolName, counters: PoolCounters);

    /// The FREE tokens that a share counted.
    fn share(&mut self, day: RelativeDay, share: &ShareId) -> Result<Option<Tokens>, Self::Error>;

    fn set_share(&mut self, day: RelativeDay, share: &ShareId, used: Tokens);

    fn row(
        &mut self,
        day: RelativeDay,
        project: &ProjectId,
        model: &ModelName,
    ) -> Result<Option<UsageCounters>, Self::Error>;

    fn set_row(
        &mut self,
        day: RelativeDay,
        project: &ProjectId,
        model: &ModelName,
        row: UsageCounters,
    );

    /// How many usage rows today has.
    fn row_counts(&mut self) -> Result<RowCounts, Self::Error>;

    fn set_row_counts(&mut self, counts: RowCounts);

    fn reservation(
        &mut self,
        day: RelativeDay,
        id: &RequestId,
    ) -> Result<Option<Reservation>, Self::Error>;

    fn set_reservation(&mut self, day: RelativeDay, id: &RequestId, reservation: Reservation);
}

/// A day relative to the day of the decision. An id is looked up on the first three, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum RelativeDay {
    Today,
    Yesterday,
    /// The wall clock may have been ahead, and stepped back.
    Tomorrow,
    /// Only pools, into which reservations of tomorrow are carried.
    DayAfterTomorrow,
}

impl RelativeDay {
    pub(super) const OF_IDS: [Self; 3] = [Self::Today, Self::Yesterday, Self::Tomorrow];

    pub(super) fn date(self, today: UtcDay) -> UtcDay {
        match self {
            Self::Today => today,
            Self::Yesterday => today.yesterday(),
            Self::Tomorrow => today.plus_days(1),
            Self::DayAfterTomorrow => today.plus_days(2),
        }
    }

    /// The day after; of the last one itself.
    pub(super) fn next(self) -> Self {
        match self {
            Self::Yesterday => Self::Today,
            Self::Today => Self::Tomorrow,
            Self::Tomorrow | Self::DayAfterTomorrow => Self::DayAfterTomorrow,
        }
    }
}
