//! Bodies in gzip.

use std::io::{self, Read as _};

use flate2::{
    Compression,
    read::{GzEncoder, MultiGzDecoder},
};

/// Decompresses at most `limit` bytes; none if there are more.
pub(super) fn decompress(packed: &[u8], limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(packed)
        .take(most)
        .read_to_end(&mut text)?;
    Ok(Some(text).filter(|text| text.len() <= limit))
}

pub(super) fn compress(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    GzEncoder::new(text, Compression::fast()).read_to_end(&mut packed)?;
    Ok(packed)
}
