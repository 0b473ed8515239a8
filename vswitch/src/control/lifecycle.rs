//! The process: lock, socket, signals, the service manager, and the way down.
//!
//! In: a configuration file. Out: the exit of the process. What must hold: one switch per
//! socket; after SIGTERM or SIGINT no socket, lock, XDP program or interface of ours is left; a
//! lock that a killed process left behind stops nobody.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Write},
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use sd_notify::NotifyState;
use tokio::{
    net::UnixListener,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{Control, Drivers, Origin};
use crate::{
    api::{
        self,
        bounded::{Bounded, Bounds},
    },
    config::{self, Config, Machine},
    engine::{Engine, Settings},
};

/// How the process is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// The control socket, instead of the configuration's.
    pub socket: Option<PathBuf>,
    /// Never sleep, whatever the configuration says.
    pub busy_poll: bool,
}

/// Reads a configuration file.
///
/// # Errors
///
/// When it cannot be read, is larger than [`config::MAX_BYTES`] or is not UTF-8.
pub fn read_config(path: &Path) -> anyhow::Result<Origin> {
    let file = path.display().to_string();
    let open = File::open(path).with_context(|| format!("cannot read {file}"))?;
    let mut text = String::new();
    open.take(config::MAX_BYTES as u64 + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {file}"))?;
    Ok(Origin { file, text })
}

/// Runs the switch until SIGTERM or SIGINT.
///
/// # Errors
///
/// Whatever keeps it from starting, for the operator.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let origin = read_config(&options.config)?;
    let machine = Machine::this();
    let first = config::parse(&origin.file, &origin.text, &machine)?;
    let path = options.socket.as_ref().unwrap_or(&first.switch.socket);
    // Before anything is made, so that a signal during the start takes it away again.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control server")?;
    let signals = {
        let _inside = runtime.enter();
        Signals::catch().context("cannot catch signals")?
    };
    let lock = Lock::take(path)?;
    tracing::info!(socket = %path.display(), "starting");
    let (listener, socket) = listen(path, first.switch.socket_mode)?;
    let engine = Engine::start(&settings(&first, options.busy_poll))
        .context("the workers could not be started")?;
    let drivers = Drivers::default();
    let control = Arc::new(Control::new(
        Box::new(engine),
        Box::new(move |port| drivers.open(port)),
        machine,
        &first,
    ));
    control.keep_mirrors(sessions_file(path));
    let outcome = control
        .apply(origin, false)
        .map_err(anyhow::Error::from)
        .and_then(|_| {
            let server = server(&control, first.metrics, listener, &options.config, signals);
            supervised(&control, || runtime.block_on(server))
        });
    // Waits for requests that still run.
    drop(runtime);
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    drop(socket);
    // The server has ended, and with it every request that shared the control.
    if let Some(control) = Arc::into_inner(control) {
        control.stop();
    }
    drop(lock);
    if outcome.is_ok() {
        tracing::info!("stopped");
    }
    outcome
}

/// Where mirror sessions are kept.
fn sessions_file(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".mirrors");
    path.into()
}

fn settings(config: &Config, busy_poll: bool) -> Settings {
    Settings {
        cores: config.workers.cores.clone(),
        busy_poll: busy_poll || config.workers.busy_poll,
        max_sleep_us: config.workers.max_sleep_us,
        flow_cache_entries: config.workers.flow_cache_entries,
        connections_max: config.connections.max,
    }
}

/// Makes the control socket. The lock is held, so a socket that nobody listens on is a leftover.
pub(crate) fn listen(
    path: &Path,
    mode: u32,
) -> anyhow::Result<(std::os::unix::net::UnixListener, Socket)> {
    let shown = path.display();
    if UnixStream::connect(path).is_ok() {
        bail!(
            "something listens on {shown} already, and it is not a vswitch with a lock; stop it or choose another --socket"
        );
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
            bail!("{shown} exists and is no socket; move it away or choose another --socket")
        }
        Ok(_) => {
            fs::remove_file(path).with_context(|| format!("cannot remove the stale {shown}"))?;
        }
        Err(_) => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)
        .with_context(|| format!("cannot make the control socket {shown}"))?;
    let socket = Socket(path.to_owned());
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the permissions of {shown}"))?;
    listener.set_nonblocking(true)?;
    Ok((listener, socket))
}

/// The socket's path, while it is ours.
#[derive(Debug)]
pub(crate) struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Does `work` while another thread looks after the ports.
fn supervised(control: &Control, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let supervisor = std::thread::Builder::new()
            .name("supervisor".into())
            .spawn_scoped(scope, || control.supervise(&stop))?;
        let outcome = work();
        stop.store(true, Ordering::Release);
        supervisor.thread().unpark();
        outcome
    })
}

/// The signals that are answered.
pub(crate) struct Signals {
    pub(crate) terminate: Signal,
    pub(crate) interrupt: Signal,
    pub(crate) hangup: Signal,
}

impl Signals {
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Serves until a signal ends it. Requests that wait for workers go to the runtime's blocking
/// threads.
async fn server(
    control: &Arc<Control>,
    metrics: Option<SocketAddr>,
    listener: std::os::unix::net::UnixListener,
    file: &Path,
    signals: Signals,
) -> anyhow::Result<()> {
    let app = api::service(Arc::clone(control));
    let listener = UnixListener::from_std(listener)?;
    let (down, _) = tokio::sync::watch::channel(false);
    let ended = |mut receiver: tokio::sync::watch::Receiver<bool>| async move {
        let _ = receiver.wait_for(|down| *down).await;
    };
    let api = tokio::spawn(
        axum::serve(listener, app)
            .with_graceful_shutdown(ended(down.subscribe()))
            .into_future(),
    );
    let metrics = match metrics {
        Some(address) => {
            let listener = tokio::net::TcpListener::bind(address)
                .await
                .with_context(|| format!("[metrics] cannot listen on {address}"))?;
            let listener = Bounded::new(listener, Bounds::default());
            let app = api::metrics_router(Arc::clone(control));
            Some(tokio::spawn(
                axum::serve(listener, app)
                    .with_graceful_shutdown(ended(down.subscribe()))
                    .into_future(),
            ))
        }
        None => None,
    };
    tracing::info!(pid = std::process::id(), "ready");
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    until_signal(control, file, signals).await;
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    control.end_streams();
    let _ = down.send(true);
    // A client that keeps its connection open must not keep the switch from stopping.
    let drain = async {
        let _ = api.await;
        if let Some(metrics) = metrics {
            let _ = metrics.await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), drain).await;
    Ok(())
}

/// Answers signals and feeds the watchdog until it is time to stop.
async fn until_signal(control: &Arc<Control>, file: &Path, mut signals: Signals) {
    let period = sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |t| t / 2);
    let mut watchdog = tokio::time::interval(period);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => {
                let (control, file) = (Arc::clone(control), file.to_owned());
                // Not waited for: the watchdog is fed and signals are answered meanwhile.
                drop(tokio::task::spawn_blocking(move || reload(&control, &file)));
            }
            _ = watchdog.tick() => {
                let control = Arc::clone(control);
                let alive = tokio::task::spawn_blocking(move || control.alive()).await;
                if matches!(alive, Ok(true)) {
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                } else {
                    tracing::error!("a worker does not answer");
                }
            }
        }
    }
    tracing::info!("stopping");
}

fn reload(control: &Control, file: &Path) {
    let _ = NotifyState::monotonic_usec_now()
        .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now]));
    let outcome = read_config(file).and_then(|origin| Ok(control.apply(origin, false)?));
    match outcome {
        Ok(applied) => {
            for change in &applied.changes {
                tracing::info!("{change}");
            }
        }
        Err(error) => tracing::error!("reload refused: {error:#}"),
    }
    let _ = sd_notify::notify(&[NotifyState::Ready]);
}

/// The right to use a socket's path; the kernel takes it back when the process ends, however it
/// ends.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    pub(crate) fn take(socket: &Path) -> anyhow::Result<Self> {
        if let Some(folder) = socket.parent() {
            fs::create_dir_all(folder).with_context(|| {
                format!("cannot make {} for the control socket", folder.display())
            })?;
        }
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        // Between opening and locking, the former owner may have removed the file: then the lock
        // is on a file that nobody else will find, and it is taken anew.
        for _ in 0..16 {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .with_context(|| format!("cannot open the lock {}", path.display()))?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                bail!(
                    "vswitch runs already on {} (process {}); stop it, or choose another --socket",
                    socket.display(),
                    pid.trim()
                );
            }
            if same_file(&file, &path) {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                return Ok(Self { path, _file: file });
            }
        }
        bail!("the lock {} is removed again and again", path.display())
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the file is closed, so that nobody can lock it in between and lose it.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_instance_is_refused_and_a_stale_lock_is_not() {
        let folder = tempfile::tempdir().expect("temp");
        let socket = folder.path().join("run/vswitch.sock");
        let lock = Lock::take(&socket).expect("free");
        let refused = Lock::take(&socket).expect_err("taken").to_string();
        let pid = std::process::id().to_string();
        assert!(refused.contains(&pid), "{refused}");
        drop(lock);
        assert!(!folder.path().join("run/vswitch.sock.lock").exists());
        fs::write(folder.path().join("run/vswitch.sock.lock"), "99999").expect("stale");
        Lock::take(&socket).expect("stale locks stop nobody");
    }
}
