//! The provider's usage in a file.

use super::{
    dashboard, pages,
    report::{ReportFault, UsageReport},
};

/// The size of the largest file.
pub const MAX_BYTES: u64 = 64 << 20;

impl UsageReport {
    /// Reads a file: pages of the usage API (one, an array of them, or one after the other), or the dashboard's CSV.
    ///
    /// # Errors
    ///
    /// It is neither, or is cut, or a known field is missing or has a wrong type.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReportFault> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut report = Self::default();
        match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
            None => return Err(ReportFault::new("the report", "is empty")),
            Some(b'{' | b'[') => pages::read_file(bytes, &mut report)?,
            Some(_) => dashboard::read_file(bytes, &mut report)?,
        }
        Ok(report)
    }
}
