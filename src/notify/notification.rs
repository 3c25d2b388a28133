//! A notification: what is logged and posted of a notice (docs/CONTRACT.md, "Notifications").

use chrono::SecondsFormat;
use percent_encoding::utf8_percent_encode;
use serde::Serialize;

use crate::{domain::ids::ENCODED, ledger::Notice};

/// The body of a notification.
#[derive(Serialize)]
struct NotificationBody<'n> {
    id: &'n str,
    org: &'n str,
    pool: &'n str,
    day: String,
    threshold: u8,
    used: u64,
    external: u64,
    allowance: u64,
    noticed_at: String,
}

/// The id `org/pool/day/threshold`: the same over all replicas and attempts, and another for each notice. The names are
/// percent-encoded, so it is ASCII.
#[must_use]
pub fn id(notice: &Notice) -> String {
    let encoded = |name| utf8_percent_encode(name, ENCODED);
    let (org, pool) = (encoded(notice.org.as_str()), encoded(notice.pool.as_str()));
    format!("{org}/{pool}/{}/{}", notice.day, notice.threshold)
}

/// The body as JSON.
pub(super) fn body(notice: &Notice) -> String {
    let body = NotificationBody {
        id: &id(notice),
        org: notice.org.as_str(),
        pool: notice.pool.as_str(),
        day: notice.day.to_string(),
        threshold: notice.threshold.per_cent(),
        used: notice.used.get(),
        external: notice.external.get(),
        allowance: notice.allowance.get(),
        noticed_at: (notice.noticed_at).to_rfc3339_opts(SecondsFormat::Millis, true),
    };
    serde_json::to_string(&body).expect("texts and numbers are JSON")
}

/// Writes the log line. A pool that is used up is a warning.
pub(super) fn log(notice: &Notice) {
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                target: "notify",
                org = %notice.org,
                pool = %notice.pool,
                day = %notice.day,
                threshold = notice.threshold.per_cent(),
                used = notice.used.get(),
                external = notice.external.get(),
                allowance = notice.allowance.get(),
                "a pool has reached a threshold"
            )
        };
    }
    if notice.threshold.per_cent() == 100 {
        log!(warn);
    } else {
        log!(info);
    }
}
