//! What happens when Redis loses writes that it acknowledged (docs/DURABILITY.md, "When Redis forgets").
//!
//! # What is kept
//!
//! Redis holds each pool's record as a PN-counter ([`pn_counter`]): a component for each replica, with the
//! sequence number (`seq`) of that replica's last write and what it counted. The pool's counters are the sums.
//! External usage is one more component, under a number that no replica has: a last-writer-wins register, whose seq is
//! the time of its write. It is in no sum.
//! Each replica keeps a snapshot of the record that its last write left ([`snapshots`]).
//!
//! # How a loss is found
//!
//! With each decision the replica sends the seq of its snapshot. If Redis' record has an older one, the script
//! writes nothing and answers `stale`. All that the replica knew about others is older than its own last write,
//! so Redis can't lose it without losing that write. Each probe also starts an audit: a decision without
//! operations for the organizations that this replica wrote to last, and for some others in turn.
//!
//! # How it is recovered
//!
//! The replica sends its snapshots whole, and the script merges them: per replica, the component with the higher
//! seq wins. So replicas may recover in any order, and none loses what another recovered. Request ids, usage rows
//! and held tokens are not recovered; reservations that predate a recovery no longer lower a counter
//! (recovery.lua).

pub mod pn_counter;
pub(crate) mod snapshots;
