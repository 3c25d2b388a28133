//! Envoy's messages and services, generated from `proto/envoy`.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::enum_variant_names
)]

include!(concat!(env!("OUT_DIR"), "/envoy.rs"));
