//! The decapsulator's part of the API, the same when it runs alone and within the switch.
//!
//! In: requests. Out: rows of [`view`]. What must hold: a handler never waits for threads
//! on the server's own.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use utoipa::OpenApi;

use super::{ApplyError, Runtime, view};
use crate::api::types::Failure;

/// Its routes, method and path.
pub const ROUTES: &[(&str, &str)] = &[
    ("get", "/v1/decap"),
    ("get", "/v1/decap/sessions"),
    ("get", "/v1/decap/sniffers"),
    ("get", "/v1/decap/unknown"),
];

#[derive(OpenApi)]
#[openapi(paths(totals, sessions, sniffers, unknown))]
struct Document;

/// The `OpenAPI` document of these routes.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// Where the running decapsulator is, if there is one.
pub trait Place: Send + Sync + 'static {
    /// It.
    fn decapsulator(&self) -> Option<Arc<Runtime>>;
}

type Shared = State<Arc<dyn Place>>;
type Answer<T> = Result<Json<T>, Error>;

/// The routes.
pub fn router(place: Arc<dyn Place>) -> Router {
    Router::new()
        .route("/v1/decap", get(totals))
        .route("/v1/decap/sessions", get(sessions))
        .route("/v1/decap/sniffers", get(sniffers))
        .route("/v1/decap/unknown", get(unknown))
        .with_state(place)
}

/// A request that was not carried out.
pub(super) struct Error(pub(super) StatusCode, pub(super) Failure);

impl Error {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        let failure = Failure {
            error: error.into(),
            details: Vec::new(),
        };
        Self(status, failure)
    }
}

impl From<ApplyError> for Error {
    fn from(error: ApplyError) -> Self {
        let status = match &error {
            ApplyError::Restart(_) | ApplyError::Start(_) => StatusCode::CONFLICT,
            ApplyError::Table(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ApplyError::Silent(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

/// Does what may wait for threads away from the server's own.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the request failed inside vswitch ({error}); please report it"),
        )),
    }
}

async fn asked<T: Send + 'static>(
    place: Arc<dyn Place>,
    work: impl FnOnce(&Runtime) -> Result<T, ApplyError> + Send + 'static,
) -> Answer<T> {
    let none = || {
        Error::new(
            StatusCode::NOT_FOUND,
            "there is no decapsulator; add [decapsulator] to the configuration",
        )
    };
    let runtime = place.decapsulator().ok_or_else(none)?;
    apart(move || Ok(work(&runtime)?)).await.map(Json)
}

/// The decapsulator as a whole
#[utoipa::path(get, path = "/v1/decap", responses((status = 200, body = view::Totals), (status = 404, body = Failure)))]
async fn totals(State(place): Shared) -> Answer<view::Totals> {
    asked(place, |runtime| Ok(runtime.totals())).await
}

/// Sessions that are received, and what became of their frames
#[utoipa::path(get, path = "/v1/decap/sessions", responses((status = 200, body = [view::Session]), (status = 404, body = Failure)))]
async fn sessions(State(place): Shared) -> Answer<Vec<view::Session>> {
    asked(place, |runtime| Ok(runtime.sessions())).await
}

/// Sniffers, and what they got
#[utoipa::path(get, path = "/v1/decap/sniffers", responses((status = 200, body = [view::Sniffer]), (status = 404, body = Failure)))]
async fn sniffers(State(place): Shared) -> Answer<Vec<view::Sniffer>> {
    asked(place, |runtime| Ok(runtime.sniffers())).await
}

/// Sessions that are sent and not known, those with most frames first
#[utoipa::path(get, path = "/v1/decap/unknown", responses((status = 200, body = [view::Unknown]), (status = 404, body = Failure)))]
async fn unknown(State(place): Shared) -> Answer<Vec<view::Unknown>> {
    asked(place, Runtime::unknown_rows).await
}
