//! Dropped frames as they happen: one JSON object a line, for as long as somebody reads.
//!
//! In: a watch. Out: lines. What must hold: when the client goes, or takes nothing for
//! [`STALLED`], or its time is up, or the switch stops, the watch ends; a client that is slow loses samples, and is told
//! how many.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{Query, State},
    http::header,
    response::{IntoResponse, Response},
};
use hyper::body::Frame;
use serde::Deserialize;
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::Instant,
};
use utoipa::IntoParams;

use super::{Error, Shared, types};
use crate::{
    api::types::DropLine,
    control::{Control, DropFeed, WatchRequest},
};

/// How often the workers' rings are looked into.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often a line comes when there is nothing to tell.
const SILENCE: Duration = Duration::from_secs(1);

/// How long a client may take nothing.
const STALLED: Duration = Duration::from_secs(10);

/// Lines on their way to one client.
const LINES: usize = 64;

const DEFAULT_PER_SECOND: u32 = 100;
const MOST_PER_SECOND: u32 = 10_000;
const DEFAULT_SECONDS: u64 = 3600;
const MOST_SECONDS: u64 = 86_400;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchQuery {
    /// Only frames that came in by this port or were to leave by it.
    port: Option<String>,
    /// Only frames dropped for this reason.
    reason: Option<String>,
    /// Samples per second of each worker at most; 100 when absent.
    per_second: Option<u32>,
    /// When the stream ends by itself, seconds; 3600 when absent.
    seconds: Option<u64>,
}

/// Samples of dropped frames as they happen: one `DropLine` a line
#[utoipa::path(get, path = "/v1/drops/samples", params(WatchQuery),
    responses((status = 200, body = types::DropLine, content_type = "application/x-ndjson"), (status = 404, body = types::Failure), (status = 409, body = types::Failure)))]
pub(super) async fn drop_samples(
    State(control): Shared,
    Query(query): Query<WatchQuery>,
) -> Result<Response, Error> {
    let per_second = query.per_second.unwrap_or(DEFAULT_PER_SECOND);
    let wanted = WatchRequest {
        port: query.port,
        reason: query.reason,
        per_second: per_second.clamp(1, MOST_PER_SECOND),
    };
    let feed = Control::watch_drops(&control, &wanted)?;
    let (lines, receiver) = mpsc::channel(LINES);
    let seconds = query.seconds.unwrap_or(DEFAULT_SECONDS).min(MOST_SECONDS);
    let end = Instant::now() + Duration::from_secs(seconds);
    tokio::spawn(pump(feed, lines, end));
    let body = Body::new(Lines(receiver));
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, body).into_response())
}

/// Moves samples to the client until one of the two ends.
async fn pump(mut feed: DropFeed, lines: Sender<Bytes>, end: Instant) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // At once, so that the client knows that the watch has begun.
    let mut quiet_since: Option<Instant> = None;
    loop {
        tokio::select! {
            () = lines.closed() => return,
            _ = look.tick() => {}
        }
        while let Some(line) = feed.next_line() {
            quiet_since = Some(Instant::now());
            if !send(&lines, &line).await {
                return;
            }
        }
        if quiet_since.is_none_or(|since| since.elapsed() >= SILENCE) {
            quiet_since = Some(Instant::now());
            let line = DropLine {
                skipped: feed.take_skipped(),
                sample: None,
            };
            if !send(&lines, &line).await {
                return;
            }
        }
        if Instant::now() >= end || feed.is_over() {
            let skipped = feed.take_skipped();
            if skipped > 0 {
                let line = DropLine {
                    skipped,
                    sample: None,
                };
                send(&lines, &line).await;
            }
            return;
        }
    }
}

/// False when the client is gone or stalled.
async fn send(lines: &Sender<Bytes>, line: &DropLine) -> bool {
    let Ok(mut text) = serde_json::to_vec(line) else {
        return false;
    };
    text.push(b'\n');
    let sent = tokio::time::timeout(STALLED, lines.send(text.into())).await;
    matches!(sent, Ok(Ok(())))
}

/// A body of lines.
struct Lines(Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = self.0.poll_recv(context);
        next.map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
