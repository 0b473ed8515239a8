//! From the switch to whoever reads a capture: the client's side of one.
//!
//! ```text
//!   control socket ──► this thread ── a few chunks ──► writer ──► output
//!                          ▲                  watcher ──┘ (its reader went)
//!                          └── SIGINT, SIGTERM
//! ```
//!
//! In: a request and an output. Out: the stream, and how it went. What must hold: an output that takes
//! nothing makes this process read no more, so that the switch counts what is lost; and whatever ends
//! the capture, its summary is asked for.

use std::{
    fs::File,
    io::{IsTerminal, Write},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::Context;
use hyper::body::{Bytes, Frame, Incoming};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::client::{Client, Failed};
use crate::api::capture_types::{CaptureRequest, CaptureSummary, ID_HEADER, SUMMARY_TRAILER};

/// Chunks that wait for the output.
const CHUNKS: usize = 4;
/// How long the switch may take to end a capture and say how it went.
const LAST_PATIENCE: Duration = Duration::from_secs(4);

/// Standard output, to write to it from another thread.
///
/// # Errors
/// When it is a terminal, which shows no capture.
pub(super) fn standard_output() -> anyhow::Result<File> {
    let output = std::io::stdout();
    anyhow::ensure!(
        !output.is_terminal(),
        "a capture is no text: pipe it (`vswitch capture ... | wireshark -k -i -`), or give --write FILE"
    );
    let own = output.as_fd().try_clone_to_owned();
    Ok(own.context("cannot write to standard output")?.into())
}

/// Captures into `output` until the capture, the output, or the user's patience ends.
///
/// # Errors
/// Why there is no capture, or why it is not whole.
pub(super) fn run(
    client: &Client,
    request: &CaptureRequest,
    output: File,
) -> anyhow::Result<CaptureSummary> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let body = serde_json::to_string(request)?;
    runtime.block_on(Pipe::run(client, body, output))
}

/// Either signal that ends a program.
struct Signals(Signal, Signal);

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self(
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        ))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// A capture on its way.
struct Pipe<'c> {
    client: &'c Client,
    id: String,
    /// None when the output takes nothing any more.
    chunks: Option<mpsc::Sender<Bytes>>,
    /// What the output is to get next.
    waiting: Option<Bytes>,
    summary: Option<CaptureSummary>,
    /// When the summary is waited for no longer.
    patient_until: Option<Instant>,
}

impl<'c> Pipe<'c> {
    async fn run(
        client: &'c Client,
        request: String,
        output: File,
    ) -> anyhow::Result<CaptureSummary> {
        let mut signals = Signals::catch()?;
        let opened = client.open("POST", "/v1/captures", Some(request));
        let (response, _connection) = opened.await?;
        let id = response.headers().get(ID_HEADER);
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
        let gone = watch(&output)?;
        let (chunks, receiver) = mpsc::channel(CHUNKS);
        let (done, mut written) = oneshot::channel();
        std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || done.send(write(output, receiver)))?;
        let mut pipe = Self {
            client,
            id: id.to_owned(),
            chunks: Some(chunks),
            waiting: None,
            summary: None,
            patient_until: None,
        };
        let outcome = pipe
            .pump(response.into_body(), &mut signals, gone, &mut written)
            .await;
        // What waits is written, if the output takes it; a further signal ends that.
        let is_open = pipe.chunks.take().is_some();
        if is_open {
            tokio::select! {
                written = &mut written => written.unwrap_or(Ok(())).context("cannot write the capture")?,
                () = signals.next() => {}
            }
        }
        outcome?;
        pipe.summary
            .context("the switch did not say how the capture went; its log may")
    }

    /// Moves chunks until the body ends.
    async fn pump(
        &mut self,
        mut body: Incoming,
        signals: &mut Signals,
        mut gone: oneshot::Receiver<()>,
        written: &mut oneshot::Receiver<std::io::Result<()>>,
    ) -> anyhow::Result<()> {
        use http_body_util::BodyExt;
        loop {
            let output = self.chunks.clone();
            let is_ending = self.patient_until.is_some();
            let patient_until = self.patient_until.unwrap_or_else(Instant::now);
            tokio::select! {
                // Told once: the receiver is spent then.
                _ = &mut gone, if !gone.is_terminated() => self.lose_output(),
                written = &mut *written, if !written.is_terminated() && self.chunks.is_some() => {
                    self.lose_output();
                    let failure = written.unwrap_or(Ok(())).err();
                    if let Some(error) = failure.filter(|e| e.kind() != std::io::ErrorKind::BrokenPipe) {
                        self.end().await;
                        return Err(error).context("cannot write the capture");
                    }
                }
                () = signals.next(), if !is_ending => {}
                () = sleep_until(patient_until), if is_ending => {
                    self.lose_output();
                    return Ok(());
                }
                room = room(output.as_ref()), if self.waiting.is_some() => {
                    if let (Some(room), Some(chunk)) = (room, self.waiting.take()) {
                        room.send(chunk);
                    }
                    continue;
                }
                frame = body.frame(), if self.waiting.is_none() => match frame {
                    None => return Ok(()),
                    Some(frame) => {
                        let gone = |error| Failed::Broken(format!("{error}; the switch has gone, and the capture ends here"));
                        self.take(frame.map_err(gone)?);
                        continue;
                    }
                },
            }
            if !is_ending {
                self.end().await;
            }
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(chunk) => self.waiting = self.chunks.is_some().then_some(chunk),
            Err(frame) => {
                let trailers = frame.trailers_ref();
                let summary = trailers.and_then(|trailers| trailers.get(SUMMARY_TRAILER));
                self.summary = summary.and_then(|s| serde_json::from_slice(s.as_bytes()).ok());
            }
        }
    }

    fn lose_output(&mut self) {
        self.chunks = None;
        self.waiting = None;
    }

    /// Asks the switch to end the capture: its last frames come then, and how it went.
    async fn end(&mut self) {
        self.patient_until = Some(Instant::now() + LAST_PATIENCE);
        let path = format!("/v1/captures/{}", self.id);
        // A switch that has gone, or has ended it already, is found where its answer is read.
        let _ = self.client.exchange("DELETE", &path, None).await;
    }
}

async fn room(chunks: Option<&mpsc::Sender<Bytes>>) -> Option<mpsc::Permit<'_, Bytes>> {
    chunks?.reserve().await.ok()
}

/// Writes chunks until there are no more.
fn write(mut output: File, mut chunks: mpsc::Receiver<Bytes>) -> std::io::Result<()> {
    while let Some(chunk) = chunks.blocking_recv() {
        output.write_all(&chunk)?;
    }
    Ok(())
}

/// Tells when nobody reads the output any more, also while there is nothing to write.
fn watch(output: &File) -> anyhow::Result<oneshot::Receiver<()>> {
    let own = output.try_clone()?;
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new()
        .name("watcher".into())
        .spawn(move || {
            // Asked for nothing, it answers errors alone; a file has none.
            let mut fds = [PollFd::from_borrowed_fd(own.as_fd(), PollFlags::empty())];
            while poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
            tell.send(())
        })?;
    Ok(told)
}
