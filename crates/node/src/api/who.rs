//! Who asks: the local user, or an operator by its certificate. What an operator changes is written into the audit log.

use crate::audit::Verdict;
use crate::node::Node;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use ferry_model::ids::HostName;
use std::fmt;
use std::sync::Arc;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// The user of this host whose socket it is.
    Local,
    /// An operator, by its certificate.
    Operator(HostName),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Operator(name) => write!(f, "operator {name}"),
        }
    }
}

impl Who {
    /// How it is known who asks.
    #[must_use]
    pub fn proof(&self) -> &'static str {
        match self {
            Self::Local => "asked on the local socket",
            Self::Operator(_) => "asked with an operator's certificate",
        }
    }
}

/// Tells the handlers that an operator asks, and writes down whatever it asks for besides looking.
pub async fn operator(
    State(node): State<Arc<Node>>,
    ConnectInfo(who): ConnectInfo<Who>,
    mut request: Request,
    next: Next,
) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    let looks = *request.method() == Method::GET;
    request.extensions_mut().insert(who.clone());
    let response = next.run(request).await;
    if !looks {
        let status = response.status();
        let done = status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS;
        let verdict = if done { Verdict::Allowed } else { Verdict::Refused };
        let noted = tokio::task::spawn_blocking(move || {
            node.audit.note(&who.to_string(), &what, verdict, &format!("answered {}", status.as_u16()));
        });
        // An answer is given only once it is written who asked.
        let _ = noted.await;
    }
    response
}
