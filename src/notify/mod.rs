//! Notifications of pools that reach a threshold: deliver the ledger's notices to the log and to a webhook (docs/CONTRACT.md,
//! "Notifications").
//!
//! | module | what it has |
//! | --- | --- |
//! | [`notification`] | what is logged and posted of a notice |
//! | [`webhook`] | the receiver: one POST |
//! | `queue` | which notice is due, and how long a failure delays it; pure |
//! | [`deliveries`] | the task that delivers what is queued, and has it confirmed |

pub mod deliveries;
pub mod notification;
mod queue;
pub mod webhook;

pub use self::{
    deliveries::{Deliveries, NoticeMarks},
    webhook::{Webhook, WebhookError, WebhookUrl},
};
