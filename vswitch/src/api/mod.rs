//! The control API: HTTP and JSON on a Unix socket.
//!
//! In: requests. Out: the rows of [`types`], or a [`types::Failure`]. What must hold: a handler
//! never waits for workers on the server's own thread; every route is in the `OpenAPI` document.

pub mod bounded;
pub mod capture_types;
mod captures;
pub mod mirror_types;
mod mirrors;
mod stream;
#[cfg(test)]
mod tests;
pub mod types;

use std::{fmt::Write, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use policy::conntrack::{Exported, transfer::Imported};
use serde::Deserialize;
use utoipa::{IntoParams, OpenApi};

use crate::{
    config,
    control::{Applied, Control, ControlError, Origin, compare},
    decap::{self, api::Place},
    metrics,
};

pub use mirrors::service;

type Shared = State<Arc<Control>>;
type Answer<T> = Result<Json<T>, Error>;

/// Every route, method and path.
pub const ROUTES: &[(&str, &str)] = &[
    ("get", "/openapi.json"),
    ("get", "/metrics"),
    ("get", "/v1/health"),
    ("get", "/v1/ports"),
    ("post", "/v1/ports"),
    ("get", "/v1/ports/{name}"),
    ("delete", "/v1/ports/{name}"),
    ("post", "/v1/ports/{name}/enable"),
    ("get", "/v1/sets"),
    ("post", "/v1/sets/{name}"),
    ("get", "/v1/workers"),
    ("get", "/v1/queues"),
    ("post", "/v1/queues/assign"),
    ("get", "/v1/macs"),
    ("get", "/v1/neighbors"),
    ("get", "/v1/routes"),
    ("post", "/v1/routers/{name}/routes"),
    ("get", "/v1/flows"),
    ("get", "/v1/connections"),
    ("post", "/v1/connections/flush"),
    ("get", "/v1/vms/{vm}/connections"),
    ("put", "/v1/vms/{vm}/connections"),
    ("get", "/v1/drops"),
    ("get", "/v1/rules"),
    ("get", "/v1/drops/samples"),
    ("post", "/v1/explain"),
    ("get", "/v1/mirrors"),
    ("post", "/v1/mirrors"),
    ("get", "/v1/mirrors/audit"),
    ("get", "/v1/mirrors/{owner}/{name}"),
    ("patch", "/v1/mirrors/{owner}/{name}"),
    ("delete", "/v1/mirrors/{owner}/{name}"),
    ("get", "/v1/captures"),
    ("post", "/v1/captures"),
    ("delete", "/v1/captures/{id}"),
    ("get", "/v1/stats"),
    ("get", "/v1/config"),
    ("post", "/v1/apply"),
    ("post", "/v1/compare"),
];

#[derive(OpenApi)]
#[openapi(
    info(title = "vswitch", description = "Control of a running vswitch."),
    paths(
        document,
        prometheus,
        health,
        ports,
        add_port,
        port,
        remove_port,
        enable_port,
        sets,
        change_set,
        workers,
        queues,
        assign,
        macs,
        neighbors,
        routes,
        change_routes,
        flows,
        connections,
        flush_connections,
        export_connections,
        import_connections,
        drops,
        rules,
        stream::drop_samples,
        explain,
        mirrors::mirrors,
        mirrors::mirror_audit,
        mirrors::create_mirror,
        mirrors::mirror,
        mirrors::update_mirror,
        mirrors::delete_mirror,
        captures::captures,
        captures::capture,
        captures::end_capture,
        stats,
        config_text,
        apply,
        compare_traffic
    )
)]
struct Document;

/// The `OpenAPI` document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    document.merge(decap::api::openapi());
    document
}

/// The whole API.
pub fn router(control: Arc<Control>) -> Router {
    let decapsulator = control.decapsulator().clone();
    Router::new()
        .route("/openapi.json", get(document))
        .route("/metrics", get(prometheus))
        .route("/v1/health", get(health))
        .route("/v1/ports", get(ports).post(add_port))
        .route("/v1/ports/{name}", get(port).delete(remove_port))
        .route("/v1/ports/{name}/enable", post(enable_port))
        .route("/v1/sets", get(sets))
        .route("/v1/sets/{name}", post(change_set))
        .route("/v1/workers", get(workers))
        .route("/v1/queues", get(queues))
        .route("/v1/queues/assign", post(assign))
        .route("/v1/macs", get(macs))
        .route("/v1/neighbors", get(neighbors))
        .route("/v1/routes", get(routes))
        .route("/v1/routers/{name}/routes", post(change_routes))
        .route("/v1/flows", get(flows))
        .route("/v1/connections", get(connections))
        .route("/v1/connections/flush", post(flush_connections))
        .route(
            "/v1/vms/{vm}/connections",
            get(export_connections)
                .put(import_connections)
                .layer(DefaultBodyLimit::max(MOST_EXPORTED_BYTES)),
        )
        .route("/v1/drops", get(drops))
        .route("/v1/rules", get(rules))
        .route("/v1/drops/samples", get(stream::drop_samples))
        .route("/v1/explain", post(explain))
        .route(
            "/v1/mirrors",
            get(mirrors::mirrors).post(mirrors::create_mirror),
        )
        .route("/v1/mirrors/audit", get(mirrors::mirror_audit))
        .route(
            "/v1/mirrors/{owner}/{name}",
            get(mirrors::mirror)
                .patch(mirrors::update_mirror)
                .delete(mirrors::delete_mirror),
        )
        .route(
            "/v1/captures",
            get(captures::captures).post(captures::capture),
        )
        .route("/v1/captures/{id}", delete(captures::end_capture))
        .route("/v1/stats", get(stats))
        .route("/v1/config", get(config_text))
        .route("/v1/apply", post(apply))
        .route("/v1/compare", post(compare_traffic))
        .with_state(control)
        .merge(decap::api::router(decapsulator))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(config::MAX_BYTES))
}

/// Only the metrics, for an address that others can reach.
pub fn metrics_router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/metrics", get(prometheus))
        .fallback(unknown)
        .with_state(control)
}

/// A request that was not carried out.
#[derive(Debug)]
struct Error(StatusCode, types::Failure);

impl Error {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        let failure = types::Failure {
            error: error.into(),
            details: Vec::new(),
        };
        Self(status, failure)
    }
}

impl From<ControlError> for Error {
    fn from(error: ControlError) -> Self {
        let status = match &error {
            ControlError::Config(_)
            | ControlError::Compile(_)
            | ControlError::TooCostly(..)
            | ControlError::TooMany => StatusCode::UNPROCESSABLE_ENTITY,
            ControlError::NotFound { .. } => StatusCode::NOT_FOUND,
            ControlError::Restart(_) | ControlError::Open { .. } | ControlError::Refused(_) => {
                StatusCode::CONFLICT
            }
            ControlError::Engine(crate::engine::EngineError::Invalid(_)) => StatusCode::BAD_REQUEST,
            ControlError::Engine(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        match error {
            ControlError::Config(problems) => Self(
                status,
                types::Failure {
                    error: "the configuration is refused; nothing was changed".into(),
                    details: problems.0,
                },
            ),
            other => Self::new(status, other.to_string()),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

/// Does what may wait for workers away from the server's thread.
async fn apart<T: Send + 'static>(
    control: Arc<Control>,
    work: impl FnOnce(&Control) -> Result<T, ControlError> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(move || work(&control)).await {
        Ok(outcome) => outcome.map_err(Error::from),
        Err(error) => Err(Error::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the request failed inside vswitch ({error}); please report it"),
        )),
    }
}

async fn unknown() -> Error {
    Error::new(
        StatusCode::NOT_FOUND,
        "there is no such path; GET /openapi.json lists them",
    )
}

/// This document
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, description = "The OpenAPI document")))]
async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(openapi())
}

/// Counters, as Prometheus reads them
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain")))]
async fn prometheus(State(control): Shared) -> Result<Response, Error> {
    let text = apart(control, |control| {
        Ok({
            let (stats, ports) = (control.stats(), control.ports());
            let (mirrors, captured) = (control.mirrors(), control.capture_totals());
            let mut text = metrics::render(&stats, &ports, &mirrors, &captured);
            if let Some(runtime) = control.decapsulator().decapsulator() {
                text += &decap::metrics::render(&runtime.everything());
            }
            text
        })
    })
    .await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// Whether the switch is well
#[utoipa::path(get, path = "/v1/health", responses((status = 200, body = types::Health)))]
async fn health(State(control): Shared) -> Answer<types::Health> {
    apart(control, |control| Ok(control.health()))
        .await
        .map(Json)
}

/// Every port
#[utoipa::path(get, path = "/v1/ports", responses((status = 200, body = [types::Port])))]
async fn ports(State(control): Shared) -> Answer<Vec<types::Port>> {
    apart(control, |control| Ok(control.ports()))
        .await
        .map(Json)
}

/// One port
#[utoipa::path(get, path = "/v1/ports/{name}", params(("name" = String, Path)),
    responses((status = 200, body = types::Port), (status = 404, body = types::Failure)))]
async fn port(State(control): Shared, Path(name): Path<String>) -> Answer<types::Port> {
    apart(control, move |control| control.port(&name))
        .await
        .map(Json)
}

/// Adds a port; the body is one `[[port]]`, as TOML fields or a JSON object
#[utoipa::path(post, path = "/v1/ports", request_body(content = String, content_type = "application/toml"),
    responses((status = 200, body = Applied), (status = 409, body = types::Failure), (status = 422, body = types::Failure)))]
async fn add_port(State(control): Shared, headers: HeaderMap, body: String) -> Answer<Applied> {
    let port = if is_json(&headers) {
        from_json(&body)?
    } else {
        body
    };
    apart(control, move |control| control.add_port(&port))
        .await
        .map(Json)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

/// A JSON object as fields in TOML, each on one line, so that no field can end the section.
fn from_json(body: &str) -> Result<String, Error> {
    let refuse = |error: String| Error::new(StatusCode::BAD_REQUEST, error);
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(body)
        .map_err(|error| refuse(format!("the body is not a JSON object: {error}")))?;
    let mut text = String::new();
    for (field, value) in object {
        let key = toml::Value::String(field.clone());
        let value =
            toml::Value::try_from(&value).map_err(|error| refuse(format!("{field}: {error}")))?;
        let _ = writeln!(text, "{key} = {value}");
    }
    Ok(text)
}

/// Removes a port
#[utoipa::path(delete, path = "/v1/ports/{name}", params(("name" = String, Path)),
    responses((status = 200, body = Applied), (status = 404, body = types::Failure), (status = 409, body = types::Failure), (status = 422, body = types::Failure)))]
async fn remove_port(State(control): Shared, Path(name): Path<String>) -> Answer<Applied> {
    apart(control, move |control| control.remove_port(&name))
        .await
        .map(Json)
}

/// Enables a port that a spanning tree frame has disabled
#[utoipa::path(post, path = "/v1/ports/{name}/enable", params(("name" = String, Path)),
    responses((status = 200, body = types::Port), (status = 404, body = types::Failure), (status = 409, body = types::Failure)))]
async fn enable_port(State(control): Shared, Path(name): Path<String>) -> Answer<types::Port> {
    apart(control, move |control| {
        control.enable_port(&name)?;
        control.port(&name)
    })
    .await
    .map(Json)
}

/// Every set of addresses or ports
#[utoipa::path(get, path = "/v1/sets", responses((status = 200, body = [types::Set])))]
async fn sets(State(control): Shared) -> Answer<Vec<types::Set>> {
    apart(control, Control::sets).await.map(Json)
}

/// Puts members into a set and takes others out, in one step
#[utoipa::path(post, path = "/v1/sets/{name}", params(("name" = String, Path)), request_body = types::SetChange,
    responses((status = 200, body = Applied), (status = 400, body = types::Failure), (status = 404, body = types::Failure), (status = 409, body = types::Failure), (status = 422, body = types::Failure)))]
async fn change_set(
    State(control): Shared,
    Path(name): Path<String>,
    body: String,
) -> Answer<Applied> {
    let change: types::SetChange = serde_json::from_str(&body)
        .map_err(|error| Error::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))?;
    apart(control, move |control| control.change_set(&name, &change))
        .await
        .map(Json)
}

/// Every worker
#[utoipa::path(get, path = "/v1/workers", responses((status = 200, body = [types::Worker])))]
async fn workers(State(control): Shared) -> Answer<Vec<types::Worker>> {
    apart(control, |control| Ok(control.workers()))
        .await
        .map(Json)
}

/// Every receive queue and its worker
#[utoipa::path(get, path = "/v1/queues", responses((status = 200, body = [types::Queue])))]
async fn queues(State(control): Shared) -> Answer<Vec<types::Queue>> {
    apart(control, |control| Ok(control.queues()))
        .await
        .map(Json)
}

/// Moves a receive queue to another worker
#[utoipa::path(post, path = "/v1/queues/assign", request_body = types::Assignment,
    responses((status = 200, body = [types::Queue]), (status = 400, body = types::Failure), (status = 404, body = types::Failure)))]
async fn assign(State(control): Shared, body: String) -> Answer<Vec<types::Queue>> {
    let wanted: types::Assignment = read(&body)?;
    apart(control, move |control| {
        control.assign(&wanted.port, wanted.queue, wanted.worker)?;
        Ok(control.queues())
    })
    .await
    .map(Json)
}

/// Learned addresses
#[utoipa::path(get, path = "/v1/macs", responses((status = 200, body = [types::Mac])))]
async fn macs(State(control): Shared) -> Answer<Vec<types::Mac>> {
    apart(control, |control| Ok(control.macs())).await.map(Json)
}

/// Hosts that routers send to
#[utoipa::path(get, path = "/v1/neighbors", responses((status = 200, body = [types::Neighbor])))]
async fn neighbors(State(control): Shared) -> Answer<Vec<types::Neighbor>> {
    apart(control, |control| Ok(control.neighbors()))
        .await
        .map(Json)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct RoutesAsked {
    /// Of this router only.
    router: Option<String>,
    /// At most so many; 1000 when absent.
    limit: Option<usize>,
}

/// Routes of routers
#[utoipa::path(get, path = "/v1/routes", params(RoutesAsked), responses((status = 200, body = [types::Route])))]
async fn routes(
    State(control): Shared,
    Query(query): Query<RoutesAsked>,
) -> Answer<Vec<types::Route>> {
    let limit = query.limit.unwrap_or(1000).min(1 << 21);
    apart(control, move |control| {
        control.routes(query.router.as_deref(), limit)
    })
    .await
    .map(Json)
}

/// Puts routes into a router and takes others out, in one step
#[utoipa::path(post, path = "/v1/routers/{name}/routes", params(("name" = String, Path)), request_body = types::RouteChange,
    responses((status = 200, body = types::RoutesChanged), (status = 400, body = types::Failure), (status = 404, body = types::Failure), (status = 409, body = types::Failure), (status = 422, body = types::Failure)))]
async fn change_routes(
    State(control): Shared,
    Path(name): Path<String>,
    body: String,
) -> Answer<types::RoutesChanged> {
    let change: types::RouteChange = serde_json::from_str(&body)
        .map_err(|error| Error::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))?;
    apart(control, move |control| {
        control.change_routes(&name, &change)
    })
    .await
    .map(Json)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Limit {
    /// Entries of each worker at most; 1000 when absent.
    limit: Option<usize>,
}

/// Entries of the flow caches
#[utoipa::path(get, path = "/v1/flows", params(Limit), responses((status = 200, body = [types::Flow])))]
async fn flows(State(control): Shared, Query(query): Query<Limit>) -> Answer<Vec<types::Flow>> {
    let limit = query.limit.unwrap_or(1000).min(1 << 20);
    apart(control, move |control| control.flows(limit))
        .await
        .map(Json)
}

/// The largest import: some hundred thousand connections.
const MOST_EXPORTED_BYTES: usize = 128 << 20;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Chosen {
    /// Of this VM only.
    vm: Option<String>,
    /// Of this port only.
    port: Option<String>,
    /// At most so many; 1000 when absent.
    limit: Option<usize>,
}

/// Connections
#[utoipa::path(get, path = "/v1/connections", params(Chosen),
    responses((status = 200, body = [types::Connection]), (status = 404, body = types::Failure)))]
async fn connections(
    State(control): Shared,
    Query(query): Query<Chosen>,
) -> Answer<Vec<types::Connection>> {
    let limit = query.limit.unwrap_or(1000).min(1 << 20);
    apart(control, move |control| {
        control.connections(query.vm.as_deref(), query.port.as_deref(), limit)
    })
    .await
    .map(Json)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct FlushQuery {
    /// Those of this VM.
    vm: Option<String>,
    /// All.
    #[serde(default)]
    all: bool,
}

/// Forgets connections, of one VM or all
#[utoipa::path(post, path = "/v1/connections/flush", params(FlushQuery),
    responses((status = 200, body = types::Flushed), (status = 400, body = types::Failure), (status = 404, body = types::Failure)))]
async fn flush_connections(
    State(control): Shared,
    Query(query): Query<FlushQuery>,
) -> Answer<types::Flushed> {
    if query.vm.is_some() == query.all {
        return Err(Error::new(
            StatusCode::BAD_REQUEST,
            "say vm=NAME or all=true",
        ));
    }
    apart(control, move |control| {
        control.flush_connections(query.vm.as_deref())
    })
    .await
    .map(Json)
}

/// A VM's connections, for another host
#[utoipa::path(get, path = "/v1/vms/{vm}/connections", params(("vm" = String, Path)),
    responses((status = 200, description = "As docs/connections.md describes it"), (status = 404, body = types::Failure)))]
async fn export_connections(State(control): Shared, Path(vm): Path<String>) -> Answer<Exported> {
    apart(control, move |control| control.export_connections(&vm))
        .await
        .map(Json)
}

/// Takes over a VM's connections from another host
#[utoipa::path(put, path = "/v1/vms/{vm}/connections", params(("vm" = String, Path)), request_body(content = String, content_type = "application/json"),
    responses((status = 200, description = "How many were imported, present and refused"), (status = 400, body = types::Failure), (status = 404, body = types::Failure), (status = 409, body = types::Failure)))]
async fn import_connections(
    State(control): Shared,
    Path(vm): Path<String>,
    body: String,
) -> Answer<Imported> {
    apart(control, move |control| {
        let exported = serde_json::from_str(&body).map_err(|error| {
            ControlError::Refused(format!("the body is no export of connections: {error}"))
        })?;
        control.import_connections(&vm, &exported)
    })
    .await
    .map(Json)
}

/// Drops by port, reason and rule
#[utoipa::path(get, path = "/v1/drops", responses((status = 200, body = [types::Drop])))]
async fn drops(State(control): Shared) -> Answer<Vec<types::Drop>> {
    apart(control, |control| Ok(control.drops()))
        .await
        .map(Json)
}

/// Rules in force and what they decided
#[utoipa::path(get, path = "/v1/rules", responses((status = 200, body = [types::RuleHits])))]
async fn rules(State(control): Shared) -> Answer<Vec<types::RuleHits>> {
    apart(control, Control::rules).await.map(Json)
}

/// What would become of frames, and why; nothing changes
#[utoipa::path(post, path = "/v1/explain", request_body = types::ExplainRequest,
    responses((status = 200, body = [types::Explanation]), (status = 404, body = types::Failure), (status = 409, body = types::Failure)))]
async fn explain(State(control): Shared, body: String) -> Answer<Vec<types::Explanation>> {
    let wanted: types::ExplainRequest = read(&body)?;
    apart(control, move |control| control.explain(&wanted))
        .await
        .map(Json)
}

/// A body in JSON.
fn read<T: serde::de::DeserializeOwned>(body: &str) -> Result<T, Error> {
    serde_json::from_str(body)
        .map_err(|error| Error::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))
}

/// Everything that is counted
#[utoipa::path(get, path = "/v1/stats", responses((status = 200, body = types::Stats)))]
async fn stats(State(control): Shared) -> Answer<types::Stats> {
    apart(control, |control| Ok(control.stats()))
        .await
        .map(Json)
}

/// The running configuration
#[utoipa::path(get, path = "/v1/config", responses((status = 200, body = types::Config)))]
async fn config_text(State(control): Shared) -> Answer<types::Config> {
    apart(control, |control| Ok(control.config_text()))
        .await
        .map(Json)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ApplyQuery {
    /// Show what would change, and change nothing.
    #[serde(default)]
    dry_run: bool,
    /// The file's name, for messages and rules.
    file: Option<String>,
}

/// Applies a whole configuration; the body is TOML, or the same as a JSON object
#[utoipa::path(post, path = "/v1/apply", params(ApplyQuery), request_body(content = String, content_type = "application/toml"),
    responses((status = 200, body = Applied), (status = 409, body = types::Failure), (status = 422, body = types::Failure)))]
async fn apply(
    State(control): Shared,
    Query(query): Query<ApplyQuery>,
    headers: HeaderMap,
    body: String,
) -> Answer<Applied> {
    let origin = Origin {
        file: query.file.unwrap_or_else(|| "request".into()),
        text: if is_json(&headers) {
            from_json(&body)?
        } else {
            body
        },
    };
    apart(control, move |control| control.apply(origin, query.dry_run))
        .await
        .map(Json)
}

/// Which flows a configuration would judge otherwise than the running one; nothing changes
#[utoipa::path(post, path = "/v1/compare", request_body = types::CompareRequest,
    responses((status = 200, body = types::Compared), (status = 404, body = types::Failure), (status = 409, body = types::Failure), (status = 422, body = types::Failure)))]
async fn compare_traffic(State(control): Shared, body: String) -> Answer<types::Compared> {
    let wanted: types::CompareRequest = read(&body)?;
    let refuse = |what: &str| Err(Error::new(StatusCode::BAD_REQUEST, what));
    let traffic = match (wanted.live_s, &wanted.port) {
        (Some(_), _) if !wanted.frames.is_empty() => {
            return refuse("give frames or live_s, not both");
        }
        (Some(seconds), port) => {
            let mut collector = control.collect(port.as_deref(), seconds)?;
            while collector.look() && !control.streams_end() {
                tokio::time::sleep(compare::PAUSE).await;
            }
            collector.finish()
        }
        (None, Some(port)) => control.captured(port, &wanted.frames)?,
        (None, None) => return refuse("name the port that the frames come in by"),
    };
    let origin = Origin {
        file: wanted.file,
        text: wanted.text,
    };
    apart(control, move |control| control.compare(&origin, &traffic))
        .await
        .map(Json)
}
