//! Pages of the provider's usage API. Unknown objects and fields are ignored; a wrong type of a known field is a fault.

use serde_json::{Deserializer, Map, Value};

use super::report::{self, ReportFault, ReportRow, TimeBucket, UsageReport};

const RESULT: &str = "organization.usage.completions.result";

/// What the provider can group by.
const DIMENSIONS: [&str; 6] = [
    "project_id",
    "model",
    "service_tier",
    "batch",
    "user_id",
    "api_key_id",
];

/// Reads a page, an array of pages, or pages one after the other (JSON lines). A bucket may stand in a page's place.
pub(super) fn read_file(bytes: &[u8], report: &mut UsageReport) -> Result<(), ReportFault> {
    let mut next = None;
    for value in Deserializer::from_slice(bytes).into_iter::<Value>() {
        let value = value.map_err(|error| ReportFault::new("the report", error.to_string()))?;
        let pages = match value {
            Value::Array(pages) => pages,
            page => vec![page],
        };
        for page in pages {
            next = add_page(&page, report)?;
        }
    }
    match next {
        Some(_) => Err(ReportFault::new(
            format!("page {}: has_more", report.pages),
            "the provider has more pages, and the file ends here",
        )),
        None => Ok(()),
    }
}

impl UsageReport {
    /// Adds a page of the API. Returns the cursor of the next one, if there is more.
    ///
    /// # Errors
    ///
    /// A known field is missing or has a wrong type, or the page has a row that an earlier page had.
    pub fn add_page(&mut self, bytes: &[u8]) -> Result<Option<String>, ReportFault> {
        let page = serde_json::from_slice(bytes).map_err(|error| {
            let place = format!("page {}", self.pages + 1);
            ReportFault::new(place, error.to_string())
        })?;
        add_page(&page, self)
    }
}

/// Adds a page. Returns the cursor of the next one.
fn add_page(page: &Value, report: &mut UsageReport) -> Result<Option<String>, ReportFault> {
    report.pages += 1;
    let page = JsonObject::of(page, format!("page {}", report.pages))?;
    if page.is_object("bucket")? && page.object.contains_key("start_time") {
        add_bucket(&page, report)?;
        return Ok(None);
    }
    if !page.is_object("page")? {
        return Ok(None);
    }
    for (at, bucket) in page.list("data")?.iter().enumerate() {
        let bucket = JsonObject::of(bucket, format!("{}, bucket {}", page.place, at + 1))?;
        if bucket.is_object("bucket")? {
            add_bucket(&bucket, report)?;
        }
    }
    let next = page.text("next_page")?;
    // Without it, nobody knows whether this is the last page.
    let has_more = page.flag("has_more")?;
    match (
        has_more.ok_or_else(|| page.fault("has_more", "is missing"))?,
        next,
    ) {
        (false, _) => Ok(None),
        (true, Some(cursor)) => Ok(Some(cursor)),
        (true, None) => Err(page.fault("next_page", "is missing, and there is more")),
    }
}

fn add_bucket(bucket: &JsonObject<'_>, report: &mut UsageReport) -> Result<(), ReportFault> {
    let (start, end) = (bucket.number("start_time")?, bucket.number("end_time")?);
    let time = TimeBucket::new(start, end).map_err(|fault| bucket.fault("start_time", fault))?;
    report.days.insert(time.day());
    for (at, result) in bucket.list("results")?.iter().enumerate() {
        let result = JsonObject::of(result, format!("{}, result {}", bucket.place, at + 1))?;
        if result.is_object(RESULT)? {
            add_result(&result, time, report)?;
        }
    }
    Ok(())
}

fn add_result(
    result: &JsonObject<'_>,
    bucket: TimeBucket,
    report: &mut UsageReport,
) -> Result<(), ReportFault> {
    let (input, output) = (
        result.number("input_tokens")?,
        result.number("output_tokens")?,
    );
    let tokens =
        report::tokens(input, output).map_err(|fault| result.fault("input_tokens", fault))?;
    let requests = result.number("num_model_requests")?;
    let batch = result.flag("batch")?;
    let mut key = Vec::new();
    for name in DIMENSIONS {
        key.push(match name {
            "batch" => batch.map(|it| it.to_string()),
            name => result.text(name)?,
        });
    }
    let [project, model, tier] = [0, 1, 2].map(|at| key[at].clone());
    let Some(model) = model else {
        let is_empty = tokens == 0 && requests == 0;
        let fault = || result.fault("model", "is missing: the report must be grouped by model");
        return if is_empty { Ok(()) } else { Err(fault()) };
    };
    if !report.keys.insert((bucket, key)) {
        return Err(ReportFault::new(
            &result.place,
            "stands twice in the report: the same bucket, project, model and tier",
        ));
    }
    report.add_row(ReportRow {
        bucket,
        project,
        model,
        tier,
        batch: batch.unwrap_or(false),
        tokens,
        requests,
    })
}

/// An object's fields, and where it stands.
struct JsonObject<'v> {
    place: String,
    object: &'v Map<String, Value>,
}

impl<'v> JsonObject<'v> {
    fn of(value: &'v Value, place: String) -> Result<Self, ReportFault> {
        match value.as_object() {
            Some(object) => Ok(Self { place, object }),
            None => Err(ReportFault::new(
                place,
                format!("is {}, not an object", kind(value)),
            )),
        }
    }

    /// A field that is there and not null.
    fn get(&self, name: &str) -> Option<&'v Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    fn fault(&self, field: &str, fault: impl Into<String>) -> ReportFault {
        ReportFault::new(format!("{}: {field}", self.place), fault)
    }

    fn wrong(&self, field: &str, value: &Value, wanted: &str) -> ReportFault {
        self.fault(field, format!("is {}, not {wanted}", kind(value)))
    }

    /// Whether its field `object` has this name. An object without that field is taken for what is expected.
    fn is_object(&self, name: &str) -> Result<bool, ReportFault> {
        Ok(self.text("object")?.is_none_or(|it| it == name))
    }

    fn number(&self, name: &str) -> Result<u64, ReportFault> {
        let Some(value) = self.get(name) else {
            return Err(self.fault(name, "is missing"));
        };
        value
            .as_u64()
            .ok_or_else(|| self.wrong(name, value, "a whole number"))
    }

    fn text(&self, name: &str) -> Result<Option<String>, ReportFault> {
        let text = |value: &Value| match value {
            Value::String(text) => report::name(text).map_err(|fault| self.fault(name, fault)),
            other => Err(self.wrong(name, other, "a text")),
        };
        self.get(name).map(text).transpose()
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, ReportFault> {
        let flag = |value: &Value| {
            value
                .as_bool()
                .ok_or_else(|| self.wrong(name, value, "true or false"))
        };
        self.get(name).map(flag).transpose()
    }

    fn list(&self, name: &str) -> Result<&'v [Value], ReportFault> {
        match self.get(name) {
            None => Err(self.fault(name, "is missing")),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => Err(self.wrong(name, other, "a list")),
        }
    }
}

/// A value in a message. Texts may be long, and are not repeated.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "true or false".to_owned(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
