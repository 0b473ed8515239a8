//! TCP states and windows, as a stranger on the way between both ends sees them.
//!
//! In: segments, in the order in which they pass. Out: whether each belongs to the conversation.
//! Each direction has a phase of its own, from which the connection's state follows; so
//! simultaneous opening, half-close and crossing FINs need no rules of their own.
//!
//! ```text
//!   Nothing ─SYN─► SynSent ─its ACK─► Established ─FIN─► FinSent ─its ACK─► FinAcked
//! ```
//!
//! What must hold: nothing that a conforming TCP sends is refused (RFC 9293, RFC 5961), and a
//! reset ends a connection only where its receiver takes it for exact (RFC 5961 §3).

use std::sync::atomic::Ordering::Relaxed;

use super::{
    line::{Line, Lines, at_or_after, in_window},
    packet::{Segment, flags},
    tuple::Direction,
};

/// A connection's state, by the names of RFC 9293 where both ends are in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Opened.
    SynSent,
    /// Answered, or opened from both ends.
    SynRecv,
    /// Open both ways.
    Established,
    /// One end has sent its last byte.
    FinWait,
    /// The other end knows, and may go on sending.
    CloseWait,
    /// Both ends have sent their last byte.
    LastAck,
    /// Both ends know.
    TimeWait,
    /// Reset.
    Close,
}

impl State {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynRecv => "syn_recv",
            Self::Established => "established",
            Self::FinWait => "fin_wait",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::TimeWait => "time_wait",
            Self::Close => "close",
        }
    }
}

/// How far one end has come.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Phase {
    /// It has sent nothing.
    #[default]
    Nothing,
    /// Its SYN is not acknowledged.
    SynSent,
    /// Its SYN is acknowledged.
    Established,
    /// Its FIN is not acknowledged.
    FinSent,
    /// Its FIN is acknowledged.
    FinAcked,
    /// The connection was reset, by either end.
    Reset,
}

/// What the states are made of; the numbers of each direction are in its [`Line`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp {
    pub(super) phases: [Phase; 2],
    /// What must be acknowledged for the next phase, where one waits for that.
    pub(super) marks: [u32; 2],
    /// Whether the other end has sent anything since the connection is known, TCP or not; the one
    /// that opened it has.
    pub(super) replied: bool,
    /// Its windows cannot be followed, so they are not looked at.
    pub(super) liberal: bool,
}

/// What becomes of a segment that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It belongs to the connection.
    Goes,
    /// It opens another connection in the place of this one, which is over.
    Reopens,
}

/// A segment that belongs to no conversation that both ends could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// Of a window whose shift was not seen: the largest (RFC 7323 §2.3).
const UNKNOWN_SCALE: u32 = 14;

/// In a line's scale until both ends have spoken: no scale was offered.
const NOT_OFFERED: u32 = 16;

impl Tcp {
    /// The state that the phases make.
    pub fn state(&self) -> State {
        use Phase::{FinAcked, FinSent, Nothing, Reset, SynSent};
        let [a, b] = self.phases;
        let ended = |phase| phase >= FinSent;
        if a == Reset || b == Reset {
            State::Close
        } else if a == Nothing || b == Nothing {
            State::SynSent
        } else if a == SynSent || b == SynSent {
            State::SynRecv
        } else if a == FinAcked && b == FinAcked {
            State::TimeWait
        } else if ended(a) && ended(b) {
            State::LastAck
        } else if a == FinSent || b == FinSent {
            State::FinWait
        } else if a == FinAcked || b == FinAcked {
            State::CloseWait
        } else {
            State::Established
        }
    }

    /// Whether a segment can begin a connection by itself.
    pub fn opens(segment: &Segment) -> bool {
        segment.flags & (flags::STATE | flags::ACK) == flags::SYN
    }

    /// The connection that `segment` begins.
    pub(super) fn open(lines: &Lines, segment: &Segment, scale: Option<u8>) -> Self {
        let mut tcp = Self::default();
        tcp.begin(lines, Direction::Original, segment, scale);
        tcp
    }

    /// The connection that `segment` is from the middle of.
    pub(super) fn pick_up(lines: &Lines, segment: &Segment) -> Self {
        let (sender, receiver) = lines.of(Direction::Original);
        sender.scale.store(UNKNOWN_SCALE, Relaxed);
        receiver.scale.store(UNKNOWN_SCALE, Relaxed);
        let mut tcp = Self {
            phases: [Phase::Established; 2],
            ..Self::default()
        };
        tcp.join(sender, receiver, Direction::Original, segment);
        tcp
    }

    fn spoke(&self, direction: Direction) -> bool {
        direction == Direction::Original || self.replied
    }

    /// Whether segments of a direction change nothing but its line.
    pub(super) fn is_steady(&self, direction: Direction) -> bool {
        let own = self.phases[direction as usize];
        let other = self.phases[direction.reverse() as usize];
        let waits = |phase| matches!(phase, Phase::Nothing | Phase::SynSent | Phase::FinSent);
        let over = matches!(self.state(), State::TimeWait | State::Close);
        !over && !self.liberal && self.replied && own >= Phase::Established && !waits(other)
    }

    /// Takes in a segment that passes.
    ///
    /// # Errors
    /// When it cannot belong to the connection; nothing is changed then.
    pub(super) fn advance(
        &mut self,
        lines: &Lines,
        direction: Direction,
        segment: &Segment,
        scale: Option<u8>,
    ) -> Result<Step, Invalid> {
        let syn = segment.has(flags::SYN);
        let reset = segment.has(flags::RST);
        let ack = segment.has(flags::ACK);
        if (syn && (reset || segment.has(flags::FIN))) || !(syn || reset || ack) {
            return Err(Invalid);
        }
        let over = matches!(self.state(), State::TimeWait | State::Close);
        if over && Self::opens(segment) {
            return Ok(Step::Reopens);
        }
        if syn {
            self.synchronise(lines, direction, segment, scale);
            return Ok(Step::Goes);
        }
        if reset {
            return self.reset(lines, direction, segment);
        }
        self.go_on(lines, direction, segment)
    }

    /// A SYN. One that cannot begin anything any more passes without effect: whoever has the
    /// connection answers it with an acknowledgement (RFC 5961 §4), and the other end, if it has
    /// forgotten the connection, resets it.
    fn synchronise(
        &mut self,
        lines: &Lines,
        direction: Direction,
        segment: &Segment,
        scale: Option<u8>,
    ) {
        let (own, other) = (direction as usize, direction.reverse() as usize);
        let (_, receiver) = lines.of(direction);
        let acknowledges = segment.has(flags::ACK)
            && self.spoke(direction.reverse())
            && at_or_after(segment.ack, self.marks[other])
            && at_or_after(receiver.end.load(Relaxed), segment.ack);
        let answers = !segment.has(flags::ACK) || acknowledges;
        let again = self.marks[own] == segment.seq.wrapping_add(1);
        match self.phases[own] {
            Phase::Nothing if answers => self.begin(lines, direction, segment, scale),
            // Another attempt, as long as nobody has answered the one before.
            Phase::SynSent if !again && !self.spoke(direction.reverse()) => {
                self.begin(lines, direction, segment, scale);
            }
            Phase::SynSent | Phase::Established if again => {}
            _ => return,
        }
        if acknowledges && self.phases[other] == Phase::SynSent {
            self.phases[other] = Phase::Established;
            lines.of(direction).0.max_ack.store(segment.ack, Relaxed);
        }
    }

    /// A direction's first SYN.
    fn begin(&mut self, lines: &Lines, direction: Direction, segment: &Segment, scale: Option<u8>) {
        let own = direction as usize;
        let (sender, receiver) = lines.of(direction);
        // The window of a SYN is not shifted (RFC 7323 §2.2).
        let window = u32::from(segment.window).max(1);
        let end = segment.end();
        sender.end.store(end, Relaxed);
        sender.set_max_window(window);
        sender
            .scale
            .store(scale.map_or(NOT_OFFERED, u32::from), Relaxed);
        if self.spoke(direction.reverse()) {
            let answered = receiver.end.load(Relaxed);
            sender.limit.store(answered.wrapping_add(window), Relaxed);
            sender.max_ack.store(answered, Relaxed);
            let allowed = end.wrapping_add(receiver.max_window.load(Relaxed));
            receiver.limit.store(allowed, Relaxed);
            receiver.max_ack.store(segment.seq, Relaxed);
            // Both must have offered, or neither shifts.
            let offers = [sender, receiver].map(|line| line.scale.load(Relaxed));
            if offers.contains(&NOT_OFFERED) {
                sender.scale.store(0, Relaxed);
                receiver.scale.store(0, Relaxed);
            }
        }
        self.phases[own] = Phase::SynSent;
        self.marks[own] = segment.seq.wrapping_add(1);
        self.replied |= direction == Direction::Reply;
    }

    fn reset(
        &mut self,
        lines: &Lines,
        direction: Direction,
        segment: &Segment,
    ) -> Result<Step, Invalid> {
        let other = direction.reverse() as usize;
        let (sender, receiver) = lines.of(direction);
        let sent = sender.end.load(Relaxed);
        let exact = if self.liberal {
            true
        } else if !self.spoke(direction) {
            // Refused: it must name the SYN (RFC 9293 §3.10.7.3).
            let answered = receiver.end.load(Relaxed);
            let names_it = segment.has(flags::ACK)
                && at_or_after(segment.ack, self.marks[other])
                && at_or_after(answered, segment.ack);
            if !names_it && self.phases[other] == Phase::SynSent {
                return Err(Invalid);
            }
            true
        } else if !self.spoke(direction.reverse()) {
            // Given up, or in answer to what stands of a former connection: its receiver knows.
            segment.seq == sent
        } else {
            let expected = receiver.max_ack.load(Relaxed);
            let limit = receiver.limit.load(Relaxed);
            if !at_or_after(segment.seq, expected) || !at_or_after(limit, segment.seq) {
                return Err(Invalid);
            }
            segment.seq == expected || segment.seq == sent
        };
        if exact {
            self.phases = [Phase::Reset; 2];
        }
        Ok(Step::Goes)
    }

    /// A segment that is neither SYN nor reset, and acknowledges.
    fn go_on(
        &mut self,
        lines: &Lines,
        direction: Direction,
        segment: &Segment,
    ) -> Result<Step, Invalid> {
        let (own, other) = (direction as usize, direction.reverse() as usize);
        let (sender, receiver) = lines.of(direction);
        let end = segment.end();
        if !self.spoke(direction) && self.phases[own] == Phase::Nothing {
            // In answer to a SYN: that of an end which has not forgotten a former connection
            // (RFC 9293 §3.5.1). It is no part of this one, and carries nothing.
            let bare = end == segment.seq;
            return if bare { Ok(Step::Goes) } else { Err(Invalid) };
        }
        let outside = if self.spoke(direction.reverse()) {
            !self.liberal && !in_window(sender, receiver, segment, end)
        } else {
            self.phases[other] == Phase::Nothing
        };
        if !self.spoke(direction) {
            self.join(sender, receiver, direction, segment);
        } else if outside {
            return Err(Invalid);
        }
        sender.take(segment, end);
        if at_or_after(segment.ack, self.marks[other]) {
            self.phases[other] = match self.phases[other] {
                Phase::SynSent => Phase::Established,
                Phase::FinSent => Phase::FinAcked,
                phase => phase,
            };
        }
        if segment.has(flags::FIN) && self.phases[own] < Phase::FinSent {
            self.phases[own] = Phase::FinSent;
            self.marks[own] = end;
        }
        Ok(Step::Goes)
    }

    /// A direction's first segment of a connection that was picked up.
    fn join(&mut self, sender: &Line, receiver: &Line, direction: Direction, segment: &Segment) {
        let window = u32::from(segment.window) << (sender.scale.load(Relaxed) & 15);
        sender.end.store(segment.end(), Relaxed);
        sender.set_max_window(window.max(1));
        sender
            .limit
            .store(segment.ack.wrapping_add(window), Relaxed);
        sender.max_ack.store(segment.ack, Relaxed);
        if !self.spoke(direction.reverse()) {
            receiver.end.store(segment.ack, Relaxed);
        }
        self.replied |= direction == Direction::Reply;
    }
}
