//! The description of the API, made from the handlers themselves.

use utoipa::OpenApi;

/// Collects what the handlers say of themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ferry's local API",
        description = "Moves running work between machines. On a Unix socket that only its owner may use: \
            curl --unix-socket /run/ferry/node.sock http://ferry/v1/node. Every error is the object `Error`.",
        license(name = "MIT OR Apache-2.0")
    ),
    paths(
        super::hosts::node,
        super::hosts::token,
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
        super::moves::clone,
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
