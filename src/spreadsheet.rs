//! CSV for spreadsheets: what a cell holds is data, and never becomes a formula. The columns of usage, which the command
//! line and the dashboard share.

/// The columns of usage, stable: of `tollgate usage --csv`, and of the dashboard's download.
pub(crate) const USAGE_COLUMNS: [&str; 11] = [
    "org",
    "day",
    "project",
    "model",
    "pool",
    "free_tokens",
    "billed_tokens",
    "free_requests",
    "billed_requests",
    "provider_free_tokens",
    "provider_billed_tokens",
];

/// Characters with which a cell may become a formula, also in the full-width forms that some spreadsheets take.
const FORMULA_MARKS: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

/// What a project used of a model on a day.
#[derive(Debug, serde::Serialize)]
pub(crate) struct UsageLine<'l> {
    pub(crate) org: &'l str,
    pub(crate) day: &'l str,
    pub(crate) project: &'l str,
    pub(crate) model: &'l str,
    pub(crate) pool: &'l str,
    pub(crate) free_tokens: u64,
    pub(crate) billed_tokens: u64,
    pub(crate) free_requests: u64,
    pub(crate) billed_requests: u64,
    /// None where the row was not compared with the provider.
    pub(crate) provider_free_tokens: Option<u64>,
    pub(crate) provider_billed_tokens: Option<u64>,
}

/// A CSV under construction. A quotation mark (`'`) is put before a formula mark with which a cell begins.
pub(crate) struct CsvTable(csv::Writer<Vec<u8>>);

impl CsvTable {
    pub(crate) fn new() -> Self {
        Self(csv::Writer::from_writer(Vec::new()))
    }

    /// # Errors
    ///
    /// The row has another number of cells than the first one.
    pub(crate) fn add_row<'c>(
        &mut self,
        cells: impl IntoIterator<Item = &'c str>,
    ) -> csv::Result<()> {
        self.0.write_record(cells.into_iter().map(safe))
    }

    /// Adds a row of [`USAGE_COLUMNS`].
    ///
    /// # Errors
    ///
    /// As of [`CsvTable::add_row`].
    pub(crate) fn add_usage(&mut self, line: &UsageLine<'_>) -> csv::Result<()> {
        let known = |tokens: Option<u64>| tokens.map(|it| it.to_string()).unwrap_or_default();
        self.add_row([
            line.org,
            line.day,
            line.project,
            line.model,
            line.pool,
            &line.free_tokens.to_string(),
            &line.billed_tokens.to_string(),
            &line.free_requests.to_string(),
            &line.billed_requests.to_string(),
            &known(line.provider_free_tokens),
            &known(line.provider_billed_tokens),
        ])
    }

    /// The text. Each line ends with a line feed.
    ///
    /// # Errors
    ///
    /// None that can happen in memory.
    pub(crate) fn into_text(self) -> anyhow::Result<String> {
        Ok(String::from_utf8(self.0.into_inner()?)?)
    }
}

/// The cell without a formula. Where a semicolon separates the cells, a spreadsheet finds several in one of ours, so
/// what follows a semicolon begins a cell too.
fn safe(cell: &str) -> String {
    let mut safe = String::with_capacity(cell.len());
    let mut begins = true;
    for c in cell.chars() {
        if begins && FORMULA_MARKS.contains(&c) {
            safe.push('\'');
        }
        safe.push(c);
        begins = c == ';';
    }
    safe
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn no_cell_begins_with_a_formula_and_every_other_one_is_unchanged() {
        for (cell, expected) in [
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(1)", "'@SUM(1)"),
            ("\t=1", "'\t=1"),
            ("\r=1", "'\r=1"),
            ("＝1", "'＝1"),
            ("p;=1", "p;'=1"),
            (";;@a", ";;'@a"),
            ("", ""),
            ("a=b-c+d@e", "a=b-c+d@e"),
            ("lost 20; late 1", "lost 20; late 1"),
            ("'=1", "'=1"),
        ] {
            assert_eq!(safe(cell), expected);
        }
    }

    #[test]
    fn a_cell_with_quotes_or_separators_is_read_back_as_one() {
        let row = ["p,q", "\"=1", "line\nfeed", ""];
        let mut table = CsvTable::new();
        table.add_row(row).unwrap();
        let text = table.into_text().unwrap();
        let mut reader = csv::ReaderBuilder::new();
        let mut reader = reader.has_headers(false).from_reader(text.as_bytes());
        let read = reader.records().next().unwrap().unwrap();
        assert_eq!(read.iter().collect::<Vec<_>>(), row);
    }
}
