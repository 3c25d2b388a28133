//! The Envoy of examples/envoy, with the stand-in as its provider, and its clients.

use std::path::Path;

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::envoy::{EnvoyProcess, socket_address};

/// The configuration that README and docs/ENVOY.md show.
pub fn example() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/envoy/envoy.yaml");
    serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

pub struct Gateway {
    pub envoy: EnvoyProcess,
    addr: String,
}

/// The configuration before these replicas of Tollgate, with the stand-in as its provider.
pub fn with_servers(mut config: Value, replicas: &[&str], provider: &str) -> Value {
    let resources = &mut config["static_resources"];
    resources["listeners"][0]["address"]["socket_address"]["port_value"] = json!(0);
    for cluster in resources["clusters"].as_array_mut().unwrap() {
        let servers = match cluster["name"] == "tollgate" {
            true => replicas,
            false => &[provider][..],
        };
        let endpoints: Vec<Value> = servers.iter().map(|addr| endpoint(addr)).collect();
        cluster["load_assignment"]["endpoints"] = json!([{ "lb_endpoints": endpoints }]);
        cluster["type"] = json!("STATIC");
        cluster.as_object_mut().unwrap().remove("transport_socket");
    }
    config
}

/// A server of a cluster.
pub fn endpoint(addr: &str) -> Value {
    json!({ "endpoint": { "address": socket_address(addr) } })
}

impl Gateway {
    /// Starts the example's Envoy before these replicas of Tollgate, with the stand-in as its provider.
    pub fn start(replicas: &[&str], provider: &str) -> Self {
        Self::start_with(example(), replicas, provider)
    }

    pub fn start_with(config: Value, replicas: &[&str], provider: &str) -> Self {
        Self::run(with_servers(config, replicas, provider))
    }

    /// Starts an Envoy whose servers are set.
    pub fn run(config: Value) -> Self {
        let keys = [
            ("OPENAI_SHARED_KEY", "shared"),
            ("OPENAI_PRIVATE_KEY", "private"),
        ];
        let envoy = EnvoyProcess::start(config, &keys);
        let addr = envoy.listener("llm");
        Self { envoy, addr }
    }

    /// Where clients connect to.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    pub async fn client(&self) -> GatewayClient {
        GatewayClient::connect(&self.addr).await
    }
}

/// A connection of a client.
pub struct GatewayClient {
    addr: String,
    sender: SendRequest<Full<Bytes>>,
}

/// An answer that was read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: hyper::HeaderMap,
    pub body: String,
}

impl GatewayClient {
    async fn connect(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self {
            addr: addr.to_owned(),
            sender,
        }
    }

    /// Leaves, whatever goes on, and connects again.
    pub async fn reconnect(&mut self) {
        *self = Self::connect(&self.addr).await;
    }

    /// POSTs a body to a path, with further headers.
    pub async fn post(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let answer = self.begin(path, headers, body).await;
        let answer = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
        let (head, body) = answer.into_parts();
        // A cut answer is one too.
        let body = body
            .collect()
            .await
            .map(|it| it.to_bytes())
            .unwrap_or_default();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    /// POSTs a body, and returns as soon as the answer begins. Connects again if Envoy has closed the connection.
    pub async fn begin(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> hyper::Result<hyper::Response<Incoming>> {
        if self.sender.ready().await.is_err() {
            self.reconnect().await;
        }
        let mut request = Request::post(path)
            .header("host", "gateway")
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        self.sender.send_request(request).await
    }
}

/// A chat request of at most 100 output tokens, of which the provider is to use `used`, and then do `then`.
pub fn chat(tag: &str, used: u64, then: &str) -> Value {
    json!({
        "model": "gpt-4o",
        "max_completion_tokens": 100,
        "messages": [{ "role": "user", "content": "Is this free?" }],
        "metadata": { "tag": tag, "used": used.to_string(), "then": then },
    })
}

/// The same, as a stream of events with usage at its end.
pub fn chat_stream(tag: &str, used: u64, then: &str) -> Value {
    let mut body = chat(tag, used, then);
    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    body
}
