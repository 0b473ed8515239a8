//! The receive queue of a bed's port: a memory queue, frames with a tag beside them, and a check
//! of the loan: every `receive` is followed by one `release`, and a burst has ended by then.

use std::{
    collections::VecDeque,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex},
};

use pmd::{Burst, Frame, PartialChecksum, RxQueue, Wait};

/// A frame, the tag beside it, and the checksum that its sender marked.
type Fed = (Vec<u8>, Option<u16>, Option<PartialChecksum>);

/// Frames that the test puts into a queue directly.
#[derive(Clone, Default)]
pub(crate) struct Feed(Arc<Mutex<VecDeque<Fed>>>);

impl Feed {
    pub(crate) fn push(&self, bytes: &[u8], tci: Option<u16>) {
        self.push_fed((bytes.to_vec(), tci, None));
    }

    pub(crate) fn push_marked(&self, bytes: &[u8], mark: PartialChecksum) {
        self.push_fed((bytes.to_vec(), None, Some(mark)));
    }

    fn push_fed(&self, fed: Fed) {
        let mut frames = self.0.lock().expect("no test thread panicked");
        frames.push_back(fed);
    }

    fn take(&self, most: usize) -> Vec<Fed> {
        let mut frames = self.0.lock().expect("no test thread panicked");
        let count = frames.len().min(most);
        frames.drain(..count).collect()
    }
}

pub(crate) struct BedRx {
    inner: Box<dyn RxQueue>,
    feed: Feed,
    lent: Vec<Fed>,
    on_loan: bool,
}

impl BedRx {
    pub(crate) fn new(inner: Box<dyn RxQueue>, feed: Feed) -> Self {
        Self {
            inner,
            feed,
            lent: Vec::new(),
            on_loan: false,
        }
    }
}

impl RxQueue for BedRx {
    fn receive<'a>(&'a mut self, burst: &mut Burst<'a>) {
        assert!(!self.on_loan, "received again before the release");
        assert!(burst.remaining_capacity() > 0, "asked without room");
        self.on_loan = true;
        self.inner.receive(burst);
        self.lent = self.feed.take(burst.remaining_capacity());
        for (bytes, tci, mark) in &self.lent {
            let mut frame = Frame::contiguous(bytes);
            frame.vlan_tci = *tci;
            frame.partial_checksum = *mark;
            burst.push(frame);
        }
    }

    fn release(&mut self) {
        assert!(self.on_loan, "released what was not lent");
        self.on_loan = false;
        self.lent.clear();
        self.inner.release();
    }

    fn prepare_wait(&mut self) -> Wait {
        Wait::Ready
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Drop for BedRx {
    fn drop(&mut self) {
        assert!(
            !self.on_loan || std::thread::panicking(),
            "dropped while frames are on loan"
        );
    }
}
