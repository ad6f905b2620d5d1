//! The description of the API, made from the handlers themselves.

use utoipa::OpenApi;

/// Collects what the handlers say of themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ferry's API",
        description = "Moves running work between machines. On a Unix socket that only its owner may use: \
            curl --unix-socket /run/ferry/node.sock http://ferry/v1/node. For operators the same over TLS, with a \
            certificate. Every error is the object `Error`.",
        license(name = "MIT OR Apache-2.0")
    ),
    paths(
        super::hosts::node,
        super::hosts::token,
        super::hosts::operator,
        super::hosts::list,
        super::hosts::show,
        super::hosts::put_out,
        super::workloads::list,
        super::workloads::run,
        super::workloads::adopt,
        super::workloads::show,
        super::workloads::remove,
        super::workloads::wait,
        super::workloads::stop,
        super::workloads::kill,
        super::logs::logs,
        super::streams::attach,
        super::streams::exec,
        super::moves::plan,
        super::moves::estimate,
        super::moves::clone,
        super::images::checkpoint,
        super::images::restore,
        super::moves::recovery,
        super::moves::recover,
        super::moves::begin,
        super::moves::list,
        super::moves::show,
        super::moves::events,
        super::moves::cancel,
    )
)]
struct Description;

/// The document.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    Description::openapi()
}

/// Serves it.
pub async fn get() -> axum::Json<utoipa::openapi::OpenApi> {
    axum::Json(document())
}

#[cfg(test)]
mod tests {
    use super::document;

    /// The document is part of the repository, so that a change of the API is seen in review. `FERRY_BLESS=1` writes it anew.
    #[test]
    fn the_document_is_the_one_in_docs() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let made = document().to_pretty_json().unwrap() + "\n";
        if std::env::var_os("FERRY_BLESS").is_some() {
            std::fs::write(path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == made,
            "the API changed: look at it, then run this test with FERRY_BLESS=1 and commit docs/openapi.json"
        );
    }

    #[test]
    fn every_schema_that_is_named_is_there() {
        let text = document().to_json().unwrap();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for named in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
            let name = named.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name} is named and not described");
        }
        assert!(schemas.len() > 20, "{}", schemas.len());
    }
}
