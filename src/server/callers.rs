//! Who is let in, from the start on.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use chrono::Utc;
use tokio::task::spawn_blocking;

use crate::{
    auth::{Authenticator, CallerSet, Callers, PortSecurity},
    files::{
        read::{ReadError, read_file},
        watched::{FileWatcher, ReloadSignal},
    },
    settings::Settings,
    telemetry::metrics::{Metrics, WatchedFile},
};

/// Reads the callers file, where there is one.
///
/// # Errors
///
/// It can't be read, or has faults.
pub(super) fn load(settings: &Settings) -> anyhow::Result<Option<Callers>> {
    let Some(path) = &settings.callers else {
        return Ok(None);
    };
    let name = path.display();
    let text = read_file(path, MAX_BYTES)
        .with_context(|| format!("the callers file {name} can't be read"))?;
    let callers = parse(path, &text);
    let callers = callers.with_context(|| format!("the callers file {name} is refused"))?;
    Ok(Some(callers))
}

/// Of far more callers than anybody has.
const MAX_BYTES: u64 = 8 << 20;

fn parse(path: &Path, text: &[u8]) -> anyhow::Result<Callers> {
    let text = std::str::from_utf8(text).context("it is not UTF-8")?;
    Ok(Callers::parse(&path.display().to_string(), text)?)
}

/// Follows the callers file: what is valid is in force from the next call on, of anything else the faults are
/// logged, the metrics tell of it, and the callers before stay. Has no end.
pub(super) async fn follow(
    path: PathBuf,
    caller_set: Arc<CallerSet>,
    reload: ReloadSignal,
    metrics: Metrics,
) {
    let mut watch = FileWatcher::new([path.clone()], &reload);
    // What was judged last: the same is not judged, nor told, again.
    let mut judged = Err(String::new());
    loop {
        watch.changed().await;
        let read = spawn_blocking({
            let path = path.clone();
            move || read_file(&path, MAX_BYTES)
        });
        let Ok(read) = read.await else { return };
        let text = match read {
            // It is told again when it is left alone.
            Err(ReadError::Unstable) => continue,
            Err(error) => Err(error.to_string()),
            Ok(text) => Ok(text),
        };
        if judged == text {
            continue;
        }
        let taken = match &text {
            Ok(text) => {
                let callers = parse(&path, text);
                callers.and_then(|callers| Ok(caller_set.replace(callers).map(|_| ())?))
            }
            Err(error) => Err(anyhow::anyhow!("{error}")),
        };
        let refused_at = taken.is_err().then(Utc::now);
        metrics.file_refused(WatchedFile::Callers, refused_at);
        if let Err(error) = taken {
            let (callers, error) = (path.display(), format!("{error:#}"));
            tracing::error!(%callers, error, "the callers file is not taken: the callers before stay");
        }
        judged = text;
    }
}

/// Lets these callers in, or everyone, which is said where others than this machine reach a port.
///
/// # Errors
///
/// The callers have tokens, which the gRPC port can't take.
pub(super) fn of(
    callers: Option<Callers>,
    grpc: PortSecurity,
    http: PortSecurity,
) -> anyhow::Result<Authenticator> {
    let Some(callers) = callers else {
        if !(grpc.loopback && http.loopback) {
            tracing::warn!(
                "there is no callers file, and a port is not on loopback: whoever reaches the gRPC port may \
                 reserve, settle and release for any organization, and whoever reaches the HTTP port may \
                 read quotas; name the callers with --callers FILE"
            );
        }
        return Ok(Authenticator::Everyone);
    };
    let count = callers.iter().len();
    let caller_set = CallerSet::new(callers, grpc).context("the callers file is refused")?;
    tracing::info!(callers = count, "only known callers are answered");
    Ok(Authenticator::Callers(Arc::new(caller_set)))
}
