//! The stores under clocks that the test sets.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tempfile::TempDir;
use tollgate::{
    ledger::{Ledger, LedgerConfig},
    store::{Store, UsageLimits, memory::MemoryStore},
};

use crate::support::{
    clock::Clock,
    world::{
        NOON, ReserveExt as _, TODAY, file_store, new_reserve, new_settle, org_id, policy,
        verdict_text,
    },
};

/// An embedded store under a clock that the test steps.
pub struct Embedded {
    pub clock: Clock,
    /// The folder of a file store.
    dir: Option<TempDir>,
    ledger: Option<Ledger>,
    store: Arc<dyn Store>,
}

impl Embedded {
    pub fn memory() -> Self {
        let clock = Clock::at(NOON);
        let store = Arc::new(MemoryStore::new(clock.function(), UsageLimits::default()));
        Self::over(clock, None, store)
    }

    pub fn file() -> Self {
        let (clock, dir) = (Clock::at(NOON), tempfile::tempdir().unwrap());
        let store = Arc::new(file_store(&dir, &clock, UsageLimits::default()));
        Self::over(clock, Some(dir), store)
    }

    fn over(clock: Clock, dir: Option<TempDir>, store: Arc<dyn Store>) -> Self {
        let ledger = Some(ledger_over(&store));
        Self {
            clock,
            dir,
            ledger,
            store,
        }
    }

    pub fn ledger(&self) -> &Ledger {
        self.ledger.as_ref().unwrap()
    }

    /// Reopens a file, like a restart of the process. Does nothing for a memory store.
    pub fn restart(&mut self) {
        let Some(dir) = &self.dir else { return };
        self.ledger = None;
        self.store = Arc::new(MemoryStore::new(
            self.clock.function(),
            UsageLimits::default(),
        ));
        self.store = Arc::new(file_store(dir, &self.clock, UsageLimits::default()));
        self.ledger = Some(ledger_over(&self.store));
    }

    async fn reserve(&self, tokens: u64) -> String {
        verdict_text(
            self.ledger()
                .reserve(new_reserve(tokens))
                .await
                .unwrap()
                .verdict,
        )
    }

    pub async fn used(&self) -> u64 {
        let quota = self.ledger().quota(&org_id("acme")).await.unwrap();
        let mut pools = quota.pools.iter();
        let large = pools.find(|(balance, _)| balance.pool.as_str() == "large");
        large.unwrap().0.used.get()
    }

    /// Free tokens of the usage history of a day.
    async fn free_on(&self, day: DateTime<Utc>) -> u64 {
        let day = tollgate::domain::UtcDay::of(day);
        let rows = self.store.usage(&org_id("acme"), day, None, 1_000).await;
        let rows = rows.unwrap().answer.into_values();
        rows.map(|row| row.free_tokens.get()).sum()
    }
}

fn ledger_over(store: &Arc<dyn Store>) -> Ledger {
    let policy = Arc::new(policy("keep_open"));
    Ledger::new(LedgerConfig::new(policy, Arc::clone(store)))
}

fn both() -> [Embedded; 2] {
    [Embedded::memory(), Embedded::file()]
}

fn jumps() -> [TimeDelta; 5] {
    [
        TimeDelta::hours(6),
        TimeDelta::days(1),
        TimeDelta::days(365),
        TimeDelta::days(400),
        TimeDelta::days(400 * 365),
    ]
}

/// The allowance is 1,000 a day.
#[tokio::test]
async fn a_clock_that_was_ahead_for_a_call_grants_nothing_twice_on_any_real_day() {
    for jump in jumps() {
        for restarts in [false, true] {
            for mut it in both() {
                assert_eq!(it.reserve(900).await, "FREE");
                it.clock.advance(jump);
                let restart = |it: &mut Embedded| restarts.then(|| it.restart());
                restart(&mut it);
                let visited = it.clock.now();
                let same_day = visited.date_naive().to_string() == TODAY;
                let on_the_visited_day = it.reserve(900).await;
                it.clock.advance(-jump);
                restart(&mut it);
                // The real day continues with its own counters.
                assert_eq!(it.used().await, 900, "{jump}");
                assert_eq!(it.reserve(900).await, "AllowanceExceeded", "{jump}");
                assert_eq!(it.free_on(it.clock.now()).await, 900, "{jump}");
                // What was granted on the visited day counts when that day comes.
                it.clock.pass(visited - it.clock.now());
                if same_day {
                    assert_eq!(on_the_visited_day, "AllowanceExceeded");
                } else {
                    assert_eq!(on_the_visited_day, "FREE");
                    assert_eq!(it.reserve(900).await, "AllowanceExceeded", "{jump}");
                }
                assert_eq!(it.used().await, 900, "{jump}");
                assert!(it.store.clock_steps() > 0 || restarts, "{jump}");
            }
        }
    }
}

#[tokio::test]
async fn the_real_midnight_opens_a_new_day_though_the_clock_was_a_year_ahead_before() {
    for it in both() {
        it.reserve(900).await;
        it.clock.advance(TimeDelta::days(365));
        it.reserve(900).await;
        it.clock.advance(TimeDelta::days(-365));
        it.clock.pass(TimeDelta::days(1));
        assert_eq!(it.reserve(900).await, "FREE");
        assert_eq!(it.free_on(NOON.parse().unwrap()).await, 900);
    }
}

#[tokio::test]
async fn a_clock_that_steps_back_over_midnight_finds_the_counters_that_it_left() {
    for mut it in both() {
        it.reserve(400).await;
        it.clock.pass(TimeDelta::hours(12) + TimeDelta::seconds(5));
        it.reserve(30).await;
        it.clock.advance(TimeDelta::seconds(-30));
        it.restart();
        assert_eq!(it.used().await, 400);
        assert_eq!(it.reserve(601).await, "AllowanceExceeded");
        assert_eq!(it.reserve(600).await, "FREE");
        it.clock.pass(TimeDelta::minutes(1));
        assert_eq!(it.used().await, 30);
        // A day later, too, after an hour of a steady clock.
        it.clock.pass(TimeDelta::hours(1));
        it.reserve(1).await;
        it.clock.advance(TimeDelta::hours(-2));
        assert_eq!(it.used().await, 1_000);
    }
}

#[tokio::test]
async fn an_id_of_a_visited_day_is_found_from_the_day_before_and_settles_on_its_own() {
    for it in both() {
        it.reserve(100).await;
        it.clock.advance(TimeDelta::days(1));
        let ledger = it.ledger();
        ledger
            .reserve(new_reserve(500).id("visited"))
            .await
            .unwrap();
        it.clock.advance(TimeDelta::days(-1));
        let again = ledger
            .reserve(new_reserve(500).id("visited"))
            .await
            .unwrap();
        assert!(again.replayed);
        assert_eq!(again.pool.unwrap().used.get(), 100);
        let settled = ledger.settle(new_settle("visited", 700));
        let settled = settled.await.unwrap();
        // By the rules of an open day: its own day is not over.
        assert_eq!(verdict_text(settled.verdict), "FREE");
        let pool = settled.pool.unwrap();
        assert_eq!((pool.allowance.get(), pool.used.get()), (0, 0));
        assert_eq!(it.used().await, 100);
        it.clock.pass(TimeDelta::days(1));
        assert_eq!(it.used().await, 700);
        assert_eq!(it.free_on(it.clock.now()).await, 700);
    }
}

#[tokio::test]
async fn a_settle_while_the_clock_is_ahead_corrects_the_day_that_it_comes_back_to() {
    for it in both() {
        let ledger = it.ledger();
        ledger.reserve(new_reserve(900).id("r")).await.unwrap();
        it.clock.advance(TimeDelta::days(1));
        let settled = ledger.settle(new_settle("r", 200));
        assert_eq!(verdict_text(settled.await.unwrap().verdict), "FREE");
        it.clock.advance(TimeDelta::days(-1));
        assert_eq!(it.used().await, 200);
        let quota = ledger.quota(&org_id("acme")).await.unwrap();
        assert!(quota.pools.iter().all(|(_, pool)| pool.held.get() == 0));
    }
}

#[tokio::test]
async fn history_is_removed_only_after_the_clock_was_steady_for_ten_minutes() {
    for mut it in both() {
        it.reserve(900).await;
        let noon = it.clock.now();
        it.clock.advance(TimeDelta::days(400));
        for restarts in [false, true] {
            if restarts {
                it.restart();
            }
            it.reserve(1).await;
            it.store.probe().await.unwrap();
            it.clock.pass(TimeDelta::minutes(4));
        }
        it.reserve(1).await;
        assert_eq!(it.free_on(noon).await, 900);
        // A wrong clock that stays steady for longer is trusted, even over a restart.
        it.restart();
        it.clock.pass(TimeDelta::minutes(2));
        it.reserve(1).await;
        it.store.probe().await.unwrap();
        assert_eq!(it.free_on(noon).await, 0);
    }
}

#[tokio::test]
async fn each_step_is_counted_once_and_reported_for_an_hour() {
    for mut it in both() {
        assert_eq!(
            (it.store.clock_steps(), it.store.latest_clock_step()),
            (0, None)
        );
        it.clock.advance(TimeDelta::seconds(4));
        it.reserve(1).await;
        assert_eq!(it.store.clock_steps(), 0);
        it.clock.advance(TimeDelta::seconds(-60));
        for _ in 0..3 {
            it.reserve(1).await;
        }
        assert_eq!(it.store.clock_steps(), 1);
        it.restart();
        it.store.probe().await.unwrap();
        let step = it.store.latest_clock_step().unwrap();
        assert_eq!(step.by.num_milliseconds().div_euclid(1_000), -56);
        let text = step.to_string();
        let expected = "the wall clock was stepped back by 5";
        assert!(text.starts_with(expected), "{text}");
        it.clock.pass(TimeDelta::minutes(61));
        assert_eq!(it.store.latest_clock_step(), None);
    }
}

#[tokio::test]
async fn a_machine_that_was_suspended_has_had_no_step() {
    for mut it in both() {
        it.reserve(900).await;
        it.clock.pass(TimeDelta::hours(9));
        assert_eq!(it.reserve(900).await, "AllowanceExceeded");
        it.restart();
        it.clock.pass(TimeDelta::hours(9));
        it.restart();
        assert_eq!(it.reserve(900).await, "FREE");
        assert_eq!(
            (it.store.clock_steps(), it.store.latest_clock_step()),
            (0, None)
        );
    }
}

#[tokio::test]
async fn a_step_while_the_file_was_closed_is_seen_at_the_start() {
    let mut it = Embedded::file();
    it.reserve(900).await;
    it.ledger = None;
    it.clock.advance(TimeDelta::days(2));
    it.restart();
    assert_eq!(it.store.clock_steps(), 1);
    it.reserve(1).await;
    it.clock.advance(TimeDelta::days(-2));
    it.restart();
    assert_eq!(it.store.clock_steps(), 1);
    assert_eq!(it.used().await, 900);
}
