//! The real grpcurl against a real service, through server reflection: the new version uses v1, the old one v1alpha.

use std::process::Command;

use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use serde_json::{Value, json};
use tollgate::grpc::proto::DESCRIPTORS;

use crate::support::{
    clock::Clock,
    tollgate::Tollgate,
    tools::{ProgramOutput, run, tool},
    world::NOON,
};

/// grpcurl's exit code is this plus the gRPC code.
const EXIT_CODE_OF_OK: i32 = 64;

/// Runs each case with both versions.
macro_rules! with_both_versions {
    ($($case:ident),+ $(,)?) => {
        mod reflection_v1 {
            $(#[test] fn $case() { super::$case(super::Grpcurl::start("bin/grpcurl")); })+
        }
        mod reflection_v1alpha {
            $(#[test] fn $case() { super::$case(super::Grpcurl::start("bin/grpcurl-1.8.6")); })+
        }
    };
}

with_both_versions!(
    the_services_and_their_methods_are_listed,
    everything_is_described_with_its_comments,
    the_first_call_of_the_readme_is_free,
    a_request_that_does_not_fit_is_billed_whole_and_one_that_reaches_the_allowance_is_free,
    every_unary_rpc_can_be_called,
    a_stream_is_answered_request_by_request,
    health_knows_the_names_of_the_contract_and_no_other,
    errors_are_printed_with_code_and_message,
);

struct Grpcurl {
    program: &'static str,
    service: Tollgate,
    _clock: Clock,
}

impl Grpcurl {
    fn start(program: &'static str) -> Self {
        let clock = Clock::at(NOON);
        let service = Tollgate::start_at(&clock, &[]);
        Self {
            program,
            service,
            _clock: clock,
        }
    }

    fn run(&self, flags: &[&str], words: &[&str]) -> ProgramOutput {
        let mut command = Command::new(tool(self.program));
        command.args(["-plaintext", "-max-time", "20"]).args(flags);
        run(command.arg(&self.service.addr).args(words))
    }

    fn list(&self, words: &[&str]) -> Vec<String> {
        let words = [&["list"], words].concat();
        let listed = self.run(&[], &words).expect_success();
        listed.lines().map(str::to_owned).collect()
    }

    fn describe(&self, symbol: &str) -> String {
        self.run(&[], &["describe", symbol]).expect_success()
    }

    fn try_call(&self, method: &str, request: &Value) -> ProgramOutput {
        self.run(&["-d", &request.to_string()], &[method])
    }

    /// The answer, with the proto's JSON names and all fields.
    fn call(&self, rpc: &str, request: &Value) -> Value {
        let flags = ["-emit-defaults", "-d", &request.to_string()];
        let method = format!("tollgate.v1.QuotaService/{rpc}");
        let text = self.run(&flags, &[&method]).expect_success();
        serde_json::from_str(&text).unwrap()
    }

    fn health(&self, name: &str) -> ProgramOutput {
        self.try_call("grpc.health.v1.Health/Check", &json!({"service": name}))
    }
}

fn the_services_and_their_methods_are_listed(grpcurl: Grpcurl) {
    let services = grpcurl.list(&[]);
    for service in ["tollgate.v1.QuotaService", "grpc.health.v1.Health"] {
        assert!(services.contains(&service.to_owned()), "{services:?}");
    }
    let mut methods: Vec<String> = our_file().service[0]
        .method
        .iter()
        .map(|method| format!("tollgate.v1.QuotaService.{}", method.name()))
        .collect();
    methods.sort();
    let mut listed = grpcurl.list(&["tollgate.v1.QuotaService"]);
    listed.sort();
    assert_eq!(listed, methods);
    let listed = grpcurl.list(&["grpc.health.v1.Health"]);
    assert!(listed.contains(&"grpc.health.v1.Health.Check".to_owned()));
}

/// Reflection delivers every comment of the proto: of the service, each method, message, field, enum and value.
fn everything_is_described_with_its_comments(grpcurl: Grpcurl) {
    let file = our_file();
    let symbols = file.service.iter().map(|it| it.name()).chain(
        (file.message_type.iter().map(|it| it.name()))
            .chain(file.enum_type.iter().map(|it| it.name())),
    );
    let described: Vec<String> = symbols
        .map(|name| grpcurl.describe(&format!("tollgate.v1.{name}")))
        .collect();
    for (path, name) in named_parts(&file) {
        let found = described
            .iter()
            .any(|text| text.contains(&format!("{}\n", comment_of(&file, &path))));
        assert!(found, "{name} is described without its comment");
    }
}

/// The path of each commented element, as descriptor.proto numbers it, with its name.
fn named_parts(file: &FileDescriptorProto) -> Vec<(Vec<i32>, String)> {
    let mut parts = Vec::new();
    for (at, service) in (0..).zip(&file.service) {
        parts.push((vec![6, at], service.name().to_owned()));
        for (method_at, method) in (0..).zip(&service.method) {
            parts.push((vec![6, at, 2, method_at], method.name().to_owned()));
        }
    }
    for (at, message) in (0..).zip(&file.message_type) {
        parts.push((vec![4, at], message.name().to_owned()));
        parts.extend(fields(at, message));
    }
    for (at, listed) in (0..).zip(&file.enum_type) {
        parts.push((vec![5, at], listed.name().to_owned()));
        for (value_at, value) in (0..).zip(&listed.value) {
            parts.push((vec![5, at, 2, value_at], value.name().to_owned()));
        }
    }
    parts
}

fn fields(at: i32, message: &DescriptorProto) -> impl Iterator<Item = (Vec<i32>, String)> {
    (0..).zip(&message.field).map(move |(field_at, field)| {
        let name = format!("{}.{}", message.name(), field.name());
        (vec![4, at, 2, field_at], name)
    })
}

/// The first line of an element's comment, as `describe` prints it.
fn comment_of(file: &FileDescriptorProto, path: &[i32]) -> String {
    let info = file.source_code_info.as_ref().unwrap();
    let place = info.location.iter().find(|place| place.path == path);
    let comment = place.map_or("", |place| place.leading_comments());
    let first = comment.lines().next().unwrap_or_default();
    assert!(!first.trim().is_empty(), "{path:?} has no comment");
    format!("//{first}")
}

fn our_file() -> FileDescriptorProto {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let ours = |file: &FileDescriptorProto| file.package() == "tollgate.v1";
    set.file.into_iter().find(ours).unwrap()
}

fn reserve(tokens: u64) -> Value {
    json!({"org": "org-demo", "project": "p", "model": "gpt-4o", "tokens": tokens})
}

fn the_first_call_of_the_readme_is_free(grpcurl: Grpcurl) {
    let request = r#"{"org":"org-demo","project":"p","model":"gpt-4o","tokens":30000}"#;
    let method = "tollgate.v1.QuotaService/Reserve";
    let text = grpcurl.run(&["-d", request], &[method]).expect_success();
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        answer,
        json!({
            "verdict": "VERDICT_FREE",
            "pool": "large",
            "allowance": "1000000",
            "used": "30000",
            "remaining": "970000",
            "resetsAt": "2026-11-23T00:00:00Z",
        })
    );
}

fn a_request_that_does_not_fit_is_billed_whole_and_one_that_reaches_the_allowance_is_free(
    grpcurl: Grpcurl,
) {
    let answer = |tokens| {
        let answer = grpcurl.call("Reserve", &reserve(tokens));
        let field = |name: &str| answer[name].as_str().unwrap().to_owned();
        ["verdict", "billedReason", "used", "remaining"].map(field)
    };
    let (free, unspecified) = ("VERDICT_FREE", "BILLED_REASON_UNSPECIFIED");
    let (billed, exceeded) = ("VERDICT_BILLED", "BILLED_REASON_ALLOWANCE_EXCEEDED");
    assert_eq!(answer(975_000), [free, unspecified, "975000", "25000"]);
    assert_eq!(answer(30_000), [billed, exceeded, "975000", "25000"]);
    assert_eq!(answer(25_000), [free, unspecified, "1000000", "0"]);
    let pool = &grpcurl.call("GetQuota", &json!({"org": "org-demo"}))["pools"][0];
    assert_eq!(pool["billedTokens"], "30000", "{pool}");
}

fn every_unary_rpc_can_be_called(grpcurl: Grpcurl) {
    for (id, tokens) in [("settled", 1_000), ("released", 500)] {
        let mut request = reserve(tokens);
        request["request_id"] = id.into();
        assert_eq!(grpcurl.call("Reserve", &request)["replayed"], false);
        assert_eq!(grpcurl.call("Reserve", &request)["replayed"], true);
    }
    let settle = json!({"org": "org-demo", "request_id": "settled", "tokens": 900});
    let settled = grpcurl.call("Settle", &settle);
    assert_eq!(
        (&settled["verdict"], &settled["used"]),
        (&"VERDICT_FREE".into(), &"1400".into())
    );
    let release = json!({"org": "org-demo", "request_id": "released"});
    let released = grpcurl.call("Release", &release);
    assert_eq!(
        (&released["releasedTokens"], &released["used"]),
        (&"500".into(), &"900".into())
    );
    let quota = grpcurl.call("GetQuota", &json!({"org": "org-demo"}));
    assert_eq!(
        quota["pools"][0],
        json!({
            "pool": "large", "allowance": "1000000", "used": "900", "remaining": "999100",
            "billedTokens": "0", "freeRequests": "1", "billedRequests": "0", "heldTokens": "0", "closed": false,
            "marginTokens": "0", "externalTokens": "0", "shares": [],
        })
    );
    let usage = grpcurl.call("ListUsage", &json!({"org": "org-demo"}));
    assert_eq!(
        usage,
        json!({
            "day": "2026-11-22",
            "rows": [{
                "project": "p", "model": "gpt-4o", "pool": "large", "freeTokens": "900",
                "billedTokens": "0", "freeRequests": "1", "billedRequests": "0", "day": "2026-11-22",
                "provider": null,
            }],
            "nextPageToken": "", "fromDay": "2026-11-22", "toDay": "2026-11-22", "comparisons": [],
        })
    );
}

fn health_knows_the_names_of_the_contract_and_no_other(grpcurl: Grpcurl) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let serving = tonic_health::pb::health_check_response::ServingStatus::Serving;
    runtime.block_on(grpcurl.service.wait_for_readiness(serving));
    for name in ["", "liveness", "readiness", "tollgate.v1.QuotaService"] {
        let text = grpcurl.health(name).expect_success();
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer, json!({"status": "SERVING"}), "{name:?}");
    }
    let unknown = grpcurl.health("tollgate.v1.Nothing");
    let not_found = EXIT_CODE_OF_OK + i32::from(tonic::Code::NotFound);
    assert_eq!(unknown.code, Some(not_found), "{unknown:?}");
    assert!(unknown.stderr.contains("Code: NotFound"), "{unknown:?}");
}

fn errors_are_printed_with_code_and_message(grpcurl: Grpcurl) {
    let mut once = reserve(1);
    once["request_id"] = "once".into();
    grpcurl.call("Reserve", &once);
    let mut other = reserve(2);
    other["request_id"] = "once".into();
    let settle =
        |id: &str, tokens: u64| json!({"org": "org-demo", "request_id": id, "tokens": tokens});
    grpcurl.call("Settle", &settle("once", 1));
    let day = json!({"org": "org-demo", "day": "2031-01-01"});
    let release = json!({"org": "org-demo", "request_id": "once"});
    for (rpc, request, code, expected) in [
        ("Reserve", json!({"org": "x"}), "InvalidArgument", "project"),
        ("Reserve", reserve(0), "InvalidArgument", "tokens"),
        ("Reserve", other, "AlreadyExists", "request_id"),
        ("Settle", settle("never", 1), "NotFound", "request_id"),
        ("Settle", settle("once", 2), "AlreadyExists", "1"),
        ("Release", release, "FailedPrecondition", "settled"),
        ("GetQuota", json!({"org": "x"}), "NotFound", "org"),
        ("ListUsage", day, "OutOfRange", "day"),
    ] {
        let ran = grpcurl.try_call(&format!("tollgate.v1.QuotaService/{rpc}"), &request);
        let (head, message) = ran.stderr.split_once("Message:").unwrap_or_default();
        assert!(head.contains(&format!("Code: {code}")), "{rpc}: {ran:?}");
        assert!(message.contains(expected), "{rpc}: {ran:?}");
        assert!(ran.code > Some(EXIT_CODE_OF_OK), "{rpc}: {ran:?}");
    }
}

fn a_stream_is_answered_request_by_request(grpcurl: Grpcurl) {
    let reserve_json = |tokens: u64, id: &str| json!({"org": "org-demo", "project": "p", "model": "gpt-4o", "tokens": tokens, "request_id": id});
    // grpcurl sends concatenated messages.
    let requests = [
        reserve_json(10, "a"),
        reserve_json(0, "b"),
        reserve_json(11, "a"),
        reserve_json(5, "c"),
    ];
    let requests = requests.map(|request| request.to_string()).join("\n");
    let flags = ["-d", &requests];
    let text = grpcurl
        .run(&flags, &["tollgate.v1.QuotaService/ReserveStream"])
        .expect_success();
    let answers = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let answers: Vec<Value> = answers.map(Result::unwrap).collect();
    assert_eq!(answers.len(), 4, "{text}");
    assert_eq!(answers[0]["reserved"]["used"], "10");
    assert_eq!(answers[1]["error"]["code"], 3);
    let message = answers[1]["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("tokens: "), "{message}");
    assert_eq!(answers[2]["error"]["code"], 6);
    assert_eq!(answers[3]["reserved"]["used"], "15");
    assert_eq!(answers[3]["reserved"]["verdict"], "VERDICT_FREE");
}
