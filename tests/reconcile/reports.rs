//! The provider's reports: pages of its API, and the dashboard's CSV.

use serde_json::{Value, json};
use tollgate::reconcile::{ReportFault, UsageReport};

use super::{DAY, FREE, NEXT_DAY, bucket, page};

const GPT_4O: &str = "gpt-4o-2024-08-06";
const HEADER: &str = "start_time,end_time,start_time_iso,project_id,num_model_requests,user_id,model,batch,service_tier,\
                      input_tokens,output_tokens,input_cached_tokens";

fn read(text: &str) -> Result<UsageReport, ReportFault> {
    UsageReport::from_bytes(text.as_bytes())
}

/// All tokens of a report, and its days.
fn sum(text: &str) -> (u64, Vec<String>) {
    let report = read(text).unwrap();
    let days = report.days.iter().map(ToString::to_string).collect();
    (report.rows.iter().map(|row| row.tokens).sum(), days)
}

fn fault(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

#[test]
fn a_page_an_array_of_pages_and_json_lines_are_read_alike() {
    let first = page(&[bucket(DAY, &[("p", GPT_4O, FREE, 100)])]);
    let second = page(&[bucket(NEXT_DAY, &[("p", GPT_4O, "default", 20)])]);
    let both = (120, vec![DAY.to_owned(), NEXT_DAY.to_owned()]);
    assert_eq!(sum(&first.to_string()), (100, vec![DAY.to_owned()]));
    assert_eq!(sum(&json!([first, second]).to_string()), both);
    assert_eq!(sum(&format!("{first}\n{second}\n")), both);
    assert_eq!(sum(&format!("\u{feff}  {first:#}\n\n{second:#}")), both);
    // Buckets in the place of pages.
    let buckets = [&first["data"][0], &second["data"][0]];
    assert_eq!(sum(&json!(buckets).to_string()), both);
    assert_eq!(sum(&format!("{}\n{}", buckets[0], buckets[1])), both);
}

#[test]
fn input_and_output_count_once_and_cached_input_is_in_the_input() {
    let result = json!({
        "object": "organization.usage.completions.result", "input_tokens": 5000, "output_tokens": 1000,
        "num_model_requests": 5, "input_cached_tokens": 1800, "input_audio_tokens": 3, "project_id": null,
        "model": GPT_4O, "batch": null, "service_tier": null,
    });
    let mut page = page(&[bucket(DAY, &[])]);
    page["data"][0]["results"] = json!([result]);
    let report = read(&page.to_string()).unwrap();
    let row = &report.rows[0];
    assert_eq!((row.tokens, row.requests, row.batch), (6_000, 5, false));
    assert_eq!((&row.project, &row.tier), (&None, &None));
}

/// The fault of a page in which something has another value.
fn fault_with(pointer: &str, value: Value) -> String {
    let mut page = page(&[bucket(DAY, &[("p", GPT_4O, FREE, 100)])]);
    *page.pointer_mut(pointer).unwrap() = value;
    fault(&page.to_string())
}

#[test]
fn a_wrong_type_is_a_fault_with_its_page_bucket_and_field() {
    for (pointer, value, wanted) in [
        ("data", json!(null), "page 1: data: is missing"),
        ("data", json!({}), "page 1: data: is an object, not a list"),
        (
            "has_more",
            json!("no"),
            "page 1: has_more: is a text, not true or false",
        ),
        (
            "data/0",
            json!(7),
            "page 1, bucket 1: is the number 7, not an object",
        ),
        (
            "data/0/start_time",
            json!("x"),
            "page 1, bucket 1: start_time: is a text, not a whole number",
        ),
        (
            "data/0/end_time",
            json!(0),
            "page 1, bucket 1: start_time: is not before end_time",
        ),
        (
            "data/0/start_time",
            json!(1_795_000_000),
            "page 1, bucket 1: start_time: begins a bucket of more than one UTC day",
        ),
        (
            "data/0/results",
            json!(null),
            "page 1, bucket 1: results: is missing",
        ),
    ] {
        assert_eq!(fault_with(&format!("/{pointer}"), value), wanted);
    }
}

#[test]
fn a_fault_in_a_result_names_it_too() {
    for (field, value, wanted) in [
        (
            "output_tokens",
            json!(1.5),
            "is the number 1.5, not a whole number",
        ),
        (
            "input_tokens",
            json!(u64::MAX),
            "with the output is more than 2^53 - 1",
        ),
        ("num_model_requests", json!(null), "is missing"),
        ("model", json!(7), "is the number 7, not a text"),
        ("model", json!("a\nb"), "holds a control character"),
        (
            "model",
            json!(null),
            "is missing: the report must be grouped by model",
        ),
        ("batch", json!("false"), "is a text, not true or false"),
    ] {
        let found = fault_with(&format!("/data/0/results/0/{field}"), value);
        assert_eq!(
            found,
            format!("page 1, bucket 1, result 1: {field}: {wanted}")
        );
    }
}

#[test]
fn what_is_cut_or_stands_twice_is_not_compared() {
    let mut first = page(&[bucket(DAY, &[("p", GPT_4O, FREE, 100)])]);
    let twice = format!("{first}\n{first}");
    let wanted = "page 2, bucket 1, result 1: stands twice in the report: the same bucket, project, model and tier";
    assert_eq!(fault(&twice), wanted);
    first["has_more"] = json!(true);
    assert_eq!(
        fault(&first.to_string()),
        "page 1: next_page: is missing, and there is more"
    );
    first["next_page"] = json!("page_A");
    for missing in [None, Some(Value::Null)] {
        let mut page = first.clone();
        match missing {
            Some(null) => page["has_more"] = null,
            None => _ = page.as_object_mut().unwrap().remove("has_more"),
        }
        assert_eq!(fault(&page.to_string()), "page 1: has_more: is missing");
    }
    let wanted = "page 1: has_more: the provider has more pages, and the file ends here";
    assert_eq!(fault(&first.to_string()), wanted);
    let second = page(&[bucket(NEXT_DAY, &[])]);
    assert_eq!(sum(&format!("{first}\n{second}")).0, 100);
    let cut = &first.to_string()[..50];
    assert!(
        fault(cut).starts_with("the report: EOF while parsing"),
        "{}",
        fault(cut)
    );
    assert_eq!(fault("  \n"), "the report: is empty");
    // Two days in one bucket can't be compared by day.
    let mut wide = bucket(DAY, &[]);
    wide["end_time"] = json!(wide["end_time"].as_i64().unwrap() + 1);
    let wanted = "page 1, bucket 1: start_time: begins a bucket of more than one UTC day";
    assert_eq!(fault(&page(&[wide]).to_string()), wanted);
}

#[test]
fn more_tokens_than_can_be_added_up_are_a_fault() {
    let most = (1 << 53) - 1;
    let whole = page(&[bucket(DAY, &[("p", GPT_4O, FREE, most)])]).to_string();
    assert_eq!(sum(&whole).0, most);
    let more = page(&[bucket(NEXT_DAY, &[("p", GPT_4O, FREE, 1)])]);
    let wanted = "the report: a counter would pass 2^53 - 1";
    assert_eq!(fault(&format!("{whole}\n{more}")), wanted);
}

#[test]
fn unknown_objects_and_fields_are_ignored() {
    let mut page = page(&[bucket(DAY, &[("p", GPT_4O, FREE, 100)])]);
    page["extra"] = json!(1);
    let data: &mut Vec<Value> = page["data"].as_array_mut().unwrap();
    data.push(json!({ "object": "notice", "start_time": "soon" }));
    data[0]["results"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "object": "organization.usage.images.result" }));
    assert_eq!(
        sum(&format!("{page}\n{{\"object\":\"list\"}}")),
        (100, vec![DAY.to_owned()])
    );
}

#[test]
fn the_dashboards_csv_is_read_with_its_empty_days() {
    let (start, next) = (1_795_046_400, 1_795_132_800);
    let end = next + 86_400;
    let text = format!(
        "\u{feff}{HEADER}\r\n{start},{next},x,proj_p,2,,\"{GPT_4O}\",False,{FREE},90,10,50\r\n\
         {start},{next},x,proj_p,1,,{GPT_4O},true,default,5,0,\r\n{next},{end},x,,,,,,,,,\r\n"
    );
    let report = read(&text).unwrap();
    assert_eq!(sum(&text), (105, vec![DAY.to_owned(), NEXT_DAY.to_owned()]));
    let rows: Vec<_> = report
        .rows
        .iter()
        .map(|row| (row.tier.as_deref(), row.batch, row.requests))
        .collect();
    assert_eq!(rows, [(Some(FREE), false, 2), (Some("default"), true, 1)]);
    assert!(
        report
            .rows
            .iter()
            .all(|row| row.project.as_deref() == Some("proj_p"))
    );
    for (line, wanted) in [
        (
            format!("{start},{next},x,p,1,,m,,,1.0,2,"),
            "line 2: input_tokens: is not a whole number",
        ),
        (
            format!("{start},{next},x,p,1,,m,,,+1,2,"),
            "line 2: input_tokens: is not a whole number",
        ),
        (
            format!("{start},{next},x,p,1,,m,,,,2,"),
            "line 2: input_tokens: is missing",
        ),
        (
            format!("{start},{next},x,p,1,,m,maybe,,1,2,"),
            "line 2: batch: is not true or false",
        ),
        (
            format!("{start},{next},x,p,1,,,,,1,2,"),
            "line 2: model: is missing: the report must be grouped by model",
        ),
        (
            format!("{start},{end},x,p,1,,m,,,1,2,"),
            "line 2: start_time: begins a bucket of more than one UTC day",
        ),
    ] {
        assert_eq!(fault(&format!("{HEADER}\n{line}\n")), wanted);
    }
    assert!(fault(&format!("{HEADER}\n1,2\n")).starts_with("the CSV: "));
    let wanted =
        "line 1: must have a column end_time, once: neither pages of the usage API nor its CSV";
    assert_eq!(fault("start_time,model\n"), wanted);
}

#[test]
fn a_bucket_after_the_year_9999_is_a_fault() {
    let seconds = |day: &str| {
        day.parse::<chrono::NaiveDate>()
            .unwrap()
            .and_time(chrono::NaiveTime::MIN)
            .and_utc()
            .timestamp()
    };
    let bucket = |start: i64, end: i64| page(&[super::bucket_at(start, end, &[])]).to_string();
    let end = seconds("+10000-01-01");
    assert_eq!(sum(&bucket(end - 86_400, end)).1, ["9999-12-31"]);
    let last = seconds("+262142-12-31");
    for start in [end, last] {
        let wanted = "page 1, bucket 1: start_time: is after the year 9999";
        assert_eq!(fault(&bucket(start, start + 3_600)), wanted);
    }
}
