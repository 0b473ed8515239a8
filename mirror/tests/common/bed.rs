//! A decapsulator with sessions, held to the laws of its counters.

use std::sync::Arc;

use mirror::{
    decap::{
        Decapsulator, FanOut, Options, Outcome, Reception, SessionSlot, Sniffer, SnifferId, Table,
    },
    wire::{Identity, Refusal, refusal::Account},
};
use policy::Mac;

pub(crate) fn sniffer(number: u16, tenant: &str) -> Sniffer {
    Sniffer {
        id: SnifferId(number),
        tenant: tenant.into(),
        mac: Mac([2, 0xff, 0, 0, (number >> 8) as u8, number as u8]),
    }
}

pub(crate) fn reception(
    name: &str,
    tenant: &str,
    identity: Identity,
    sniffers: &[u16],
) -> Reception {
    Reception {
        name: name.into(),
        tenant: tenant.into(),
        identity,
        sniffers: sniffers.iter().map(|number| SnifferId(*number)).collect(),
        fan_out: FanOut::All,
        once: false,
    }
}

/// What one sniffer got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) session: SessionSlot,
    pub(crate) sniffer: SnifferId,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Bed {
    pub(crate) decap: Decapsulator,
    pub(crate) now_ns: u64,
    /// Deliveries, for each law that the counters must agree with.
    delivered: Vec<u64>,
}

impl Bed {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            decap: Decapsulator::new(options),
            now_ns: 1,
            delivered: vec![0; options.sessions],
        }
    }

    pub(crate) fn with(sessions: &[Reception], sniffers: &[Sniffer]) -> Self {
        let options = Options {
            sessions: sessions.len().max(16),
            ..Options::default()
        };
        let mut bed = Self::new(&options);
        bed.adopt(sessions, sniffers);
        bed
    }

    /// Puts the next table in force.
    pub(crate) fn adopt(&mut self, sessions: &[Reception], sniffers: &[Sniffer]) -> Arc<Table> {
        let table = self.decap.table().next(sessions, sniffers);
        let table = Arc::new(table.expect("a table"));
        let former = self.decap.adopt(Arc::clone(&table)).expect("room");
        for (slot, session) in former.sessions() {
            let stays = |now: &Reception| now.name == session.name && now.tenant == session.tenant;
            let now = table.sessions().find(|(at, _)| *at == slot);
            if !now.is_some_and(|(_, now)| now.identity == session.identity && stays(now)) {
                self.delivered[slot.index()] = 0;
            }
        }
        table
    }

    /// What sniffers get of a frame, or why nobody gets it; `Ok` of nothing while it is held.
    pub(crate) fn receive(&mut self, frame: &[u8]) -> Result<Vec<Got>, Refusal> {
        self.now_ns += 1000;
        let table = Arc::clone(self.decap.table());
        let result = match self.decap.receive(frame, self.now_ns) {
            Outcome::Held => Ok(Vec::new()),
            Outcome::Refused(refusal) => Err(refusal),
            Outcome::Delivered(delivery) => {
                assert_eq!(delivery.version, table.version());
                assert!(!delivery.targets.is_empty());
                assert!(delivery.original_len() >= delivery.inner.len());
                if let Some(offset) = delivery.offset {
                    assert_eq!(
                        &frame[offset..offset + delivery.inner.len()],
                        delivery.inner
                    );
                }
                self.delivered[delivery.session.index()] += 1;
                let got = delivery.targets.iter().map(|target| {
                    assert!(table.admits(target.sniffer, delivery.version));
                    Got {
                        session: delivery.session,
                        sniffer: target.sniffer,
                        bytes: [&target.prefix()[..], delivery.rest()].concat(),
                    }
                });
                Ok(got.collect())
            }
        };
        self.check_laws();
        result
    }

    /// The laws of `mirror::decap::counts`.
    pub(crate) fn check_laws(&self) {
        let counters = self.decap.counters();
        let totals = &counters.totals;
        let refused = |account| -> u64 {
            let all = Refusal::ALL.iter().filter(|r| r.account() == account);
            all.map(|refusal| totals.refused.get(*refusal)).sum()
        };
        let (whole, fragments) = (totals.whole.get(), totals.fragments.get());
        assert_eq!(totals.frames.get(), whole + fragments);
        let (joined, held) = (totals.joined.get(), totals.held.get());
        assert_eq!(fragments, joined + held + refused(Account::Fragment));
        let (received, delivered) = (totals.received.get(), totals.delivered.get());
        assert_eq!(
            whole + totals.reassembled.get(),
            received + refused(Account::Frame)
        );
        assert_eq!(received, delivered + refused(Account::Session));
        for (slot, session) in counters.sessions.iter().enumerate() {
            let delivered = session.delivered.get();
            assert_eq!(session.received.get(), delivered + session.refused.sum());
            assert_eq!(delivered, self.delivered[slot]);
            let sequence = &session.sequence;
            let decided = [
                &sequence.in_order,
                &sequence.gaps,
                &sequence.reordered,
                &sequence.duplicates,
                &sequence.resets,
                &sequence.constant,
            ];
            let decided: u64 = decided.iter().map(|counter| counter.get()).sum();
            let undecided = self.decap.undecided(SessionSlot(slot as u32));
            assert_eq!(sequence.sequenced.get(), decided + undecided);
        }
    }

    pub(crate) fn refused(&self, refusal: Refusal) -> u64 {
        self.decap.counters().totals.refused.get(refusal)
    }
}
