//! The description of the routes, `/openapi.json`.

use std::process::Command;

use prost_reflect::DescriptorPool;
use serde_json::{Value, json};
use tollgate::{auth::TokenHash, grpc::proto::DESCRIPTORS};

use super::{Service, curl};
use crate::support::{
    calls::TextFile,
    tools::{run, tool},
};

fn description(service: &Service) -> Value {
    curl(&[&format!(
        "http://{}/openapi.json",
        service.tollgate.http_addr
    )])
    .expect_ok()
}

#[test]
fn the_description_is_valid_openapi_3_1() {
    let file = TextFile::new(&description(&Service::start()).to_string());
    let mut validator = Command::new(tool("venv/bin/python"));
    validator.args([
        "-m",
        "openapi_spec_validator",
        "--schema",
        "3.1",
        file.path(),
    ]);
    run(&mut validator).expect_success();
    // The validator can fail.
    let wrong = TextFile::new("{\"openapi\": \"3.1.0\", \"info\": {\"title\": \"x\"}}");
    let mut validator = Command::new(tool("venv/bin/python"));
    validator.args([
        "-m",
        "openapi_spec_validator",
        "--schema",
        "3.1",
        wrong.path(),
    ]);
    assert_ne!(run(&mut validator).code, Some(0));
}

#[test]
fn it_has_every_unary_method_every_field_and_every_value_with_its_comment() {
    let description = description(&Service::start());
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let quota = pool
        .get_service_by_name("tollgate.v1.QuotaService")
        .unwrap();
    let unary = quota
        .methods()
        .filter(|method| !method.is_server_streaming());
    let unary: Vec<_> = unary.collect();
    assert_eq!(description["paths"].as_object().unwrap().len(), unary.len());
    let schemas = &description["components"]["schemas"];
    let described = |schema: &Value, name: &str| {
        let comment = schema["description"].as_str().unwrap_or_default();
        assert!(comment.len() > 5, "{name} has no comment: {schema}");
    };
    for method in unary {
        let path = format!("/tollgate.v1.QuotaService/{}", method.name());
        let post = &description["paths"][&path]["post"];
        described(post, method.name());
        for (message, is_request) in [(method.input(), true), (method.output(), false)] {
            let schema = &schemas[message.name()];
            described(schema, message.name());
            let closed = schema["additionalProperties"] == json!(false);
            assert_eq!(closed, is_request, "{}", message.name());
            for field in message.fields() {
                described(&schema["properties"][field.json_name()], field.full_name());
            }
        }
    }
    let reasons = &schemas["BilledReason"];
    let values = pool.get_enum_by_name("tollgate.v1.BilledReason").unwrap();
    let names: Vec<_> = values
        .values()
        .map(|value| value.name().to_owned())
        .collect();
    assert_eq!(reasons["enum"], json!(names));
    let comment =
        "`BILLED_REASON_MODEL_NOT_COVERED`: No pool lists the model. Names match exactly.";
    assert!(
        reasons["description"].as_str().unwrap().contains(comment),
        "{reasons}"
    );
    let rows = &schemas["ListUsageResponse"]["properties"]["rows"];
    assert_eq!(
        rows["items"],
        json!({"$ref": "#/components/schemas/UsageRow"})
    );
    // Only the stream has it.
    assert!(schemas.get("ItemError").is_none());
}

#[test]
fn it_asks_for_credentials_if_there_are_callers_and_is_open_to_everyone() {
    let open = description(&Service::start());
    assert_eq!(open.get("security"), None);
    let hash = TokenHash::of(b"tg_known");
    let callers = TextFile::new(&format!(
        "[callers.a]\ntokens = [\"{hash}\"]\nroles = [\"read\"]\norganizations = [\"*\"]\n"
    ));
    let service = Service::start_with("", &["--callers", callers.path()]);
    let closed = description(&service);
    assert_eq!(
        closed["security"],
        json!([{"token": []}, {"certificate": []}])
    );
    let schemes = &closed["components"]["securitySchemes"];
    assert_eq!(
        schemes["token"],
        json!({"type": "http", "scheme": "bearer"})
    );
}
