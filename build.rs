//! Compiles the protos to Rust, without an installed protoc, and keeps the descriptor set of Tollgate's own, with its
//! comments, for server reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const TOLLGATE: &str = "proto/tollgate/v1/quota.proto";

const ENVOY: [&str; 5] = [
    "proto/envoy/service/auth/v3/external_auth.proto",
    "proto/envoy/service/accesslog/v3/als.proto",
    "proto/envoy/service/ratelimit/v3/rls.proto",
    "proto/envoy/data/ai/v3/request_info.proto",
    "proto/envoy/data/ai/v3/token_usage.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let tollgate = protox::compile([TOLLGATE], ["proto"])?;
    fs::write(
        out_dir.join("tollgate.v1.descriptors.binpb"),
        tollgate.encode_to_vec(),
    )?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure().compile_fds_with_config(tollgate, config)?;

    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    // Lets a body be read without a copy.
    config.bytes(["envoy.service.auth.v3.AttributeContext.HttpRequest.raw_body"]);
    config.include_file("envoy.rs");
    let envoy = protox::compile(ENVOY, ["proto"])?;
    tonic_prost_build::configure().compile_fds_with_config(envoy, config)?;
    Ok(())
}
