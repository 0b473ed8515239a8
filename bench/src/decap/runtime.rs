//! The receiving thread's turn on a memory port.
//!
//! In: tunnels' frames. Out: how many cycles turns took. Not timed: handing the frames to the port, and
//! emptying the sniffers' queues, which other threads do.

use std::sync::Arc;

use anyhow::ensure;
use mirror::{
    decap::{FanOut, Options as Core},
    wire::Template,
};
use parking_lot::Mutex;
use pmd::{BURST, Frame, Port, clock::cycles, memory, memory::Endpoint};
use policy::Mac;
use vswitch::{
    config::{
        decapsulator::{Decapsulator, Session, Sink, Sniffer},
        types::{Driver, Memory},
    },
    decap::{receiver::Receiver, runtime::without_threads},
};

use super::{MOST_BYTES, Options};

/// Frames that a sniffer's queue has room for.
const QUEUE_FRAMES: u32 = 256;

pub(super) struct Turning {
    receiver: Receiver,
    tunnel: Endpoint,
    sniffers: Vec<Endpoint>,
    got: u64,
}

impl Turning {
    pub(super) fn new(options: &Options, templates: &[Template]) -> anyhow::Result<Self> {
        let config = config(options, templates);
        let (near, far) = memory::pair(memory::Config {
            slots: 64,
            max_frame_bytes: MOST_BYTES,
            ..memory::Config::default()
        })?;
        let near = Mutex::new(Some(near));
        let opener = move |_: &str, _: &Driver| -> Result<Port, pmd::OpenError> {
            let port = near.lock().take();
            port.ok_or_else(|| pmd::OpenError::Missing("the port was opened before".into()))
        };
        let (receiver, ends) = without_threads(&config, &(Arc::new(opener) as _))?;
        Ok(Self {
            receiver,
            tunnel: Endpoint::new(far),
            sniffers: ends.into_iter().map(Endpoint::new).collect(),
            got: 0,
        })
    }

    /// Cycles that turns take to receive `frames`.
    pub(super) fn pass<'f>(&mut self, frames: impl Iterator<Item = &'f [u8]>) -> u64 {
        let mut took = 0;
        let mut frames = frames.peekable();
        while frames.peek().is_some() {
            let mut burst = pmd::Burst::new();
            burst.extend(frames.by_ref().take(BURST).map(Frame::contiguous));
            self.tunnel.send_burst(&burst);
            let began = cycles();
            self.receiver.turn();
            took += cycles() - began;
            for sniffer in &mut self.sniffers {
                self.got += sniffer.receive(|_| {}) as u64;
            }
        }
        took
    }

    /// Every copy came out of a queue.
    pub(super) fn check_accounts(&self, copies: u64) -> anyhow::Result<()> {
        let counted = self.receiver.core_counters().totals.copies.get();
        ensure!(
            self.got == copies && counted == copies,
            "{copies} copies were due, {counted} counted, {} came",
            self.got
        );
        let sessions = &self.receiver.core_counters().sessions;
        let gaps: u64 = sessions
            .iter()
            .map(|session| session.sequence.sequenced.get() - session.sequence.in_order.get())
            .sum();
        ensure!(gaps == 0, "{gaps} frames were out of order");
        Ok(())
    }
}

fn config(options: &Options, templates: &[Template]) -> Decapsulator {
    let count = options.sniffers.get();
    let name = |number: u16| -> Arc<str> { format!("sniffer{}", number % count).into() };
    let tenant: Arc<str> = "tenant".into();
    let each = options.sniffers_of_session.get().min(count);
    let sniffers = (0..count).map(|number| Sniffer {
        name: name(number),
        tenant: Arc::clone(&tenant),
        mac: Mac([2, 0xff, 0, 0, (number >> 8) as u8, number as u8]),
        sink: Sink::Stream("-".into()),
        queue_frames: QUEUE_FRAMES,
        max_frame_bytes: options.size_bytes.max(64),
    });
    let sessions = templates.iter().enumerate().map(|(number, template)| {
        let first = (number % usize::from(count)) as u16;
        Session {
            name: number.to_string().into(),
            tenant: Arc::clone(&tenant),
            identity: template.identity(),
            sniffers: (0..each).map(|more| name(first + more)).collect(),
            fan_out: if options.spread {
                FanOut::Spread
            } else {
                FanOut::All
            },
            once: options.once,
        }
    });
    Decapsulator {
        port: Driver::Memory(Memory {
            slots: 64,
            max_frame_bytes: MOST_BYTES,
        }),
        addresses: Vec::new(),
        mac: None,
        core: None,
        max_sleep_us: 50,
        options: Core {
            sessions: templates.len(),
            ..Core::default()
        },
        sessions: sessions.collect(),
        sniffers: sniffers.collect(),
    }
}
