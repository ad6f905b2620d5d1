//! Answers: JSON, and for an error its kind as a status and the whole error as the body.

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ferry_model::error::{Error, Kind};
use serde::de::DeserializeOwned;

/// An error as an answer.
pub struct Refusal(pub Error);

/// What handlers return.
pub type Answer<T> = Result<axum::Json<T>, Refusal>;

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (status(&self.0), axum::Json(self.0)).into_response()
    }
}

/// The status that goes with an error.
fn status(error: &Error) -> StatusCode {
    match error.kind {
        Kind::Usage if error.message.starts_with("There is no ") => StatusCode::NOT_FOUND,
        Kind::Usage => StatusCode::BAD_REQUEST,
        Kind::Refused | Kind::RolledBack | Kind::Remainder => StatusCode::CONFLICT,
        Kind::Unable | Kind::NotFinal => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Bug => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Runs what may block on a thread that may.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Refusal> {
    let (tell, told) = tokio::sync::oneshot::channel();
    // A thread of its own: some wait for days, and the runtime's pool of blocking threads is not for that.
    let spawned = std::thread::Builder::new().name("ferry-request".to_owned()).spawn(move || {
        let _ = tell.send(work());
    });
    spawned.map_err(|cause| Refusal(Error::from_source(Kind::Unable, &cause)))?;
    let done = told
        .await
        .map_err(|_| Refusal(Error::new(Kind::Bug, "The work for this request ended by a panic")))?;
    done.map_err(Refusal)
}

/// As [`blocking`], as JSON.
pub async fn json<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Answer<T> {
    blocking(work).await.map(axum::Json)
}

/// The body of a request as JSON; what is wrong with it is said as an error of Ferry's. An empty body counts as `{}`.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let wrong = |why: String| {
            Refusal(Error::new(Kind::Usage, why).context("The request's body is not what is expected"))
        };
        let bytes = axum::body::Bytes::from_request(request, state)
            .await
            .map_err(|cause| wrong(cause.to_string()))?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        axum::Json::<T>::from_bytes(text).map(|axum::Json(value)| Self(value)).map_err(|cause| match cause {
            JsonRejection::JsonDataError(_) | JsonRejection::JsonSyntaxError(_) => wrong(deepest(&cause)),
            other => wrong(other.to_string()),
        })
    }
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// For paths that are not in the API.
pub async fn no_such_path(uri: axum::http::Uri) -> Refusal {
    Refusal(
        Error::new(Kind::Usage, format!("There is no {} in the API", uri.path()))
            .hint("GET /v1/openapi.json"),
    )
}
