//! One request to the switch over its control socket.

use std::{fmt::Write, ops::ControlFlow, path::PathBuf, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
};
use hyper_util::rt::TokioIo;

use crate::api::types::Failure;

/// Longer than any change takes that waits for workers and drivers.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// Nobody listens.
    #[error(
        "no switch answers on {socket} ({error}); start one with `vswitch run --config FILE`, or name its socket with --socket or VSWITCH_SOCKET"
    )]
    NotRunning {
        socket: String,
        error: std::io::Error,
    },
    /// Somebody may listen, but not to this user.
    #[error("you may not use {0}; run as its owner, or let its group in with socket_mode")]
    Forbidden(String),
    /// The switch refused.
    #[error("{0}")]
    Refused(String),
    /// The connection broke.
    #[error("the switch did not answer: {0}; its log says why")]
    Broken(String),
}

/// Speaks to one socket.
pub(crate) struct Client {
    socket: PathBuf,
    patience: Duration,
}

impl Client {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            patience: PATIENCE,
        }
    }

    /// Waits so long for an answer.
    pub(crate) fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Sends a request and returns the answer's body.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<String>,
    ) -> anyhow::Result<String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let exchange = self.exchange(method, path, body);
        Ok(runtime.block_on(async {
            match tokio::time::timeout(self.patience, exchange).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Failed::Broken(format!(
                    "after {} s",
                    self.patience.as_secs()
                ))),
            }
        })?)
    }

    /// Reads an answer line by line as it comes, until it ends or `take` breaks.
    pub(crate) fn lines(
        &self,
        path: &str,
        mut take: impl FnMut(&str) -> anyhow::Result<ControlFlow<()>>,
    ) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let (response, _connection) = self.open("GET", path, None).await?;
            let mut body = response.into_body();
            let mut rest = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| broken(&error))?;
                rest.extend_from_slice(frame.data_ref().map_or(&[][..], |bytes| bytes));
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    if take(String::from_utf8_lossy(&line).trim_end())?.is_break() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    /// Sends a request and returns the answer, if it is one to be read, before its body has come. The
    /// body goes on as long as the connection is kept.
    pub(crate) async fn open(
        &self,
        method: &str,
        path: &str,
        body: Option<String>,
    ) -> Result<(Response<Incoming>, Connection), Failed> {
        let (response, connection) = self.send(method, path, body).await?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok((response, connection));
        }
        let bytes = response.into_body().collect().await;
        let bytes = bytes.map_err(|error| broken(&error))?.to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Err(Failed::Refused(failure(status, &text)))
    }

    pub(crate) async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Option<String>,
    ) -> Result<String, Failed> {
        let (response, _connection) = self.open(method, path, body).await?;
        let body = response.into_body().collect();
        let body = body.await.map_err(|error| broken(&error))?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Sends a request. The answer goes on as long as the connection is kept.
    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<String>,
    ) -> Result<(Response<Incoming>, Connection), Failed> {
        let stream = tokio::net::UnixStream::connect(&self.socket)
            .await
            .map_err(|error| {
                let socket = self.socket.display().to_string();
                if error.kind() == std::io::ErrorKind::PermissionDenied {
                    Failed::Forbidden(socket)
                } else {
                    Failed::NotRunning { socket, error }
                }
            })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        let driver = Connection(tokio::spawn(connection));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "vswitch")
            .header("content-type", "application/toml")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| broken(&error))?;
        let response = sender.send_request(request);
        let response = response.await.map_err(|error| broken(&error))?;
        Ok((response, driver))
    }
}

/// What moves the bytes of one connection; they stop when it is dropped.
pub(crate) struct Connection(tokio::task::JoinHandle<hyper::Result<()>>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn broken(error: &dyn std::fmt::Display) -> Failed {
    Failed::Broken(error.to_string())
}

/// What the switch said, for a person.
fn failure(status: StatusCode, body: &str) -> String {
    let Ok(failure) = serde_json::from_str::<Failure>(body) else {
        return format!("the switch answered {status}: {body}");
    };
    let mut text = failure.error;
    for problem in &failure.details {
        let _ = write!(text, "\n\n{problem}");
    }
    text
}

/// A text as it may stand in a path segment or a query (RFC 3986 §2.1).
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte as char);
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded() {
        assert_eq!(percent_encoded("/a b?ü"), "%2Fa%20b%3F%C3%BC");
    }

    #[test]
    fn nobody_listening_is_told_apart_and_says_what_to_do() {
        let client = Client::new("/nonexistent/vswitch.sock".into());
        let error = client
            .request("GET", "/v1/ports", None)
            .expect_err("nobody");
        assert!(matches!(
            error.downcast_ref::<Failed>(),
            Some(Failed::NotRunning { .. })
        ));
        assert!(
            error.to_string().contains("vswitch run --config"),
            "{error}"
        );
    }
}
