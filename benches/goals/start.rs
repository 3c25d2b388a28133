//! How fast the program starts, and how large it is.

use std::{fs, time::Instant};

use anyhow::Context as _;

use super::{
    Scale, log_progress, median,
    processes::{PROGRAM, Service, file_store},
};

const NAME: &str = "start";

/// From exec to SERVING on the embedded store, and the size of the program.
pub(crate) struct Start {
    pub(crate) millis: f64,
    pub(crate) program_bytes: u64,
}

pub(crate) async fn measure(scale: &Scale) -> anyhow::Result<Option<Start>> {
    if !scale.wants(NAME) {
        return Ok(None);
    }
    log_progress(NAME);
    let mut took = Vec::new();
    for _ in 0..scale.starts {
        let (_dir, store) = file_store()?;
        let started = Instant::now();
        let _service = Service::tollgate(&store, None).await?;
        took.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Some(Start {
        millis: median(took).context("nothing was started")?,
        program_bytes: fs::metadata(PROGRAM)?.len(),
    }))
}
