//! The description of the routes in OpenAPI 3.1, from the proto and its comments.

use std::collections::BTreeMap;

use prost_reflect::{
    EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ServiceDescriptor,
};
use serde_json::{Map, Value, json};

use super::{error::wire, headers::MAX_TIMEOUT_DIGITS, json::MEDIA_TYPE};
use crate::telemetry::metrics::Code;

/// The messages and enums that the methods use, by name.
#[derive(Default)]
struct Schemas(BTreeMap<String, Value>);

/// Describes the unary methods of a service. `has_callers`: only known callers are answered.
pub(super) fn document(service: &ServiceDescriptor, has_callers: bool) -> Value {
    let mut schemas = Schemas::default();
    let methods = service.methods();
    let unary = methods.filter(|it| !it.is_client_streaming() && !it.is_server_streaming());
    let paths = unary.map(|method| {
        let path = format!("/{}/{}", service.full_name(), method.name());
        (path, json!({"post": operation(&method, &mut schemas)}))
    });
    let paths: Map<String, Value> = paths.collect();
    schemas.0.insert("Error".to_owned(), error_schema());
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": service.full_name(),
            "version": env!("CARGO_PKG_VERSION"),
            "description": comment(&service.parent_file(), service.path()),
        },
        "paths": paths,
        "components": {"schemas": schemas.0},
    });
    if has_callers {
        document["security"] = json!([{"token": []}, {"certificate": []}]);
        document["components"]["securitySchemes"] = json!({
            "token": {"type": "http", "scheme": "bearer"},
            "certificate": {"type": "mutualTLS"},
        });
    }
    document
}

fn operation(method: &MethodDescriptor, schemas: &mut Schemas) -> Value {
    let description = comment(&method.parent_service().parent_file(), method.path());
    let summary = description.split(". ").next().unwrap_or_default();
    let timeout = json!({
        "name": "connect-timeout-ms",
        "in": "header",
        "description": "How long the caller waits for the answer, in milliseconds.",
        "schema": {"type": "string", "pattern": format!("^[0-9]{{1,{MAX_TIMEOUT_DIGITS}}}$")},
    });
    let content = |schema: Value| json!({MEDIA_TYPE: {"schema": schema}});
    json!({
        "operationId": method.name(),
        "summary": summary.trim_end_matches('.'),
        "description": description,
        "parameters": [timeout],
        "requestBody": {"required": true, "content": content(schemas.message(&method.input(), true))},
        "responses": {
            "200": {
                "description": "The answer.",
                "content": content(schemas.message(&method.output(), false)),
            },
            "default": {
                "description": "The call failed.",
                "content": content(reference("Error")),
            },
        },
    })
}

fn error_schema() -> Value {
    let codes = (1..).map_while(Code::from_repr).map(|code| wire(code).0);
    json!({
        "type": "object",
        "required": ["code"],
        "properties": {
            "code": {"type": "string", "enum": codes.collect::<Vec<_>>()},
            "message": {"type": "string", "description": "What is wrong."},
        },
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

impl Schemas {
    /// The schema of a message. Unknown fields of a request are errors; answers may get new fields.
    fn message(&mut self, message: &MessageDescriptor, is_request: bool) -> Value {
        if message.full_name() == "google.protobuf.Timestamp" {
            return json!({"type": "string", "format": "date-time"});
        }
        if !self.0.contains_key(message.name()) {
            let fields = message.fields();
            let fields = fields.map(|field| {
                let mut schema = self.field(&field, is_request);
                schema["description"] = comment(&message.parent_file(), field.path()).into();
                (field.json_name().to_owned(), schema)
            });
            let fields: Map<String, Value> = fields.collect();
            let mut schema = json!({
                "type": "object",
                "description": comment(&message.parent_file(), message.path()),
                "properties": fields,
            });
            if is_request {
                schema["additionalProperties"] = false.into();
            }
            self.0.insert(message.name().to_owned(), schema);
        }
        reference(message.name())
    }

    fn field(&mut self, field: &FieldDescriptor, is_request: bool) -> Value {
        let schema = match field.kind() {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Double | Kind::Float => json!({"type": "number"}),
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0}),
            Kind::Uint64 | Kind::Fixed64 => {
                json!({"type": "integer", "format": "int64", "minimum": 0})
            }
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({"type": "integer", "format": "int32"})
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({"type": "integer", "format": "int64"})
            }
            Kind::Enum(values) => self.enumeration(&values),
            Kind::Message(message) => self.message(&message, is_request),
        };
        match field.is_list() {
            true => json!({"type": "array", "items": schema}),
            false => schema,
        }
    }

    fn enumeration(&mut self, values: &EnumDescriptor) -> Value {
        let file = values.parent_file();
        let lines = values.values().map(|value| {
            let comment = comment(&file, value.path());
            format!("* `{}`: {comment}", value.name())
        });
        let lines: Vec<String> = lines.collect();
        let names = values.values().map(|value| value.name().to_owned());
        let schema = json!({
            "type": "string",
            "description": format!("{}\n\n{}", comment(&file, values.path()), lines.join("\n")),
            "enum": names.collect::<Vec<_>>(),
        });
        self.0.entry(values.name().to_owned()).or_insert(schema);
        reference(values.name())
    }
}

/// The comment before a definition, as paragraphs.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let mut locations = info.into_iter().flat_map(|info| &info.location);
    let location = locations.find(|location| location.path == path);
    let text = location.map_or("", |location| location.leading_comments());
    let paragraphs = text.trim().split("\n\n").map(|paragraph| {
        let lines = paragraph.lines().map(str::trim);
        lines.collect::<Vec<_>>().join(" ")
    });
    paragraphs.collect::<Vec<_>>().join("\n\n")
}
