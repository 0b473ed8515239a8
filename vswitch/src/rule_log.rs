//! What rules with `log` decided: one event for each flow, on its way to the process's log.
//!
//! ```text
//!   slow path: a rule with `log` decided ─► Notes ─► port's quota ─► Ring (one a worker) ─► Writer
//!   (only on a miss: what the cache answers was told before)              never waited for
//! ```
//!
//! What must hold:
//! - the walk of a frame that the cache answers knows nothing of this;
//! - a port's rules tell at most [`MOST_PER_SECOND`] events a second, all workers together, and what
//!   is held back is counted and told in one line;
//! - a worker never waits: what finds no room in its ring is counted, and told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use policy::{
    DropReason, NetworkId, Parsed, PortId, RuleId,
    rule::{Direction, Origin, Places},
    snapshot::Snapshot,
};

use crate::{decode, meter::MeterSlot, published::Bundle, storm::drained_after};

/// Most events a second that the rules of one port's vNIC tell.
pub const MOST_PER_SECOND: u32 = 100;

/// After silence, so much of a second's events may come at once, nanoseconds.
const TOLERANCE_NS: u64 = 1_000_000_000;

/// Events that wait in one worker's ring.
const RING: usize = 1024;

/// Most notes of one frame: its sender's, and so many receivers'.
const MOST_NOTES: usize = 16;

/// How often what was held back is told.
const SUMMARY: Duration = Duration::from_secs(1);

/// That a rule with `log` decided.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// The port of the vNIC whose rule it is.
    pub port: PortId,
    /// Which of that vNIC's frames.
    pub direction: Direction,
    /// Where.
    pub network: NetworkId,
    /// The rule.
    pub rule: RuleId,
    /// Why it dropped the frame; `None` when it let it pass.
    pub dropped: Option<DropReason>,
    /// Who may still drop it.
    pub meter: Option<MeterSlot>,
}

/// The notes of one frame.
#[derive(Debug, Default)]
pub struct Notes {
    notes: ArrayVec<Note, MOST_NOTES>,
    /// Those that found no room.
    lost: u64,
}

impl Notes {
    /// Whether nothing is noted, as of most frames.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    /// Takes one more.
    #[cold]
    pub fn push(&mut self, note: Note) {
        self.lost += u64::from(self.notes.try_push(note).is_err());
    }

    /// Says of frames that a rule lets pass up to its limit whether this one does: not when it is
    /// `over` the limit of its sender's rule, behind which nobody gets to judge it; and of a
    /// receiver's when there is a token, `has`.
    pub fn amend(&mut self, over: bool, has: impl Fn(MeterSlot) -> bool) {
        for note in &mut self.notes {
            let Some(meter) = note.meter else { continue };
            note.dropped = match note.direction {
                Direction::Out => over.then_some(DropReason::LimitOut),
                Direction::In => (!has(meter)).then_some(DropReason::LimitIn),
            };
        }
        if over {
            self.notes.retain(|note| note.direction == Direction::Out);
        }
    }

    /// All of them, and how many there were besides.
    pub fn take(&mut self) -> (ArrayVec<Note, MOST_NOTES>, u64) {
        (
            std::mem::take(&mut self.notes),
            std::mem::take(&mut self.lost),
        )
    }
}

/// One line of the log, with the names of then.
#[derive(Debug)]
struct Event {
    at_ns: u64,
    port: Arc<str>,
    vnic: Arc<str>,
    vm: Arc<str>,
    network: Arc<str>,
    direction: Direction,
    dropped: Option<DropReason>,
    rule: Arc<Origin>,
    number: RuleId,
    places: Arc<Places>,
    frame: Parsed,
}

impl Event {
    fn new(snapshot: &Snapshot, note: &Note, frame: &Parsed, at_ns: u64) -> Option<Self> {
        let port = snapshot.port(note.port)?;
        let vnic = port.vnic.as_ref()?;
        Some(Self {
            at_ns,
            port: Arc::clone(&port.name),
            vnic: Arc::clone(&vnic.name),
            vm: Arc::clone(&vnic.vm),
            network: Arc::clone(&snapshot.network(note.network)?.name),
            direction: note.direction,
            dropped: note.dropped,
            rule: Arc::clone(snapshot.logged(note.rule)?),
            number: note.rule,
            places: Arc::clone(snapshot.places()),
            frame: *frame,
        })
    }
}

/// How many events the rules of one port's vNIC may tell; shared by the workers.
#[derive(Debug, Default)]
pub struct Quota {
    /// When what was used of it has come back.
    drained_ns: AtomicU64,
    held_back: AtomicU64,
}

impl Quota {
    fn allows(&self, now_ns: u64) -> bool {
        let next = |drained_ns| drained_after(drained_ns, MOST_PER_SECOND, now_ns, TOLERANCE_NS);
        let taken = self.drained_ns.fetch_update(Relaxed, Relaxed, next);
        if taken.is_err() {
            self.held_back.fetch_add(1, Relaxed);
        }
        taken.is_ok()
    }
}

/// Where one worker leaves events.
#[derive(Debug)]
pub struct Ring {
    events: ArrayQueue<Event>,
    lost: AtomicU64,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            events: ArrayQueue::new(RING),
            lost: AtomicU64::new(0),
        }
    }
}

impl Ring {
    /// Leaves the notes of a frame, as many as their ports' quotas allow. Nothing allocates.
    #[cold]
    pub fn tell(&self, bundle: &Bundle, notes: &mut Notes, frame: &Parsed, now_ns: u64) {
        let (notes, mut lost) = notes.take();
        for note in &notes {
            let quota = bundle.port(note.port).map(|port| &port.log);
            if !quota.is_some_and(|quota| quota.allows(now_ns)) {
                continue;
            }
            if let Some(event) = Event::new(&bundle.snapshot, note, frame, now_ns) {
                lost += u64::from(self.events.push(event).is_err());
            }
        }
        if lost > 0 {
            self.lost.fetch_add(lost, Relaxed);
        }
    }
}

/// Writes what the workers leave.
#[derive(Debug)]
pub struct Writer {
    rings: Vec<Arc<Ring>>,
    clock: pmd::Clock,
    /// When what was held back is told next, nanoseconds of the clock.
    summary_ns: u64,
}

impl Writer {
    /// Of these workers.
    pub fn new(rings: Vec<Arc<Ring>>, clock: pmd::Clock) -> Self {
        Self {
            rings,
            clock,
            summary_ns: 0,
        }
    }

    /// Writes what has come. The log may make it wait, and with it nobody.
    pub fn write(&mut self, bundle: &Bundle) {
        let now_ns = self.clock.ns_at(pmd::clock::cycles());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default();
        for ring in &self.rings {
            // At most what was there: a worker may leave more as fast as this is written.
            for _ in 0..RING {
                let Some(event) = ring.events.pop() else {
                    break;
                };
                let age = Duration::from_nanos(now_ns.saturating_sub(event.at_ns));
                write_event(&event, now.saturating_sub(age));
            }
        }
        if now_ns >= self.summary_ns {
            self.summary_ns = now_ns + SUMMARY.as_nanos() as u64;
            self.write_summary(bundle);
        }
    }

    fn write_summary(&self, bundle: &Bundle) {
        for port in bundle.snapshot.ports() {
            let quota = bundle.port(port.id).map(|shared| &shared.log);
            let more = quota.map_or(0, |quota| quota.held_back.swap(0, Relaxed));
            if more > 0 {
                tracing::info!(target: "vswitch::rule", port = %port.name, "{more} more not logged");
            }
        }
        let lost: u64 = self.rings.iter().map(|r| r.lost.swap(0, Relaxed)).sum();
        if lost > 0 {
            tracing::info!(target: "vswitch::rule", "{lost} more not logged: they came too fast");
        }
    }
}

/// `at` is since 1970.
fn write_event(event: &Event, at: Duration) {
    let verdict = match event.dropped {
        None => "passed",
        Some(DropReason::AclIn | DropReason::AclOut) => "denied",
        Some(DropReason::RejectIn | DropReason::RejectOut) => "rejected",
        Some(reason) => reason.name(),
    };
    let place = event.places.of(event.number);
    tracing::info!(
        target: "vswitch::rule",
        verdict,
        direction = %event.direction,
        vm = %event.vm,
        vnic = %event.vnic,
        port = %event.port,
        network = %event.network,
        frame = decode::flow_words(&event.frame),
        rule = &*event.rule.text,
        acl = &*event.rule.acl,
        place = place.map_or_else(String::new, |place| place.to_string()),
        time = format!("{}.{:03}", at.as_secs(), at.subsec_millis()),
        "rule decided"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_holds_back_and_counts_what_is_beyond_it() {
        let quota = Quota::default();
        let allowed = |at_ns| (0..1000).filter(|_| quota.allows(at_ns)).count();
        assert_eq!(allowed(1_000_000_000), MOST_PER_SECOND as usize + 1);
        assert_eq!(allowed(1_500_000_000), MOST_PER_SECOND as usize / 2);
        let beyond = 2000 - u64::from(MOST_PER_SECOND) * 3 / 2 - 1;
        assert_eq!(quota.held_back.load(Relaxed), beyond);
    }

    #[test]
    fn a_frame_notes_so_much_and_counts_the_rest() {
        let mut notes = Notes::default();
        let note = Note {
            port: PortId(1),
            direction: Direction::In,
            network: NetworkId(1),
            rule: RuleId(1),
            dropped: None,
            meter: None,
        };
        (0..MOST_NOTES + 3).for_each(|_| notes.push(note));
        let (taken, lost) = notes.take();
        assert_eq!((taken.len(), lost), (MOST_NOTES, 3));
        assert!(notes.is_empty());
    }
}
