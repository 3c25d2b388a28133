//! The CSV that the provider's dashboard exports. It has the fields of the API's results as columns; others are ignored.

use csv::{ReaderBuilder, StringRecord, Trim};

use super::report::{self, ReportFault, ReportRow, TimeBucket, UsageReport};

/// Columns that must be there.
const REQUIRED: [&str; 6] = [
    "start_time",
    "end_time",
    "num_model_requests",
    "input_tokens",
    "output_tokens",
    "model",
];

pub(super) fn read_file(bytes: &[u8], report: &mut UsageReport) -> Result<(), ReportFault> {
    let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(bytes);
    let unreadable = |error: csv::Error| ReportFault::new("the CSV", error.to_string());
    let header = reader.headers().map_err(unreadable)?.clone();
    for name in REQUIRED {
        if header.iter().filter(|column| *column == name).count() != 1 {
            let fault = format!(
                "must have a column {name}, once: neither pages of the usage API nor its CSV"
            );
            return Err(ReportFault::new("line 1", fault));
        }
    }
    for record in reader.records() {
        let record = record.map_err(unreadable)?;
        let line = record.position().map_or(0, csv::Position::line);
        let place = format!("line {line}");
        add_line(
            &Line {
                place,
                header: &header,
                record,
            },
            report,
        )?;
    }
    Ok(())
}

fn add_line(line: &Line<'_>, report: &mut UsageReport) -> Result<(), ReportFault> {
    let (start, end) = (line.number("start_time")?, line.number("end_time")?);
    let bucket = TimeBucket::new(start, end).map_err(|fault| line.fault("start_time", fault))?;
    report.days.insert(bucket.day());
    let counts = ["num_model_requests", "input_tokens", "output_tokens"];
    if counts.iter().all(|name| line.get(name).is_none()) {
        // A bucket in which nothing was used.
        return Ok(());
    }
    let (input, output) = (line.number("input_tokens")?, line.number("output_tokens")?);
    let tokens =
        report::tokens(input, output).map_err(|fault| line.fault("input_tokens", fault))?;
    let requests = line.number("num_model_requests")?;
    let batch = match line.get("batch").map(str::to_ascii_lowercase).as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(line.fault("batch", "is not true or false")),
    };
    let text = |name| {
        let text = line.get(name).map(report::name).transpose();
        text.map_err(|fault| line.fault(name, fault))
    };
    let Some(model) = text("model")? else {
        let is_empty = tokens == 0 && requests == 0;
        let fault = || line.fault("model", "is missing: the report must be grouped by model");
        return if is_empty { Ok(()) } else { Err(fault()) };
    };
    report.add_row(ReportRow {
        bucket,
        project: text("project_id")?,
        model,
        tier: text("service_tier")?,
        batch,
        tokens,
        requests,
    })
}

/// A line of the file.
struct Line<'h> {
    place: String,
    header: &'h StringRecord,
    record: StringRecord,
}

impl Line<'_> {
    /// A cell that is there and not empty.
    fn get(&self, name: &str) -> Option<&str> {
        let at = self.header.iter().position(|column| column == name)?;
        self.record.get(at).filter(|text| !text.is_empty())
    }

    fn fault(&self, field: &str, fault: impl Into<String>) -> ReportFault {
        ReportFault::new(format!("{}: {field}", self.place), fault)
    }

    fn number(&self, name: &str) -> Result<u64, ReportFault> {
        let Some(text) = self.get(name) else {
            return Err(self.fault(name, "is missing"));
        };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number.ok_or_else(|| self.fault(name, "is not a whole number"))
    }
}
