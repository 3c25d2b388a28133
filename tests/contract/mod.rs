//! One suite of cases, named by the rules of docs/CONTRACT.md, that runs over every store.

mod expiry;
mod held_tokens;
mod history;
mod ids;
mod late_settles;
mod names;
mod policy_change;
mod redis_keys;
mod reserve;
mod rows;
mod settle;

/// Runs each case over every store: `async fn case(world: fn(Policy) -> World)`.
macro_rules! over_every_store {
    ($($case:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $case() { super::$case($crate::support::world::World::memory).await; })+
        }
        mod file {
            $(#[tokio::test] async fn $case() { super::$case($crate::support::world::World::file).await; })+
        }
        mod redis {
            $(#[tokio::test] async fn $case() { super::$case($crate::support::world::World::redis).await; })+
        }
        mod valkey {
            $(#[tokio::test] async fn $case() { super::$case($crate::support::world::World::valkey).await; })+
        }
        /// One after the other, over one cluster.
        mod cluster {
            #[tokio::test]
            async fn every_case() {
                let _cluster = $crate::support::world::ClusterForCases::start();
                $(
                    println!(stringify!($case));
                    super::$case($crate::support::world::World::cluster).await;
                )+
            }
        }
    };
}
use over_every_store;

/// How a case gets its world: by the policy it wants.
type NewWorld = fn(tollgate::policy::Policy) -> crate::support::world::World;
