//! One suite of cases, named by the rules of docs/CONTRACT.md, for every store.

mod expiry;
mod external_changes;
mod external_usage;
mod held_tokens;
mod history;
mod ids;
mod late_settles;
mod margin;
mod midnight_guard;
mod models;
mod names;
mod notices;
mod outside_program;
mod policy_change;
mod provider_usage;
mod redis_keys;
mod reserve;
mod rows;
mod settle;
mod shares;

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
        /// All cases share one cluster, so they run one after the other.
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

/// Creates the world of a case, under the policy that the case wants.
type NewWorld = fn(tollgate::policy::Policy) -> crate::support::world::World;
