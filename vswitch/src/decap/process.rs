//! A decapsulator that runs alone: `vswitch decap --config FILE`.
//!
//! In: a configuration file. Out: the exit of the process. What must hold: one process per socket;
//! after SIGTERM or SIGINT no socket, lock or XDP program of ours is left.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    http::{StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use serde::Deserialize;
use tokio::net::UnixListener;

use super::{
    Runtime,
    api::{self, Error, Place, apart},
    metrics,
};
use crate::{
    api::{
        bounded::{Bounded, Bounds},
        types::Failure,
    },
    config::{self, Machine, decapsulator},
    control::{
        Drivers,
        lifecycle::{self, Lock, Signals},
    },
};

/// How the process is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// The control socket, instead of the configuration's.
    pub socket: Option<PathBuf>,
}

/// The decapsulator of this process.
struct Alone(Arc<Runtime>);

impl Place for Alone {
    fn decapsulator(&self) -> Option<Arc<Runtime>> {
        Some(Arc::clone(&self.0))
    }
}

/// Runs a decapsulator until SIGTERM or SIGINT.
///
/// # Errors
///
/// Whatever keeps it from starting, for the operator.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let origin = lifecycle::read_config(&options.config)?;
    let alone = decapsulator::parse(&origin.file, &origin.text, &Machine::this())?;
    let path = options.socket.as_ref().unwrap_or(&alone.switch.socket);
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control server")?;
    let signals = {
        let _inside = tokio.enter();
        Signals::catch().context("cannot catch signals")?
    };
    let lock = Lock::take(path)?;
    let (listener, socket) = lifecycle::listen(path, alone.switch.socket_mode)?;
    let drivers = Drivers::default();
    let opener = Arc::new(move |name: &str, driver: &config::types::Driver| {
        drivers.open_driver(name, driver)
    });
    let runtime = Arc::new(Runtime::start(alone.decapsulator, opener)?);
    let served = serve(&runtime, alone.metrics, listener, &options.config, signals);
    let outcome = tokio.block_on(served);
    // Waits for requests that still run.
    drop(tokio);
    drop(socket);
    drop(runtime);
    drop(lock);
    if outcome.is_ok() {
        tracing::info!("stopped");
    }
    outcome
}

/// Serves until a signal ends it.
async fn serve(
    runtime: &Arc<Runtime>,
    metrics: Option<std::net::SocketAddr>,
    listener: std::os::unix::net::UnixListener,
    file: &Path,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let place: Arc<dyn Place> = Arc::new(Alone(Arc::clone(runtime)));
    let own = Router::new()
        .route("/v1/health", get(health))
        .route("/v1/decap/apply", post(apply))
        .layer(DefaultBodyLimit::max(config::MAX_BYTES))
        .with_state(Arc::clone(runtime));
    let text = Router::new()
        .route("/metrics", get(prometheus))
        .with_state(Arc::clone(runtime));
    let app = api::router(place)
        .merge(own)
        .merge(text.clone())
        .fallback(async || Error::new(StatusCode::NOT_FOUND, "there is no such path"));
    let listener = UnixListener::from_std(listener)?;
    let control = tokio::spawn(axum::serve(listener, app).into_future());
    let metrics = match metrics {
        Some(address) => {
            let listener = tokio::net::TcpListener::bind(address)
                .await
                .with_context(|| format!("[metrics] cannot listen on {address}"))?;
            let listener = Bounded::new(listener, Bounds::default());
            Some(tokio::spawn(axum::serve(listener, text).into_future()))
        }
        None => None,
    };
    tracing::info!(pid = std::process::id(), "ready");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => {
                let (runtime, file) = (Arc::clone(runtime), file.to_owned());
                drop(tokio::task::spawn_blocking(move || {
                    if let Err(error) = reload(&runtime, &file) {
                        tracing::error!("reload refused: {error:#}");
                    }
                }));
            }
        }
    }
    tracing::info!("stopping");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    control.abort();
    if let Some(metrics) = metrics {
        metrics.abort();
    }
    Ok(())
}

fn reload(runtime: &Runtime, file: &Path) -> anyhow::Result<()> {
    let origin = lifecycle::read_config(file)?;
    let alone = decapsulator::parse(&origin.file, &origin.text, &Machine::this())?;
    runtime.apply(alone.decapsulator)?;
    tracing::info!("reloaded");
    Ok(())
}

async fn health(State(runtime): State<Arc<Runtime>>) -> Result<Json<serde_json::Value>, Error> {
    let asked = apart(move || Ok(runtime.unknown().map(drop)?));
    asked
        .await
        .map(|()| Json(serde_json::json!({ "ok": true })))
}

async fn prometheus(State(runtime): State<Arc<Runtime>>) -> Result<impl IntoResponse, Error> {
    let text = apart(move || Ok(metrics::render(&runtime.everything()))).await?;
    Ok(([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyQuery {
    /// The file's name, for messages.
    file: Option<String>,
}

/// Applies a whole configuration; the body is TOML.
async fn apply(
    State(runtime): State<Arc<Runtime>>,
    Query(query): Query<ApplyQuery>,
    body: String,
) -> Result<Json<serde_json::Value>, Error> {
    let file = query.file.unwrap_or_else(|| "request".into());
    apart(move || {
        let alone = decapsulator::parse(&file, &body, &Machine::this()).map_err(|problems| {
            let failure = Failure {
                error: "the configuration is refused; nothing was changed".into(),
                details: problems.0,
            };
            Error(StatusCode::UNPROCESSABLE_ENTITY, failure)
        })?;
        runtime.apply(alone.decapsulator)?;
        let (config, table) = runtime.in_force();
        Ok(Json(serde_json::json!({
            "table": table.version().0,
            "sessions": config.sessions.len(),
            "sniffers": config.sniffers.len(),
        })))
    })
    .await
}

/// Checks that a file could be run.
///
/// # Errors
///
/// What is wrong with it.
pub fn check(path: &Path) -> anyhow::Result<decapsulator::Alone> {
    let origin = lifecycle::read_config(path)?;
    let alone = decapsulator::parse(&origin.file, &origin.text, &Machine::this())?;
    if alone.decapsulator.sessions.is_empty() {
        bail!("{}: no session, so nothing would be delivered", origin.file);
    }
    Ok(alone)
}
