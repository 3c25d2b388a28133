//! The style sheet, the script and the icon of the pages.

use std::sync::LazyLock;

use axum::{
    extract::Query,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use ring::digest::{SHA256, digest};
use serde::Deserialize;

/// A file that is compiled in.
pub(super) struct Asset {
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
    /// Changes with the text, so that browsers can keep the file.
    version: String,
}

pub(super) static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new(
        "style.css",
        "text/css; charset=utf-8",
        include_str!("style.css"),
    )
});

pub(super) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new(
        "script.js",
        "text/javascript; charset=utf-8",
        include_str!("script.js"),
    )
});

pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon.svg", "image/svg+xml", include_str!("icon.svg")));

/// The version in an address.
#[derive(Deserialize)]
pub(super) struct AssetQuery {
    v: Option<String>,
}

impl Asset {
    fn new(name: &'static str, content_type: &'static str, text: &'static str) -> Self {
        let hash = digest(&SHA256, text.as_bytes());
        let version = hash.as_ref().iter().take(8);
        Self {
            name,
            content_type,
            text,
            version: version.map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    /// Its address below `/`.
    pub(super) fn address(&self) -> String {
        format!("{}?v={}", self.name, self.version)
    }

    /// The file. During a rollout, a page of another release may ask for another version: that must not be kept.
    pub(super) fn answer(&self, Query(AssetQuery { v }): Query<AssetQuery>) -> Response {
        let cache = match v {
            Some(version) if version == self.version => "public, max-age=31536000, immutable",
            _ => "no-cache",
        };
        let mut response = (super::headers::PROTECTION, self.text).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(self.content_type),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
        response
    }
}
