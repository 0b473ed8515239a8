//! Captures: a pcapng stream for as long as somebody reads it.
//!
//! ```text
//!   Feed ── by time, a chunk at a time ──► pcapng blocks ──► a few chunks on their way ──► the client
//! ```
//!
//! In: a capture's copies. Out: chunked bytes, each chunk of whole blocks, and behind the last one how
//! the capture went, as a trailer (RFC 9110 §6.5). What must hold: a client that takes nothing makes copies
//! stay in the capture's memory until that is full, and nothing else wait; when it is gone, the sessions
//! are out of force at once.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{Extensions, HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use hyper::body::Frame;
use pmd::pcap::{Blocks, Direction, Stamp, Statistics};
use tokio::{
    sync::mpsc::{self, Permit, Receiver, Sender},
    time::{Instant, timeout},
};

use super::{
    Answer, Error, Shared, apart,
    capture_types::{Capture, CaptureRequest, CaptureSummary, ID_HEADER, SUMMARY_TRAILER},
    mirrors::who,
    read, types,
};
use crate::control::{Control, Feed};

/// The stream's type.
const CONTENT_TYPE: &str = "application/x-pcapng";
const APPLICATION: &str = concat!("vswitch ", env!("CARGO_PKG_VERSION"));

/// How often workers' copies are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How far behind the clock copies are read: later than any worker ends a turn, so that they come in
/// order.
const SETTLE_NS: u64 = 2_000_000;
/// Length of a chunk; a frame more than that at most.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks on their way to one client.
const CHUNKS: usize = 4;
/// How often a client is told what was lost, if it was.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether a capture is over whose client takes nothing.
const STALLED_LOOK: Duration = Duration::from_millis(100);
/// How long such a client may take, when the capture is over, for what was captured.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// Copies that the client did not take in time, in the summary.
const UNREAD: &str = "unread";

/// Every capture that goes on
#[utoipa::path(get, path = "/v1/captures", responses((status = 200, body = [Capture])))]
pub(super) async fn captures(State(control): Shared) -> Answer<Vec<Capture>> {
    apart(control, |control| Ok(control.captures()))
        .await
        .map(Json)
}

/// Captures for as long as the answer is read: pcapng, with the number in the header
/// `vswitch-capture` and a `CaptureSummary` in the trailer `vswitch-capture-summary`
#[utoipa::path(post, path = "/v1/captures", request_body = CaptureRequest,
    responses((status = 200, body = CaptureSummary, content_type = "application/x-pcapng"), (status = 400, body = types::Failure), (status = 409, body = types::Failure)))]
pub(super) async fn capture(
    State(control): Shared,
    extensions: Extensions,
    body: String,
) -> Result<Response, Error> {
    let wanted: CaptureRequest = read(&body)?;
    let who = who(&extensions);
    let (count, seconds) = (wanted.count, wanted.seconds);
    let shared = Arc::clone(&control);
    let feed = apart(control, move |_| Control::start_capture(&shared, wanted, who)).await?;
    let id = feed.id();
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    let end = seconds.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let stream = Stream::new(feed, count.unwrap_or(u64::MAX));
    tokio::spawn(pump(stream, chunks, end));
    let headers = [
        (header::CONTENT_TYPE, CONTENT_TYPE.to_owned()),
        (header::TRAILER, SUMMARY_TRAILER.to_owned()),
        (
            header::HeaderName::from_static(ID_HEADER),
            id.to_string(),
        ),
    ];
    Ok((headers, Body::new(Chunks(receiver))).into_response())
}

/// Ends a capture; its client gets what was captured
#[utoipa::path(delete, path = "/v1/captures/{id}", params(("id" = u32, Path)),
    responses((status = 200, body = Capture), (status = 404, body = types::Failure)))]
pub(super) async fn end_capture(
    State(control): Shared,
    Path(id): Path<u32>,
    extensions: Extensions,
) -> Answer<Capture> {
    let who = who(&extensions);
    apart(control, move |control| control.end_capture(id, who))
        .await
        .map(Json)
}

/// A capture's copies as blocks.
struct Stream {
    feed: Feed,
    blocks: Blocks,
    /// Frames in the stream, by interface. Each has its description block there.
    captured: Vec<u64>,
    /// How many more frames are wanted.
    left: u64,
    /// What was lost when it was told last.
    told: u64,
}

impl Stream {
    fn new(feed: Feed, count: u64) -> Self {
        let mut blocks = Blocks::new(CHUNK_BYTES / pmd::BURST);
        blocks.section(APPLICATION);
        let mut stream = Self {
            feed,
            blocks,
            captured: Vec::new(),
            left: count,
            told: 0,
        };
        stream.describe();
        stream
    }

    /// Tells of interfaces that there are since the last time.
    fn describe(&mut self) {
        for port in self.feed.ports(self.captured.len()) {
            self.blocks.interface(&port, "port of vswitch");
            self.captured.push(0);
        }
    }

    /// The next blocks, if there are any, of copies that were made before `horizon_ns`.
    fn chunk(&mut self, horizon_ns: u64) -> Option<Bytes> {
        // An interface is there before its first copy, and that is older than the horizon.
        self.describe();
        while self.left > 0
            && self.blocks.bytes().len() < CHUNK_BYTES
            && let Some((note, bytes)) = self.feed.reader.next_copy(horizon_ns)
        {
            let stamp = Stamp {
                time_ns: note.time_ns,
                original_len: note.original_len,
                direction: if note.sent {
                    Direction::Out
                } else {
                    Direction::In
                },
                interface: note.interface,
                comment: if note.accepted { "" } else { "rejected" },
            };
            self.blocks.frame(&stamp, &[bytes]);
            if let Some(captured) = self.captured.get_mut(note.interface as usize) {
                *captured += 1;
            }
            self.left -= 1;
        }
        if self.blocks.bytes().is_empty() {
            return None;
        }
        let chunk = Bytes::copy_from_slice(self.blocks.bytes());
        self.blocks.clear();
        Some(chunk)
    }

    /// What was lost, in all.
    fn dropped(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for interface in 0..self.captured.len() {
            for (reason, frames) in self.feed.skipped(interface) {
                *all.entry(reason).or_default() += frames;
            }
        }
        all
    }

    /// Tells what was lost of each interface, if more was than the last time, or at the end.
    fn tell(&mut self, is_end: bool) {
        let lost: u64 = self.dropped().values().sum();
        if lost == self.told && !is_end {
            return;
        }
        self.told = lost;
        for (interface, captured) in self.captured.iter().enumerate() {
            let skipped = self.feed.skipped(interface);
            let dropped: u64 = skipped.values().sum();
            let reasons: Vec<String> = skipped.iter().map(|(r, n)| format!("{n} {r}")).collect();
            self.blocks.statistics(&Statistics {
                interface: interface as u32,
                time_ns: now_ns(),
                received: captured + dropped,
                dropped,
                comment: &reasons.join(", "),
            });
        }
    }

    /// Tells how the capture went, behind its last frame.
    fn finish(&mut self, ended: String) -> CaptureSummary {
        let mut unread = 0;
        while self.left > 0 && self.feed.reader.next_copy(u64::MAX).is_some() {
            unread += 1;
        }
        self.tell(true);
        let mut dropped = self.dropped();
        if unread > 0 {
            dropped.insert(UNREAD.into(), unread);
        }
        CaptureSummary {
            captured: self.captured.iter().sum(),
            dropped,
            ended,
        }
    }

    /// Why no more is wanted, if that is so.
    fn over(&self, end: Option<Instant>) -> Option<String> {
        if self.left == 0 {
            return Some("all frames that were asked for".into());
        }
        let is_late = end.is_some_and(|end| Instant::now() >= end);
        is_late
            .then(|| "its time is over".to_owned())
            .or_else(|| self.feed.over())
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// Moves copies to the client until one of the two ends.
async fn pump(mut stream: Stream, chunks: Sender<Frame<Bytes>>, end: Option<Instant>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told_at = Instant::now();
    let ended = loop {
        tokio::select! {
            () = chunks.closed() => break None,
            _ = look.tick() => {}
        }
        if let Some(why) = stream.over(end) {
            break Some(why);
        }
        if told_at.elapsed() >= TELL_EVERY {
            told_at = Instant::now();
            stream.tell(false);
        }
        let horizon_ns = now_ns().saturating_sub(SETTLE_NS);
        while let Some(room) = room(&chunks, || stream.over(end).is_none()).await
            && let Some(chunk) = stream.chunk(horizon_ns)
        {
            room.send(Frame::data(chunk));
        }
    };
    // Waits for the workers.
    let stopped = tokio::task::spawn_blocking(move || {
        stream.feed.stop();
        stream
    });
    let Ok(mut stream) = stopped.await else { return };
    if let Some(ended) = ended {
        let patient_until = Instant::now() + LAST_PATIENCE;
        let is_patient = || Instant::now() < patient_until;
        while let Some(room) = room(&chunks, is_patient).await
            && let Some(chunk) = stream.chunk(u64::MAX)
        {
            room.send(Frame::data(chunk));
        }
        let summary = stream.finish(ended);
        let last = Bytes::copy_from_slice(stream.blocks.bytes());
        for frame in [Frame::data(last), Frame::trailers(trailer(&summary))] {
            let Some(room) = room(&chunks, is_patient).await else {
                return;
            };
            room.send(frame);
        }
    }
}

fn trailer(summary: &CaptureSummary) -> HeaderMap {
    let mut trailer = HeaderMap::new();
    let text = serde_json::to_string(summary).unwrap_or_default();
    if let Ok(value) = HeaderValue::from_str(&text) {
        trailer.insert(SUMMARY_TRAILER, value);
    }
    trailer
}

/// Room for something that the client is to get. `None` when it is gone, or takes nothing and is waited for
/// no longer.
async fn room(
    chunks: &Sender<Frame<Bytes>>,
    is_waited_for: impl Fn() -> bool,
) -> Option<Permit<'_, Frame<Bytes>>> {
    loop {
        match timeout(STALLED_LOOK, chunks.reserve()).await {
            Ok(room) => return room.ok(),
            Err(_) if is_waited_for() => {}
            Err(_) => return None,
        }
    }
}

/// A body of chunks.
struct Chunks(Receiver<Frame<Bytes>>);

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}
