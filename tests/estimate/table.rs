//! What an estimate counts, body by body.

use tollgate::{
    domain::{ModelCapacity, ModelName, Tokens, Workload},
    estimate::{Endpoint, Estimate, EstimateBasis, EstimateError, estimate, estimate_partial},
};

use super::{CAPACITY, REQUEST_TOKENS, covers, estimate_of, of};

fn chat(body: &str) -> Estimate {
    of(Endpoint::ChatCompletions, body).unwrap_or_else(|error| panic!("{body}: {error}"))
}

fn responses(body: &str) -> Estimate {
    of(Endpoint::Responses, body).unwrap_or_else(|error| panic!("{body}: {error}"))
}

#[test]
fn the_endpoint_is_the_end_of_the_path() {
    let long = format!("/{}", "é".repeat(500));
    for (path, wanted) in [
        ("/v1/chat/completions", Some(Endpoint::ChatCompletions)),
        (
            "/openai/deployments/x/chat/completions?api-version=1",
            Some(Endpoint::ChatCompletions),
        ),
        ("/v1/responses/", Some(Endpoint::Responses)),
        ("/v1/responses/?x=/embeddings", Some(Endpoint::Responses)),
        ("https://h/api/embeddings?a=b?c", Some(Endpoint::Embeddings)),
        ("/v1/responses/resp_1", None),
        ("/v1/responses/compact", None),
        ("/v1/completions", None),
        ("/v1/models?x=/chat/completions", None),
        ("/v1/Chat/Completions", None),
        ("responses", None),
        ("", None),
        (&long, None),
    ] {
        let endpoint = Endpoint::of_path(path);
        assert_eq!(endpoint.as_ref().ok(), wanted.as_ref(), "{path}");
        if let Err(error) = endpoint {
            assert!(error.to_string().starts_with("path: \""), "{error}");
            assert!(error.to_string().len() < 1_000, "{error}");
        }
    }
}

/// Bodies, and what they count as input beside the 16 tokens of every request.
const INPUTS: &[(&str, u64)] = &[
    (r#"{"messages":[]}"#, 0),
    // 8 of the message, 4 of the role, 2 of the text.
    (r#"{"messages":[{"role":"user","content":"hi"}]}"#, 14),
    // White space between values does not count, that within a text does.
    (
        " {\n\"messages\" : [ {\"role\": \"user\", \"content\": \" hi \"} ] } \n",
        16,
    ),
    // Escapes count as what they stand for.
    (
        r#"{"messages":[{"role":"user","content":"\u4f60\ud83d\ude00\n"}]}"#,
        20,
    ),
    (
        "{\"messages\":[{\"role\":\"user\",\"content\":\"你😀\\n\"}]}",
        20,
    ),
    // A part: 4 of its type, 2 of its text.
    (
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]}"#,
        18,
    ),
    (r#"{"messages":[{"role":"assistant","content":null}]}"#, 17),
    // "name":"ab", as JSON with its comma.
    (r#"{"messages":[{"role":"user","name":"ab"}]}"#, 24),
    (
        r#"{"messages":[{"role":"assistant","tool_calls":[{"id":"x"}]}]}"#,
        8 + 9 + 26 + 2,
    ),
    (
        r#"{"messages":[],"response_format":{"type":"json_object"}}"#,
        42,
    ),
    (
        r#"{"messages":[],"tools":[{"type":"function","name":"f"}]}"#,
        40,
    ),
    (r#"{"messages":[],"user":"a\"b"}"#, 14),
    (r#"{"messages":[],"seed":12345}"#, 13),
    (r#"{"messages":[],"seed":1}"#, 9),
    (r#"{"messages":[],"seed":0}"#, 9),
    (r#"{"messages":[],"seed":-1}"#, 8 + 24),
    // A number of 30 digits.
    (
        r#"{"messages":[],"seed":100000000000000000000000000000}"#,
        8 + 30,
    ),
    (
        r#"{"messages":[],"user":"100000000000000000000000000000","x":1.5}"#,
        40 + 5 + 24,
    ),
    // Given twice, both count.
    (
        r#"{"messages":[{"content":"hi","content":"ho"}],"messages":[{"content":"he"}]}"#,
        8 + 4 + 8 + 2,
    ),
    // A data URL in a text is text.
    (
        r#"{"messages":[{"role":"user","content":"data:image/png;base64,AAAA"}]}"#,
        38,
    ),
    (
        r#"{"model":"m","messages":[],"n":2,"max_tokens":5}"#,
        6 + 15,
    ),
];

#[test]
fn the_input_is_the_bytes_of_the_text_and_of_the_other_fields_as_json() {
    for (body, wanted) in INPUTS {
        let (wanted, estimate) = (*wanted, chat(body));
        let input = estimate.input_tokens - REQUEST_TOKENS;
        // JSON's last comma is counted: once for each list and object.
        assert!(
            (wanted..=wanted + 3).contains(&input),
            "{body}: {input}, not {wanted}"
        );
        assert_eq!(estimate.basis, EstimateBasis::TextBytes, "{body}");
    }
}

/// Fields of a body, what they let the output be, and whether they state a maximum.
const OUTPUTS: &[(Endpoint, &str, u64, bool)] = &[
    (Endpoint::ChatCompletions, "", 1_000, false),
    (Endpoint::ChatCompletions, r#","max_tokens":5"#, 5, true),
    (
        Endpoint::ChatCompletions,
        r#","max_completion_tokens":7.0"#,
        7,
        true,
    ),
    (
        Endpoint::ChatCompletions,
        r#","max_completion_tokens":7e1"#,
        70,
        true,
    ),
    (
        Endpoint::ChatCompletions,
        r#","max_tokens":9,"max_completion_tokens":7"#,
        9,
        true,
    ),
    (
        Endpoint::ChatCompletions,
        r#","max_tokens":null,"max_completion_tokens":7"#,
        7,
        true,
    ),
    (
        Endpoint::ChatCompletions,
        r#","max_tokens":null"#,
        1_000,
        false,
    ),
    (
        Endpoint::ChatCompletions,
        r#","max_tokens":50000"#,
        50_000,
        true,
    ),
    // A field of the other endpoint states nothing.
    (
        Endpoint::ChatCompletions,
        r#","max_output_tokens":5"#,
        1_000,
        false,
    ),
    (Endpoint::ChatCompletions, r#","n":3"#, 3_000, false),
    (
        Endpoint::ChatCompletions,
        r#","n":3,"max_tokens":5"#,
        15,
        true,
    ),
    (Endpoint::ChatCompletions, r#","n":null"#, 1_000, false),
    (Endpoint::Responses, "", 1_000, false),
    (Endpoint::Responses, r#","max_output_tokens":5"#, 5, true),
    (
        Endpoint::Responses,
        r#","max_tokens":5,"n":3"#,
        1_000,
        false,
    ),
    (Endpoint::Embeddings, "", 0, false),
    (Endpoint::Embeddings, r#","max_tokens":5,"n":3"#, 0, false),
];

#[test]
fn the_output_is_the_stated_maximum_or_the_models_for_each_answer() {
    for (endpoint, fields, wanted, capped) in OUTPUTS.iter().copied() {
        let body = format!(r#"{{"messages":[],"input":[]{fields}}}"#);
        let estimate = of(endpoint, &body).expect("an estimate");
        let found = (estimate.output_tokens, estimate.output_capped);
        assert_eq!(found, (wanted, capped), "{endpoint:?} {body}");
        let sum = estimate.input_tokens + estimate.output_tokens;
        assert_eq!(estimate.tokens.get(), sum);
    }
}

#[test]
fn an_image_counts_by_the_model_and_its_url_does_not() {
    let message = |parts: &str| chat(&format!(r#"{{"messages":[{{"content":[{parts}]}}]}}"#));
    let none = message("").input_tokens;
    for url in [
        format!("data:image/png;base64,{}", "A".repeat(5_000)),
        "https://h/i".to_owned(),
    ] {
        for image in [
            format!(r#"{{"type":"image_url","image_url":{{"url":"{url}","detail":"low"}}}}"#),
            format!(r#"{{"image_url":"{url}","type":"image_url"}}"#),
            format!(r#"{{"type":"input_image","image_url":"{url}"}}"#),
        ] {
            let of_type = 11;
            let one = message(&image).input_tokens;
            assert!((none + 700..=none + 700 + of_type).contains(&one), "{one}");
            let two = message(&format!("{image},{image}")).input_tokens;
            assert_eq!(two - one, one - none);
            // Also in what a tool has answered.
            let output =
                format!(r#"{{"input":[{{"type":"function_call_output","output":[{image}]}}]}}"#);
            let estimate = responses(&output);
            assert!((700..800).contains(&estimate.input_tokens), "{estimate:?}");
        }
    }
    // Beside the context window: some models bill more for an image than it takes of it.
    let many = vec![r#"{"type":"image_url","image_url":"x"}"#; 20].join(",");
    let text = format!(r#"{{"type":"text","text":"{}"}}"#, "x".repeat(20_000));
    let estimate = message(&format!("{many},{text}"));
    assert_eq!(estimate.input_tokens, 10_000 + 20 * 700);
    assert_eq!(estimate.basis, EstimateBasis::TextBytes);
}

#[test]
fn text_beyond_the_context_window_counts_as_the_window() {
    let body = format!(r#"{{"messages":[{{"content":"{}"}}]}}"#, "x".repeat(20_000));
    let estimate = chat(&body);
    assert_eq!(
        (estimate.input_tokens, estimate.tokens.get()),
        (10_000, 11_000)
    );
    // An unknown model's.
    let long = body.replace('x', &"x".repeat(24));
    let unknown = |_: &str| ModelCapacity::default();
    let found = estimate_of(Endpoint::ChatCompletions, long.as_bytes(), unknown);
    assert_eq!(found.expect("an estimate").tokens.get(), 300_000);
}

/// Bodies that stand for more than they hold.
const UNBOUNDED: &[(&str, Workload)] = &[
    (r#"{"previous_response_id":"r"}"#, Workload::Inference),
    (r#"{"conversation":{"id":"c"}}"#, Workload::Inference),
    (r#"{"prompt":{"id":"p"}}"#, Workload::HostedTool),
    (
        r#"{"input":[{"type":"item_reference","id":"i"}]}"#,
        Workload::Inference,
    ),
    (
        r#"{"input":[{"type":"reasoning","id":"rs_1","summary":[]}]}"#,
        Workload::Inference,
    ),
    (
        r#"{"input":[{"type":"reasoning","id":"rs_1","encrypted_content":null}]}"#,
        Workload::Inference,
    ),
    (r#"{"input":[{"id":"i"}]}"#, Workload::Inference),
    (r#"{"input":[{"id":"i","type":null}]}"#, Workload::Inference),
    (
        r#"{"input":[{"type":"compaction","encrypted_content":"x"}]}"#,
        Workload::Inference,
    ),
    (
        r#"{"input":[{"type":"web_search_call","id":"i"}]}"#,
        Workload::Inference,
    ),
    (
        r#"{"input":[{"type":"computer_call_output","output":{"type":"x"}}]}"#,
        Workload::Inference,
    ),
    (
        r#"{"input":[{"role":"user","content":[{"type":"input_file","file_id":"f"}]}]}"#,
        Workload::Inference,
    ),
    (
        r#"{"input":[{"role":"user","content":[{"type":"input_file","file_url":"f"}]}]}"#,
        Workload::Inference,
    ),
    (
        r#"{"input":[{"role":"user","content":[{"type":"input_file","file_data":"f"}]}]}"#,
        Workload::Inference,
    ),
    (
        r#"{"input":[{"role":"user","content":[{"type":"anything_new"}]}]}"#,
        Workload::Inference,
    ),
    (
        r#"{"input":[{"role":"user","content":[{"text":"no type"}]}]}"#,
        Workload::Inference,
    ),
    (r#"{"tools":[{"type":"web_search"}]}"#, Workload::HostedTool),
    (
        r#"{"tools":[{"type":"function"},{"type":"mcp"}]}"#,
        Workload::HostedTool,
    ),
    (r#"{"tools":[{"name":"no type"}]}"#, Workload::HostedTool),
    (r#"{"web_search_options":{}}"#, Workload::HostedTool),
];

#[test]
fn references_and_hosted_tools_count_as_the_context_window() {
    for (body, workload) in UNBOUNDED.iter().copied() {
        let estimate = responses(body);
        assert_eq!(estimate.basis, EstimateBasis::ContextWindow, "{body}");
        assert_eq!(
            (estimate.input_tokens, estimate.workload),
            (10_000, workload),
            "{body}"
        );
    }
    let image = r#"{"input":[{"role":"user","content":[{"type":"input_image","file_id":"f"}]}]}"#;
    assert_eq!(responses(image).input_tokens, 10_700);
    for part in [
        r#""content":[{"type":"file","file":{"file_id":"f"}}]"#,
        r#""audio":{"id":"a"}"#,
    ] {
        let body = format!(r#"{{"messages":[{{"role":"assistant",{part}}}]}}"#);
        assert_eq!(chat(&body).basis, EstimateBasis::ContextWindow, "{body}");
    }
    for body in [
        r#"{"previous_response_id":null,"conversation":null,"prompt":null,"tools":null,"input":"x"}"#,
        r#"{"web_search_options":null,"tools":[],"functions":[],"service_tier":"auto"}"#,
        r#"{"input":[{"type":"message","role":"user","content":"x"},{"role":"user","content":"x"}]}"#,
        r#"{"input":[{"type":"reasoning","encrypted_content":"x","summary":[{"type":"summary_text","text":"x"}]}]}"#,
        r#"{"input":[{"type":"reasoning","summary":[],"content":[{"type":"reasoning_text","text":"x"}]}]}"#,
        r#"{"input":[{"type":"function_call","arguments":"x"},{"type":"function_call_output","output":"x"}]}"#,
    ] {
        let estimate = responses(body);
        assert_eq!(estimate.basis, EstimateBasis::TextBytes, "{body}");
        assert_eq!(estimate.workload, Workload::Inference, "{body}");
    }
    let audio =
        r#"{"messages":[{"content":[{"type":"input_audio","input_audio":{"data":"AAAA"}}]}]}"#;
    assert_eq!(chat(audio).basis, EstimateBasis::TextBytes);
}

#[test]
fn tools_of_the_client_and_the_service_tier_are_workloads_of_their_own() {
    use Workload::{Flex, FunctionCalling, HostedTool, Inference, Priority};
    for (body, workload, basis) in [
        (
            r#"{"tools":[{"type":"function"}]}"#,
            FunctionCalling,
            EstimateBasis::TextBytes,
        ),
        (
            r#"{"tools":[{"type":"custom"}]}"#,
            FunctionCalling,
            EstimateBasis::TextBytes,
        ),
        (
            r#"{"functions":[{"name":"f"}]}"#,
            FunctionCalling,
            EstimateBasis::TextBytes,
        ),
        (r#"{"service_tier":"flex"}"#, Flex, EstimateBasis::TextBytes),
        (
            r#"{"service_tier":"priority"}"#,
            Priority,
            EstimateBasis::TextBytes,
        ),
        (
            r#"{"service_tier":"default"}"#,
            Inference,
            EstimateBasis::TextBytes,
        ),
        (
            r#"{"service_tier":null}"#,
            Inference,
            EstimateBasis::TextBytes,
        ),
        (
            r#"{"service_tier":"flex","tools":[{"type":"function"},{"type":"mcp"}]}"#,
            HostedTool,
            EstimateBasis::ContextWindow,
        ),
    ] {
        let estimate = responses(body);
        assert_eq!(
            (estimate.workload, estimate.basis),
            (workload, basis),
            "{body}"
        );
    }
}

/// Otherwise a request could be FREE though the policy bills one of its workloads.
#[test]
fn of_several_workloads_the_first_one_that_is_not_covered_is_named() {
    use Workload::{Flex, FunctionCalling, HostedTool};
    let body = br#"{"service_tier":"flex","tools":[{"type":"function"},{"type":"mcp"}]}"#;
    for (covered, wanted) in [
        (&[][..], HostedTool),
        (&[FunctionCalling, Flex], HostedTool),
        (&[HostedTool], FunctionCalling),
        (&[HostedTool, Flex], FunctionCalling),
        (&[HostedTool, FunctionCalling], Flex),
        (&[HostedTool, FunctionCalling, Flex], HostedTool),
    ] {
        let covers = |workload| covered.contains(&workload);
        let endpoint = Endpoint::Responses;
        let whole = estimate(endpoint, body, Some("m"), |_| CAPACITY, covers).unwrap();
        assert_eq!(whole.workload, wanted, "{covered:?}");
        let part = estimate_partial(endpoint, body, Some("m"), |_| CAPACITY, covers).unwrap();
        assert_eq!(part.workload, wanted, "{covered:?}");
    }
}

#[test]
fn each_input_of_an_embedding_has_the_context_window() {
    let text = "x".repeat(15_000);
    for (input, wanted) in [
        ("\"hi\"".to_owned(), 2),
        ("[\"hi\",\"ho\"]".to_owned(), 4),
        ("[1,2,3]".to_owned(), 3),
        ("[[1,2,3],[4]]".to_owned(), 4),
        ("[]".to_owned(), 0),
        // Given twice.
        ("[\"hi\"],\"input\":[1]".to_owned(), 3),
        (
            format!("\"{text}\",\"input\":\"{text}\""),
            20_000 - REQUEST_TOKENS,
        ),
        (format!("\"{text}\""), 10_000 - REQUEST_TOKENS),
        (
            format!("[\"{text}\",\"{text}\",\"{text}\"]"),
            30_000 - REQUEST_TOKENS,
        ),
    ] {
        let body = format!(r#"{{"input":{input}}}"#);
        let estimate = of(Endpoint::Embeddings, &body).expect("an estimate");
        assert_eq!(estimate.input_tokens, wanted + REQUEST_TOKENS, "{wanted}");
        assert_eq!((estimate.output_tokens, estimate.output_capped), (0, false));
    }
}

#[test]
fn the_callers_model_takes_the_place_of_the_bodys() {
    let of = |body: &str, model| {
        let capacity = |model: &str| ModelCapacity {
            max_output: model.len() as u64,
            ..CAPACITY
        };
        let estimate = estimate(
            Endpoint::Responses,
            body.as_bytes(),
            model,
            capacity,
            covers,
        )?;
        Ok((estimate.model.as_str().to_owned(), estimate.output_tokens))
    };
    let found = |model: &str| Ok((model.to_owned(), model.len() as u64));
    assert_eq!(of(r#"{"model":"gpt"}"#, None), found("gpt"));
    assert_eq!(of(r#"{"mod\u0065l":"g\u0070t"}"#, None), found("gpt"));
    assert_eq!(of(r#"{"model":"gpt"}"#, Some("other")), found("other"));
    assert_eq!(of("{}", Some("other")), found("other"));
    for body in ["{}", r#"{"model":null}"#] {
        assert_eq!(of(body, None), Err(EstimateError::ModelMissing));
    }
}

#[test]
fn a_body_that_is_cut_counts_as_the_context_window_once_its_model_was_seen() {
    let body = r#"{"n":2,"model":"gpt-\ud83d\ude00","max_tokens":5,"tools":[{"type":"mcp"}],"messages":[{"content":"é"}]}"#;
    let model_ends = body.find(",\"max").expect("there");
    for cut in 0..=body.len() {
        let prefix = &body.as_bytes()[..cut];
        let estimate = estimate_partial(
            Endpoint::ChatCompletions,
            prefix,
            None,
            |_| CAPACITY,
            covers,
        );
        if cut < model_ends {
            assert_eq!(estimate, Err(EstimateError::ModelMissing), "{cut}");
            continue;
        }
        let wanted = Estimate {
            tokens: Tokens::of_reserve(12_000).expect("legal"),
            input_tokens: 10_000,
            output_tokens: 2_000,
            basis: EstimateBasis::ContextWindow,
            model: ModelName::parse("gpt-😀").expect("legal"),
            // The rest may ask for one.
            workload: Workload::HostedTool,
            output_capped: false,
        };
        assert_eq!(estimate.expect("an estimate"), wanted, "{cut}");
    }
    let partial = |endpoint, prefix: &str| {
        let estimate = estimate_partial(endpoint, prefix.as_bytes(), None, |_| CAPACITY, covers)?;
        Ok::<_, EstimateError>((estimate.input_tokens, estimate.output_tokens))
    };
    let chat = |prefix| partial(Endpoint::ChatCompletions, prefix);
    // Digits of the last number may be missing.
    assert_eq!(chat(r#"{"model":"m","n":1"#), Ok((10_000, 1_000)));
    assert_eq!(chat(r#"{"model":"m","n":1e"#), Ok((10_000, 1_000)));
    assert_eq!(chat(r#"{"model":"m","n":12 "#), Ok((10_000, 12_000)));
    assert_eq!(chat(r#"{"model":"m","n":12,"x":"#), Ok((10_000, 12_000)));
    assert_eq!(
        chat(r#"{"model":"m","messages":[{"content":[{"type":"image_url"}]},{"#),
        Ok((10_700, 1_000))
    );
    // Each of its inputs may have the context window.
    assert!(partial(Endpoint::Embeddings, r#"{"model":"m","input":["x"#).is_err());
    let malformed = chat(r#"{"model":"m",,"#)
        .expect_err("malformed")
        .to_string();
    assert_eq!(malformed, "body: key must be a string at line 1 column 14");
}

#[test]
fn a_body_with_input_and_without_messages_is_one_for_responses() {
    for (body, wanted) in [
        (r#"{"input":"x"}"#, Endpoint::Responses),
        (r#"{"input":"x","messages":[]}"#, Endpoint::ChatCompletions),
        (r#"{"messages":[]}"#, Endpoint::ChatCompletions),
        ("{}", Endpoint::ChatCompletions),
    ] {
        assert_eq!(Endpoint::of_body(body.as_bytes()), Ok(wanted), "{body}");
    }
    assert!(Endpoint::of_body(b"[").is_err());
}
