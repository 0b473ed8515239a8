//! Mirror sessions, as the API has them.

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        Path, State,
        connect_info::{ConnectInfo, Connected},
    },
    http::{Extensions, StatusCode},
    serve::IncomingStream,
};
use tokio::net::UnixListener;

use super::{
    Answer, Error, Shared, apart,
    mirror_types::{MirrorAudit, MirrorRequest, MirrorSession},
    read, types,
};
use crate::control::{Control, Who};

/// Who is at the other end of the control socket.
#[derive(Clone, Copy, Debug)]
pub struct Peer(Who);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let peer = stream.io().peer_cred();
        // A socket that is gone already sends nothing that is done.
        Self(peer.map_or(Who::Switch, |peer| Who::Peer {
            uid: peer.uid(),
            pid: peer.pid(),
        }))
    }
}

pub(super) fn who(extensions: &Extensions) -> Who {
    let peer = extensions.get::<ConnectInfo<Peer>>();
    peer.map_or(Who::Switch, |peer| peer.0.0)
}

/// Every mirror session
#[utoipa::path(get, path = "/v1/mirrors", responses((status = 200, body = [MirrorSession])))]
pub(super) async fn mirrors(State(control): Shared) -> Answer<Vec<MirrorSession>> {
    apart(control, |control| Ok(control.mirrors()))
        .await
        .map(Json)
}

/// What was done to mirror sessions last
#[utoipa::path(get, path = "/v1/mirrors/audit", responses((status = 200, body = [MirrorAudit])))]
pub(super) async fn mirror_audit(State(control): Shared) -> Answer<Vec<MirrorAudit>> {
    apart(control, |control| Ok(control.mirror_audit()))
        .await
        .map(Json)
}

/// Makes a mirror session
#[utoipa::path(post, path = "/v1/mirrors", request_body = MirrorRequest,
    responses((status = 200, body = MirrorSession), (status = 400, body = types::Failure), (status = 404, body = types::Failure), (status = 409, body = types::Failure)))]
pub(super) async fn create_mirror(
    State(control): Shared,
    extensions: Extensions,
    body: String,
) -> Answer<MirrorSession> {
    let wanted: MirrorRequest = read(&body)?;
    let who = who(&extensions);
    apart(control, move |control| control.create_mirror(wanted, who))
        .await
        .map(Json)
}

/// One mirror session
#[utoipa::path(get, path = "/v1/mirrors/{owner}/{name}", params(("owner" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = MirrorSession), (status = 404, body = types::Failure)))]
pub(super) async fn mirror(
    State(control): Shared,
    Path((owner, name)): Path<(String, String)>,
) -> Answer<MirrorSession> {
    apart(control, move |control| control.mirror(&owner, &name))
        .await
        .map(Json)
}

/// Changes a mirror session; the body holds the fields that change, null takes one back
#[utoipa::path(patch, path = "/v1/mirrors/{owner}/{name}", params(("owner" = String, Path), ("name" = String, Path)), request_body(content = String, content_type = "application/json"),
    responses((status = 200, body = MirrorSession), (status = 400, body = types::Failure), (status = 404, body = types::Failure), (status = 409, body = types::Failure)))]
pub(super) async fn update_mirror(
    State(control): Shared,
    Path((owner, name)): Path<(String, String)>,
    extensions: Extensions,
    body: String,
) -> Answer<MirrorSession> {
    let change: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&body)
        .map_err(|error| Error::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))?;
    let who = who(&extensions);
    let work = move |control: &Control| control.update_mirror((&owner, &name), change, who);
    apart(control, work).await.map(Json)
}

/// Ends a mirror session
#[utoipa::path(delete, path = "/v1/mirrors/{owner}/{name}", params(("owner" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = MirrorSession), (status = 404, body = types::Failure)))]
pub(super) async fn delete_mirror(
    State(control): Shared,
    Path((owner, name)): Path<(String, String)>,
    extensions: Extensions,
) -> Answer<MirrorSession> {
    let who = who(&extensions);
    apart(control, move |control| {
        control.delete_mirror(&owner, &name, who)
    })
    .await
    .map(Json)
}

/// The API for a control socket, which says who is at its other end.
pub fn service(
    control: Arc<Control>,
) -> axum::extract::connect_info::IntoMakeServiceWithConnectInfo<axum::Router, Peer> {
    super::router(control).into_make_service_with_connect_info::<Peer>()
}
