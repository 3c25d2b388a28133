//! Bodies that have no estimate, and what is said of them.

use tollgate::estimate::{Endpoint, estimate};

use super::{CAPACITY, covers, of};

/// Wrong bodies of an endpoint, and their errors.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "chat",
        r#"{"messages":[],"service_tier":1}"#,
        "body: service_tier must be a string, and is a number",
    ),
    (
        "responses",
        r#"{"service_tier":"default","service_tier":"flex"}"#,
        "body: service_tier is given twice",
    ),
    (
        "chat",
        "",
        "body: EOF while parsing a value at line 1 column 0",
    ),
    (
        "chat",
        "{\"messages\":[\n",
        "body: EOF while parsing a list at line 2 column 0",
    ),
    (
        "chat",
        "{\"messages\":\n[}]}",
        "body: expected value at line 2 column 2",
    ),
    (
        "chat",
        "{'a':1}",
        "body: key must be a string at line 1 column 2",
    ),
    (
        "chat",
        "{\"a\":1,}",
        "body: trailing comma at line 1 column 8",
    ),
    (
        "chat",
        "{\"messages\":[]} x",
        "body: trailing characters at line 1 column 17",
    ),
    (
        "chat",
        "{\"messages\":[\"\\ud800\"]}",
        "body: unexpected end of hex escape at line 1 column 21",
    ),
    (
        "chat",
        "{\"messages\":[\"\u{1}\"]}",
        "body: control character (\\u0000-\\u001F) found while parsing a string at line 1 column 15",
    ),
    (
        "chat",
        "{\"messages\":[NaN]}",
        "body: expected value at line 1 column 14",
    ),
    (
        "chat",
        "{\"messages\":[01]}",
        "body: invalid number at line 1 column 15",
    ),
    (
        "chat",
        "{\"messages\":[1e999]}",
        "body: number out of range at line 1 column 18",
    ),
    (
        "chat",
        "\"secret\"",
        "body: must be a JSON object, and is none at line 1 column 8",
    ),
    (
        "chat",
        "[\"secret\"]",
        "body: must be a JSON object, and is none at line 1 column 0",
    ),
    ("chat", "{}", "body: messages is missing"),
    (
        "chat",
        r#"{"messages":null}"#,
        "body: messages must be a list, and is null",
    ),
    (
        "chat",
        r#"{"messages":"secret"}"#,
        "body: messages must be a list, and is a string",
    ),
    (
        "chat",
        r#"{"messages":[{},"secret"]}"#,
        "body: messages[1] must be an object, and is a string",
    ),
    (
        "chat",
        r#"{"messages":[{"content":7}]}"#,
        "body: messages[0].content must be a string or a list of parts, and is a number",
    ),
    (
        "chat",
        r#"{"messages":[{"content":["secret"]}]}"#,
        "body: messages[0].content[0] must be an object, and is a string",
    ),
    (
        "chat",
        r#"{"messages":[{"content":[{"type":7}]}]}"#,
        "body: messages[0].content[0].type must be a string, and is a number",
    ),
    (
        "chat",
        r#"{"messages":[{"content":[{"type":"text","type":"image_url"}]}]}"#,
        "body: messages[0].content[0].type is given twice",
    ),
    (
        "chat",
        r#"{"messages":[],"model":7}"#,
        "body: model must be a string, and is a number",
    ),
    (
        "chat",
        r#"{"messages":[],"model":"a","model":"b"}"#,
        "body: model is given twice",
    ),
    (
        "chat",
        r#"{"messages":[],"n":1,"n":128}"#,
        "body: n is given twice",
    ),
    (
        "chat",
        r#"{"messages":[],"n":"1"}"#,
        "body: n must be a whole number, and is a string",
    ),
    (
        "chat",
        r#"{"messages":[],"n":1.5}"#,
        "body: n must be a whole number, 0 or more",
    ),
    (
        "chat",
        r#"{"messages":[],"n":-1}"#,
        "body: n must be a whole number, 0 or more",
    ),
    (
        "chat",
        r#"{"messages":[],"n":0}"#,
        "body: n must be at least 1",
    ),
    (
        "chat",
        r#"{"messages":[],"n":1000000}"#,
        "body: n lets the request use 1000000028 tokens, at most 1000000000 are allowed",
    ),
    (
        "chat",
        r#"{"messages":[],"n":1e300}"#,
        "body: n lets the request use 18446744073709551615 tokens, at most 1000000000 are allowed",
    ),
    (
        "chat",
        r#"{"messages":[],"max_tokens":1,"max_tokens":2}"#,
        "body: max_tokens is given twice",
    ),
    (
        "chat",
        r#"{"messages":[],"max_tokens":true}"#,
        "body: max_tokens must be a whole number, and is true or false",
    ),
    (
        "chat",
        r#"{"messages":[],"max_completion_tokens":2000000000}"#,
        "body: max_completion_tokens lets the request use 2000000051 tokens, at most 1000000000 are allowed",
    ),
    (
        "chat",
        r#"{"messages":[],"tools":{}}"#,
        "body: tools must be a list, and is an object",
    ),
    (
        "chat",
        r#"{"messages":[],"tools":["secret"]}"#,
        "body: tools[0] must be an object, and is a string",
    ),
    (
        "chat",
        r#"{"messages":[],"tools":[{"type":[]}]}"#,
        "body: tools[0].type must be a string, and is a list",
    ),
    (
        "responses",
        r#"{"input":7}"#,
        "body: input must be a list, and is a number",
    ),
    (
        "responses",
        r#"{"input":[[]]}"#,
        "body: input[0] must be an object, and is a list",
    ),
    (
        "responses",
        r#"{"input":[{"type":"message","content":{}}]}"#,
        "body: input[0].content must be a string or a list of parts, and is an object",
    ),
    (
        "responses",
        r#"{"max_output_tokens":"x"}"#,
        "body: max_output_tokens must be a whole number, and is a string",
    ),
    ("embeddings", "{}", "body: input is missing"),
    (
        "embeddings",
        r#"{"input":{}}"#,
        "body: input must be a list, and is an object",
    ),
    (
        "embeddings",
        r#"{"input":[1,"secret"]}"#,
        "body: input[0] must be a string or a list of tokens, and is a number",
    ),
    (
        "embeddings",
        r#"{"input":[[1.5]]}"#,
        "body: input[0] must be a string or a list of tokens, and is a list",
    ),
    (
        "embeddings",
        r#"{"input":["secret",1]}"#,
        "body: input[1] must be a string or a list of tokens, and is a number",
    ),
    (
        "embeddings",
        r#"{"input":null}"#,
        "body: input must be a list, and is null",
    ),
    (
        "chat",
        r#"{"messages":[{},{"content":[{},{"type":7},7]},7]}"#,
        "body: messages[1].content[1].type must be a string, and is a number",
    ),
    (
        "responses",
        r#"{"input":[{"output":[7]},{"type":"function_call_output","output":[7]}]}"#,
        "body: input[1].output[0] must be an object, and is a number",
    ),
];

#[test]
fn a_wrong_body_is_an_error_that_names_the_place_and_repeats_nothing_of_the_body() {
    for (endpoint, body, wanted) in WRONG.iter().copied() {
        let endpoint = match endpoint {
            "chat" => Endpoint::ChatCompletions,
            "responses" => Endpoint::Responses,
            _ => Endpoint::Embeddings,
        };
        let error = of(endpoint, body).expect_err(body).to_string();
        assert_eq!(error, wanted, "{body}");
    }
    let error = of(Endpoint::ChatCompletions, "\u{feff}{}").expect_err("a mark");
    assert_eq!(error.to_string(), "body: expected value at line 1 column 1");
    let not_utf8 = estimate(
        Endpoint::Responses,
        b"{\"input\":\"\xff\"}",
        Some("m"),
        |_| CAPACITY,
        covers,
    );
    let error = not_utf8.expect_err("not UTF-8").to_string();
    assert_eq!(
        error,
        "body: invalid unicode code point at line 1 column 11"
    );
    let deep = format!("{{\"input\":{}", "[".repeat(1_000_000));
    let error = of(Endpoint::Responses, &deep)
        .expect_err("too deep")
        .to_string();
    assert!(
        error.starts_with("body: recursion limit exceeded at line 1 "),
        "{error}"
    );
    let long = "x".repeat(257);
    let error = estimate(
        Endpoint::Responses,
        b"{}",
        Some(&long),
        |_| CAPACITY,
        covers,
    );
    let error = error.expect_err("too long").to_string();
    assert_eq!(error, "model: is 257 bytes long, at most 256 are allowed");
}
