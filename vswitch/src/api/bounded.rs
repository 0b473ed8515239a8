//! A listener that anybody may connect to: at most so many connections, and none for ever.
//!
//! In: a listener. Out: the same, whose connections end when they have been silent for too long,
//! and which accepts no further one while too many are open. What must hold: whoever opens
//! connections and says nothing costs the process a bounded number of descriptors, and keeps
//! others out for a bounded time.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};

/// How much is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Open connections.
    pub connections: usize,
    /// From what a client sent last until its connection is closed.
    pub silence: Duration,
}

impl Default for Bounds {
    /// More scrapers than a host has, and longer than the pause between two scrapes usually is.
    fn default() -> Self {
        Self {
            connections: 64,
            silence: Duration::from_secs(90),
        }
    }
}

/// A listener within [`Bounds`].
#[derive(Debug)]
pub struct Bounded<L> {
    inner: L,
    places: Arc<Semaphore>,
    silence: Duration,
}

impl<L> Bounded<L> {
    /// Puts bounds on a listener.
    pub fn new(inner: L, bounds: Bounds) -> Self {
        Self {
            inner,
            places: Arc::new(Semaphore::new(bounds.connections)),
            silence: bounds.silence,
        }
    }
}

impl<L: Listener> Listener for Bounded<L> {
    type Io = Connection<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let (inner, address) = self.inner.accept().await;
        let connection = Connection {
            inner,
            silence: self.silence,
            end: Box::pin(tokio::time::sleep(self.silence)),
            _place: place.ok(),
        };
        (connection, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// A connection that ends with the client's silence.
#[derive(Debug)]
pub struct Connection<I> {
    inner: I,
    silence: Duration,
    end: Pin<Box<Sleep>>,
    /// The semaphore is never closed, so there is always one.
    _place: Option<OwnedSemaphorePermit>,
}

impl<I> Connection<I> {
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.end.as_mut().poll(context).is_ready()
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Connection<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            let end = Instant::now() + self.silence;
            self.end.as_mut().reset(end);
        } else if outcome.is_pending() && self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        outcome
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Connection<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(context, bytes);
        // A client that takes nothing of its answer is silent too.
        if outcome.is_pending() && self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
    };

    use axum::{Router, routing::get};

    use super::*;

    #[test]
    fn silent_connections_end_and_make_room_for_others() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        listener.set_nonblocking(true).expect("set");
        let address = listener.local_addr().expect("bound");
        let bounds = Bounds {
            connections: 2,
            silence: Duration::from_millis(50),
        };
        // It ends with the test's process.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
                let app = Router::new().route("/", get(|| async { "here" }));
                axum::serve(Bounded::new(listener, bounds), app).await
            })
        });

        let mut silent: Vec<_> = (0..2)
            .map(|_| TcpStream::connect(address).expect("taken"))
            .collect();
        let mut third = TcpStream::connect(address).expect("queued by the kernel");
        third
            .write_all(b"GET / HTTP/1.0\r\n\r\n")
            .expect("sent to the kernel");
        let mut answer = String::new();
        third.read_to_string(&mut answer).expect("answered");
        assert!(answer.ends_with("here"), "{answer}");
        // They were closed, or the third would have waited for ever.
        assert_eq!(silent[0].read(&mut [0]).expect("closed"), 0);
    }
}
