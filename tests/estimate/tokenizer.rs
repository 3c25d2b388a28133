//! An estimate is never below what a real tokenizer counts (o200k, with the frame of each message).

use proptest::{collection::vec, prelude::*};
use serde_json::{Map, Value, json};
use tollgate::{
    domain::ModelCapacity,
    estimate::{Endpoint, EstimateBasis, estimate, estimate_partial},
};

use super::covers;

/// Larger than any body of the test: what is compared is the text.
const CAPACITY: ModelCapacity = ModelCapacity {
    context: 1_000_000,
    max_output: 1,
    image: 1,
};

fn tokens(text: &str) -> u64 {
    bpe_openai::o200k_base().count(text) as u64
}

/// Ordinary and hostile texts: what has many tokens for its bytes, and what JSON escapes.
fn text() -> impl Strategy<Value = String> {
    let base64 = || vec(prop::sample::select(b"ABCabc019+/".to_vec()), 0..200);
    prop_oneof![
        "[ -~]{0,80}",
        "\\PC{0,40}",
        any::<String>(),
        "[\u{0}-\u{1f}\"\\\\]{0,40}",
        "[ \t\n\r]{0,200}",
        "[\u{1f300}-\u{1faff}\u{200d}\u{fe0f}]{0,30}",
        "[\u{4e00}-\u{9fff}\u{e000}-\u{f8ff}]{0,30}",
        "[\u{300}-\u{36f}a]{0,30}",
        "[0-9]{0,100}",
        "(<\\|endoftext\\|>|<\\|im_start\\|>|\\\\u[0-9a-f]{4}){0,10}",
        base64().prop_map(|it| String::from_utf8(it).unwrap()),
        base64().prop_map(|it| format!("data:image/png;base64,{}", String::from_utf8(it).unwrap())),
    ]
}

/// Any JSON, such as the schema of a tool: deep, long and with odd numbers.
fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(12, 60, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((text(), inner), 0..5).prop_map(|fields| Value::Object(Map::from_iter(fields))),
        ]
    })
}

/// Messages as their texts: role, name, content, and whether the content is in parts.
fn messages() -> impl Strategy<Value = Vec<(&'static str, Option<String>, String, bool)>> {
    let roles = prop::sample::select(vec!["system", "user", "assistant", "tool", "developer"]);
    vec(
        (roles, prop::option::of(text()), text(), any::<bool>()),
        0..6,
    )
}

/// The same JSON in other bytes: every character escaped, or with white space.
fn written(body: &Value, escaped: bool, spaced: bool) -> String {
    let body = match spaced {
        true => serde_json::to_string_pretty(body).unwrap(),
        false => body.to_string(),
    };
    if !escaped {
        return body;
    }
    let escape = |c: char| match c.is_ascii() {
        true => c.to_string(),
        false => {
            let units = c.encode_utf16(&mut [0; 2]).to_vec();
            units.iter().map(|unit| format!("\\u{unit:04x}")).collect()
        }
    };
    body.chars().map(escape).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn an_estimate_is_never_below_what_a_tokenizer_counts(
        messages in messages(),
        tools in prop::option::of(vec(schema(), 0..3)),
        format in prop::option::of(schema()),
        instructions in text(),
        (escaped, spaced) in any::<(bool, bool)>(),
    ) {
        // Three tokens of each message, one of a name, three of the answer.
        let mut counted = 3;
        let mut listed = Vec::new();
        for (role, name, content, in_parts) in &messages {
            counted += 3 + tokens(role) + tokens(content);
            let content = match in_parts {
                true => json!([{"type": "text", "text": content}]),
                false => json!(content),
            };
            let mut message = json!({"role": role, "content": content});
            if let Some(name) = name {
                counted += 1 + tokens(name);
                message["name"] = json!(name);
            }
            listed.push(message);
        }
        let mut body = json!({"model": "m"});
        if let Some(tools) = tools {
            let tools: Vec<Value> = tools
                .into_iter()
                .map(|it| json!({"type": "function", "function": {"name": "f", "parameters": it}}))
                .collect();
            counted += tokens(&json!(tools).to_string());
            body["tools"] = json!(tools);
        }
        if let Some(format) = format {
            counted += tokens(&format.to_string());
            body["response_format"] = format;
        }
        for (endpoint, field) in [(Endpoint::ChatCompletions, "messages"), (Endpoint::Responses, "input")] {
            let mut body = body.clone();
            body[field] = json!(listed);
            let mut counted = counted;
            if endpoint == Endpoint::Responses {
                counted += tokens(&instructions);
                body["instructions"] = json!(instructions);
            }
            let body = written(&body, escaped, spaced);
            let whole = estimate(endpoint, body.as_bytes(), None, |_| CAPACITY, covers).unwrap();
            prop_assert_eq!(whole.basis, EstimateBasis::TextBytes);
            prop_assert!(whole.input_tokens >= counted, "{} < {counted}: {body}", whole.input_tokens);
        }
    }

    #[test]
    fn an_embeddings_estimate_is_never_below_what_a_tokenizer_counts(texts in vec(text(), 1..8)) {
        let body = json!({"model": "m", "input": texts}).to_string();
        let found = estimate(Endpoint::Embeddings, body.as_bytes(), None, |_| CAPACITY, covers).unwrap();
        let counted: u64 = texts.iter().map(|text| tokens(text)).sum();
        prop_assert!(found.tokens.get() >= counted);
    }

    #[test]
    fn no_bytes_and_no_cut_make_an_estimate_panic(
        body in prop_oneof![vec(any::<u8>(), 0..200), schema().prop_map(|it| it.to_string().into_bytes())],
    ) {
        for endpoint in [Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Embeddings] {
            for field in ["", "messages", "input", "tools", "n"] {
                let body = [format!("{{\"model\":\"m\",\"{field}\":").as_bytes(), &body, b"}"].concat();
                for cut in [body.len(), body.len() / 2] {
                    let _ = estimate(endpoint, &body[..cut], None, |_| CAPACITY, covers);
                    let _ = estimate_partial(endpoint, &body[..cut], None, |_| CAPACITY, covers);
                }
            }
        }
    }
}
