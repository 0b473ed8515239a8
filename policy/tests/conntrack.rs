//! The table of connections: what it remembers, what it lets pass, what it forgets.

use std::{collections::HashMap, sync::Arc};

use policy::{
    DropReason, Field, FlowKey, PortId,
    conntrack::{
        Connections, Direction, Exported, Found, Probe, Row, Segment, Sought, Timeouts, Token,
        Tuple, Zone,
        packet::flags::{ACK, FIN, RST, SYN},
        table::Opening,
        tcp::{State, Step},
        transfer::Owner,
    },
    key::{ethertype, protocol, shape},
};
use proptest::{collection::vec, prelude::*};

const SECRET: [u64; 6] = [11, 222, 3333, 44444, 555_555, 6_666_666];
const ZONE: Zone = Zone(7);

fn key(protocol: u8, from: (u32, u16), to: (u32, u16)) -> FlowKey {
    let mut key = FlowKey::default();
    key.set(Field::ETHERTYPE, u64::from(ethertype::IPV4));
    key.set(Field::SHAPE, shape::IPV4 | shape::L4);
    key.set(Field::PROTOCOL, u64::from(protocol));
    key.set(Field::IP_SRC_LOW, u64::from(from.0));
    key.set(Field::IP_DST_LOW, u64::from(to.0));
    key.set(Field::L4_SRC, u64::from(from.1));
    key.set(Field::L4_DST, u64::from(to.1));
    key.set(Field::INGRESS, 3);
    key
}

fn tuple(key: &FlowKey) -> Tuple {
    Tuple::of(key).expect("it can be tracked")
}

fn found(sought: Sought) -> Option<Found> {
    match sought {
        Sought::Found(found) => Some(found),
        Sought::Absent(_) => None,
    }
}

/// One TCP conversation from 1:1000 to 2:80 through a table.
struct Talk {
    table: Connections,
    timeouts: Timeouts,
    now_s: u32,
    loose: bool,
}

const CLIENT: Direction = Direction::Original;
const SERVER: Direction = Direction::Reply;

fn segment(flags: u8, seq: u32, ack: u32, payload: u32) -> Segment {
    Segment {
        seq,
        ack,
        window: 1000,
        flags,
        payload,
    }
}

impl Talk {
    fn new() -> Self {
        Self {
            table: Connections::new(64, SECRET),
            timeouts: Timeouts::default(),
            now_s: 100,
            loose: false,
        }
    }

    fn key(from: Direction) -> FlowKey {
        match from {
            Direction::Original => key(protocol::TCP, (1, 1000), (2, 80)),
            Direction::Reply => key(protocol::TCP, (2, 80), (1, 1000)),
        }
    }

    fn find(&self, from: Direction) -> Option<Found> {
        let tuple = tuple(&Self::key(from));
        found(self.table.find(ZONE, &tuple, &self.timeouts, self.now_s))
    }

    /// As the slow path does it, where the rules allow everything statefully.
    fn says(&self, from: Direction, segment: Segment) -> Result<Token, DropReason> {
        self.says_with(from, segment, None)
    }

    fn says_with(
        &self,
        from: Direction,
        segment: Segment,
        scale: Option<u8>,
    ) -> Result<Token, DropReason> {
        let probe = Probe::Tcp {
            segment,
            scale,
            fragment: false,
        };
        if let Some(found) = self.find(from) {
            let step = self.table.advance(found.token, &probe, self.now_s);
            match step.map_err(|denial| denial.reason)? {
                Step::Goes => return Ok(found.token),
                Step::Reopens => self.table.remove(found.token),
            }
        }
        let opening = Opening {
            zone: ZONE,
            key: &Self::key(from),
            probe: &probe,
            owner: PortId(3),
            limit: 10,
            loose: self.loose,
            now_s: self.now_s,
        };
        let opened = self.table.open(&opening, &self.timeouts);
        opened.map_err(|denial| denial.reason)
    }

    fn goes(&self, from: Direction, flags: u8, seq: u32, ack: u32, payload: u32) -> Token {
        self.says(from, segment(flags, seq, ack, payload))
            .unwrap_or_else(|reason| panic!("{from:?} {flags:x} {seq} {ack}: {reason}"))
    }

    fn refused(&self, from: Direction, flags: u8, seq: u32, ack: u32, payload: u32) {
        let outcome = self.says(from, segment(flags, seq, ack, payload));
        assert_eq!(
            outcome,
            Err(DropReason::ConnectionInvalid),
            "{from:?} {flags:x} {seq} {ack}"
        );
    }

    fn row(&self) -> Row {
        let rows = self.table.rows(&self.timeouts, self.now_s, 2, |_| true);
        let [row] = rows.as_slice() else {
            panic!("one connection was expected: {rows:?}");
        };
        row.clone()
    }

    fn state(&self) -> State {
        self.row().state
    }

    /// Client at 101, server at 501.
    fn established() -> Self {
        let talk = Self::new();
        talk.goes(CLIENT, SYN, 100, 0, 0);
        assert_eq!(talk.state(), State::SynSent);
        talk.goes(SERVER, SYN | ACK, 500, 101, 0);
        assert_eq!(talk.state(), State::SynRecv);
        talk.goes(CLIENT, ACK, 101, 501, 0);
        assert_eq!(talk.state(), State::Established);
        talk
    }
}

#[test]
fn a_connection_opens_talks_and_closes() {
    let talk = Talk::established();
    talk.goes(CLIENT, ACK, 101, 501, 300);
    talk.goes(SERVER, ACK, 501, 401, 900);
    talk.goes(CLIENT, ACK | FIN, 401, 1401, 0);
    assert_eq!(talk.state(), State::FinWait);
    talk.goes(SERVER, ACK, 1401, 402, 0);
    assert_eq!(talk.state(), State::CloseWait);
    // Half closed: the server goes on for as long as it likes.
    for part in 0..50 {
        let seq = 1401 + part * 1000;
        talk.goes(SERVER, ACK, seq, 402, 1000);
        talk.goes(CLIENT, ACK, 402, seq + 1000, 0);
    }
    talk.goes(SERVER, ACK | FIN, 51401, 402, 0);
    assert_eq!(talk.state(), State::LastAck);
    talk.goes(CLIENT, ACK, 402, 51402, 0);
    assert_eq!(talk.state(), State::TimeWait);
}

#[test]
fn both_may_open_at_once_and_close_at_once() {
    let talk = Talk::new();
    talk.goes(CLIENT, SYN, 100, 0, 0);
    talk.goes(SERVER, SYN, 500, 0, 0);
    assert_eq!(talk.state(), State::SynRecv);
    talk.goes(CLIENT, SYN | ACK, 100, 501, 0);
    talk.goes(SERVER, SYN | ACK, 500, 101, 0);
    assert_eq!(talk.state(), State::Established);
    talk.goes(CLIENT, ACK, 101, 501, 10);
    talk.goes(SERVER, ACK, 501, 111, 10);
    talk.goes(CLIENT, ACK | FIN, 111, 511, 0);
    talk.goes(SERVER, ACK | FIN, 511, 111, 0);
    assert_eq!(talk.state(), State::LastAck);
    talk.goes(CLIENT, ACK, 112, 512, 0);
    talk.goes(SERVER, ACK, 512, 112, 0);
    assert_eq!(talk.state(), State::TimeWait);
}

#[test]
fn what_is_lost_comes_again() {
    let talk = Talk::new();
    talk.goes(CLIENT, SYN, 100, 0, 0);
    talk.goes(CLIENT, SYN, 100, 0, 0);
    talk.goes(SERVER, SYN | ACK, 500, 101, 0);
    talk.goes(CLIENT, SYN, 100, 0, 0);
    talk.goes(SERVER, SYN | ACK, 500, 101, 0);
    // The handshake's last part was lost.
    talk.goes(CLIENT, ACK, 101, 501, 10);
    assert_eq!(talk.state(), State::Established);
    talk.goes(CLIENT, ACK, 101, 501, 10);
    // A keepalive probe, and one with a byte.
    talk.goes(CLIENT, ACK, 110, 501, 0);
    talk.goes(CLIENT, ACK, 110, 501, 1);
    talk.goes(SERVER, ACK, 501, 111, 0);
    talk.goes(CLIENT, ACK | FIN, 111, 501, 0);
    talk.goes(CLIENT, ACK | FIN, 111, 501, 0);
    talk.goes(SERVER, ACK, 501, 112, 0);
    assert_eq!(talk.state(), State::CloseWait);
}

#[test]
fn segments_outside_the_windows_are_refused_and_change_nothing() {
    let talk = Talk::established();
    // Beyond what the server allows, long ago, and acknowledging what was never sent.
    talk.refused(CLIENT, ACK, 101 + 1001, 501, 1);
    talk.refused(CLIENT, ACK, 101u32.wrapping_sub(5000), 501, 1);
    talk.refused(CLIENT, ACK, 101, 502, 1);
    talk.refused(CLIENT, ACK, 101, 501u32.wrapping_sub(70_000), 1);
    talk.refused(CLIENT, 0, 101, 501, 1);
    talk.refused(CLIENT, SYN | FIN, 101, 501, 1);
    talk.refused(CLIENT, ACK | FIN, 101 + 1001, 501, 0);
    assert_eq!(talk.state(), State::Established);
    talk.goes(CLIENT, ACK, 101, 501, 1000);
}

#[test]
fn a_reset_is_believed_only_where_its_receiver_believes_it() {
    // Outside the window: refused.
    let talk = Talk::established();
    talk.goes(CLIENT, ACK, 101, 501, 200);
    talk.goes(SERVER, ACK, 501, 301, 0);
    talk.refused(CLIENT, RST, 300, 0, 0);
    talk.refused(CLIENT, RST, 301 + 1001, 0, 0);
    talk.refused(SERVER, RST | ACK, 500, 301, 0);
    assert_eq!(talk.state(), State::Established);
    // Within, but not exact: the receiver asks back (RFC 5961 §3).
    talk.goes(CLIENT, RST, 350, 0, 0);
    assert_eq!(talk.state(), State::Established);
    talk.goes(CLIENT, RST, 301, 0, 0);
    assert_eq!(talk.state(), State::Close);
    // What was under way still arrives.
    talk.goes(SERVER, ACK, 501, 301, 100);
}

#[test]
fn a_refusal_must_name_the_syn() {
    let talk = Talk::new();
    talk.goes(CLIENT, SYN, 100, 0, 0);
    talk.refused(SERVER, RST, 0, 0, 0);
    talk.refused(SERVER, RST | ACK, 0, 100, 0);
    talk.refused(SERVER, RST | ACK, 0, 102, 0);
    talk.goes(SERVER, RST | ACK, 0, 101, 0);
    assert_eq!(talk.state(), State::Close);
    // Another attempt from the same port is another connection.
    let again = talk.goes(CLIENT, SYN, 9000, 0, 0);
    assert_eq!(talk.state(), State::SynSent);
    assert!(again.is_connection());
}

#[test]
fn a_new_syn_opens_again_what_is_over_and_disturbs_nothing_else() {
    let talk = Talk::established();
    // Whoever has the connection answers with an acknowledgement (RFC 5961 §4).
    let token = talk.goes(CLIENT, SYN, 77_777, 0, 0);
    assert_eq!(talk.state(), State::Established);
    talk.goes(CLIENT, ACK | FIN, 101, 501, 0);
    talk.goes(SERVER, ACK | FIN, 501, 102, 0);
    talk.goes(CLIENT, ACK, 102, 502, 0);
    assert_eq!(talk.state(), State::TimeWait);
    let again = talk.goes(SERVER, SYN, 600, 0, 0);
    assert_eq!(talk.state(), State::SynSent);
    assert!(!talk.table.stands(token));
    assert_ne!(token, again);
    // It is the server's now.
    assert_eq!(talk.row().tuple.src_port(), 80);
}

#[test]
fn windows_are_shifted_only_when_both_offered() {
    for (offer, answer, room) in [
        (Some(3), Some(5), 1000 << 5),
        (Some(3), None, 1000),
        (None, Some(5), 1000),
    ] {
        let talk = Talk::new();
        let open = segment(SYN, 100, 0, 0);
        talk.says_with(CLIENT, open, offer).expect("it opens");
        let reply = segment(SYN | ACK, 500, 101, 0);
        talk.says_with(SERVER, reply, answer).expect("it answers");
        talk.goes(CLIENT, ACK, 101, 501, 0);
        talk.goes(SERVER, ACK, 501, 101, 0);
        talk.goes(CLIENT, ACK, 101 + room, 501, 1);
        talk.refused(CLIENT, ACK, 101 + room + 2, 501, 1);
    }
}

#[test]
fn a_connection_is_picked_up_in_its_middle_only_when_that_is_wanted() {
    let mut talk = Talk::new();
    talk.refused(CLIENT, ACK, 5000, 9000, 100);
    talk.refused(CLIENT, RST, 5000, 9000, 100);
    talk.loose = true;
    talk.goes(CLIENT, ACK, 5000, 9000, 100);
    talk.goes(SERVER, ACK, 9000, 5100, 1000);
    talk.goes(CLIENT, ACK, 5100, 10_000, 1000);
    assert_eq!(talk.state(), State::Established);
    talk.refused(CLIENT, ACK, 5000u32.wrapping_add(1 << 30), 10_000, 1000);
}

#[test]
fn the_short_way_is_open_only_where_nothing_changes() {
    let talk = Talk::new();
    let client = talk.goes(CLIENT, SYN, 100, 0, 0);
    assert!(!talk.table.stands(client));
    let server = talk.goes(SERVER, SYN | ACK, 500, 101, 0);
    assert!(!talk.table.stands(client) && !talk.table.stands(server));
    talk.goes(CLIENT, ACK, 101, 501, 0);
    let follows = |token, flags, seq, ack, payload| {
        let segment = segment(flags, seq, ack, payload);
        talk.table.follows_tcp(token, talk.now_s, || Some(segment))
    };
    assert!(follows(client, ACK, 101, 501, 100));
    assert!(follows(server, ACK, 501, 201, 100));
    assert!(
        !follows(client, ACK, 201 + 1101, 601, 1),
        "outside the window"
    );
    assert!(!follows(client, ACK, 201, 602, 1), "of what was never sent");
    for flags in [SYN, FIN | ACK, RST, RST | ACK, 0] {
        assert!(!follows(client, flags, 201, 601, 0), "{flags:x}");
    }
    assert!(follows(client, ACK, 201, 601, 10));
    talk.goes(CLIENT, ACK | FIN, 211, 601, 0);
    assert!(
        !talk.table.stands(server),
        "its next frame may acknowledge the FIN"
    );
    talk.goes(SERVER, ACK, 601, 212, 0);
    assert!(follows(server, ACK, 601, 212, 500), "half closed");
    assert!(follows(client, ACK, 212, 1101, 0));
    talk.goes(CLIENT, RST, 212, 0, 0);
    assert!(!talk.table.stands(server) && !talk.table.stands(client));
}

#[test]
fn an_icmp_error_is_about_a_live_connection_or_about_none() {
    let talk = Talk::established();
    talk.goes(CLIENT, ACK, 101, 501, 300);
    let about = tuple(&Talk::key(CLIENT));
    let concerned = |tuple: &Tuple, seq| {
        talk.table
            .concerned(ZONE, tuple, seq, &talk.timeouts, talk.now_s)
            .map(|found| found.direction)
    };
    assert_eq!(concerned(&about, Some(101)), Some(CLIENT));
    assert_eq!(concerned(&about.reverse(), Some(501)), Some(SERVER));
    assert_eq!(concerned(&about, Some(402)), None);
    assert_eq!(concerned(&about, Some(401u32.wrapping_sub(2000))), None);
    let other = tuple(&key(protocol::TCP, (1, 1001), (2, 80)));
    assert_eq!(concerned(&other, Some(101)), None);
}

#[test]
fn limits_hold_and_are_given_back() {
    let table = Connections::new(8, SECRET);
    let timeouts = Timeouts::default();
    let open = |owner: u16, flow: u16| {
        let key = key(protocol::UDP, (1, flow), (2, 53));
        let opening = Opening {
            zone: ZONE,
            key: &key,
            probe: &Probe::Other,
            owner: PortId(owner),
            limit: 5,
            loose: false,
            now_s: 0,
        };
        table
            .open(&opening, &timeouts)
            .map_err(|denial| denial.reason)
    };
    let tokens: Vec<Token> = (0..5).map(|flow| open(1, flow).expect("room")).collect();
    assert_eq!(open(1, 5), Err(DropReason::ConnectionLimit));
    for flow in 10..13 {
        open(2, flow).expect("room");
    }
    assert_eq!(open(2, 13), Err(DropReason::ConnectionTableFull));
    assert_eq!((table.len(), table.owned_by(PortId(1))), (8, 5));
    // Another frame of an open connection needs no room.
    assert!(open(1, 4).is_ok());
    table.remove(tokens[0]);
    table.remove(tokens[0]);
    assert_eq!((table.len(), table.owned_by(PortId(1))), (7, 4));
    assert!(open(2, 13).is_ok());
    assert_eq!(table.flush(|row| row.owner == PortId(2)), 4);
    assert_eq!((table.len(), table.owned_by(PortId(2))), (4, 0));
}

#[test]
fn what_sends_nothing_is_forgotten_by_sweeps_and_at_once_by_a_lookup() {
    let table = Connections::new(3000, SECRET);
    let timeouts = Timeouts::default();
    let open = |flow: u16, now_s| {
        let key = key(protocol::UDP, (1, flow), (2, 53));
        let opening = Opening {
            zone: ZONE,
            key: &key,
            probe: &Probe::Other,
            owner: PortId(1),
            limit: 5000,
            loose: false,
            now_s,
        };
        table.open(&opening, &timeouts).expect("room")
    };
    for flow in 0..1000 {
        open(flow, 10);
    }
    let answered = tuple(&key(protocol::UDP, (2, 53), (1, 7)));
    let Sought::Found(reply) = table.find(ZONE, &answered, &timeouts, 10) else {
        panic!("it is there");
    };
    table
        .advance(reply.token, &Probe::Other, 12)
        .expect("it goes");
    assert_eq!(
        (0..10).map(|_| table.sweep(10, &timeouts, 40)).sum::<u32>(),
        0
    );
    let late = tuple(&key(protocol::UDP, (1, 8), (2, 53)));
    assert!(found(table.find(ZONE, &late, &timeouts, 41)).is_none());
    assert_eq!(
        (0..10).map(|_| table.sweep(10, &timeouts, 41)).sum::<u32>(),
        998
    );
    assert_eq!((table.len(), table.expired()), (1, 999));
    // Answered, so it has longer.
    assert!(found(table.find(ZONE, &answered, &timeouts, 312)).is_some());
    assert!(found(table.find(ZONE, &answered, &timeouts, 313)).is_none());
}

#[test]
fn an_absence_stands_until_a_connection_appears() {
    let table = Connections::new(64, SECRET);
    let timeouts = Timeouts::default();
    let key = key(protocol::UDP, (1, 5), (2, 53));
    let seek = || table.find(ZONE, &tuple(&key), &timeouts, 0);
    let Sought::Absent(absence) = seek() else {
        panic!("nothing was opened");
    };
    assert!(table.stands(absence) && table.follows(absence, 0));
    assert!(table.stands(Token::UNTRACKED) && table.follows(Token::UNTRACKED, 0));
    let opening = Opening {
        zone: ZONE,
        key: &key,
        probe: &Probe::Other,
        owner: PortId(1),
        limit: 5,
        loose: false,
        now_s: 0,
    };
    let token = table.open(&opening, &timeouts).expect("room");
    assert!(!table.stands(absence) && table.stands(token));
    table.remove(token);
    assert!(!table.stands(token));
}

#[test]
fn echoes_are_told_apart_by_identifier_and_who_asks() {
    let echo = |kind: u16, id: u16, from, to| key(protocol::ICMP, (from, kind << 8), (to, id));
    let ask = tuple(&echo(8, 7, 1, 2));
    assert_eq!(ask.reverse(), tuple(&echo(0, 7, 2, 1)));
    assert_ne!(ask.reverse(), tuple(&echo(0, 8, 2, 1)));
    // The other end asks with the same identifier: that is no answer.
    assert_ne!(ask.reverse(), tuple(&echo(8, 7, 2, 1)));
    assert_eq!(Tuple::of(&echo(13, 7, 1, 2)), None);
}

#[test]
fn what_is_exported_and_imported_goes_on_as_it_was() {
    let talk = Talk::established();
    talk.goes(CLIENT, ACK, 101, 501, 300);
    let name = |_: Zone| Some(Arc::from("blue"));
    let port = |port: PortId| Some(Arc::from(format!("p{}", port.0)));
    let export = |talk: &Talk| {
        talk.table
            .export(talk.now_s, name, port, |_, _, owner| owner == PortId(3))
    };
    let exported = export(&talk);
    let text = serde_json::to_string(&exported).expect("it can be written");
    let read: Exported = serde_json::from_str(&text).expect("it can be read");
    assert_eq!(read, exported);

    let elsewhere = Talk::new();
    let resolve = |name: &str| {
        let port = name.strip_prefix('p')?.parse().ok().map(PortId)?;
        Some(Owner { port, limit: 9 })
    };
    let nobody = Owner {
        port: PortId(0),
        limit: 0,
    };
    let zone = |name: &str| (name == "blue").then_some(ZONE);
    let import = || {
        elsewhere
            .table
            .import(&read, elsewhere.now_s, zone, resolve, nobody)
    };
    let done = import();
    assert_eq!((done.imported, done.present, done.refused), (1, 0, 0));
    assert_eq!(import().present, 1);
    assert_eq!(export(&elsewhere), exported);
    elsewhere.refused(SERVER, ACK, 501, 402, 10);
    elsewhere.goes(SERVER, ACK, 501, 401, 10);
    assert_eq!(elsewhere.state(), State::Established);
}

#[test]
fn a_million_connections_fit_in_192_mib() {
    // Not allocated here: what the parts take, by the same count that a table gives.
    let table = Connections::new(100_000, SECRET);
    let bytes = table.memory_bytes() as f64 - f64::from(1 << 18);
    assert!(bytes / 100_000.0 <= 192.0, "{}", bytes / 100_000.0);
}

#[derive(Clone, Debug)]
enum Operation {
    Open(u16, u16),
    Find(u16, bool),
    Remove(u16),
    Pass(u32),
    Sweep,
    Flush(u16),
}

fn operation() -> impl Strategy<Value = Operation> {
    let flow = || 0..40_u16;
    prop_oneof![
        4 => (flow(), 0..3_u16).prop_map(|(f, o)| Operation::Open(f, o)),
        4 => (flow(), any::<bool>()).prop_map(|(f, reply)| Operation::Find(f, reply)),
        2 => flow().prop_map(Operation::Remove),
        1 => (0..15_u32).prop_map(Operation::Pass),
        1 => Just(Operation::Sweep),
        1 => (0..3_u16).prop_map(Operation::Flush),
    ]
}

struct Known {
    token: Token,
    owner: u16,
    seen_s: u32,
    replied: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// The table against a plain map, with few buckets, limits that are reached and time that
    /// passes.
    #[test]
    fn the_table_is_a_map_that_forgets(operations in vec(operation(), 1..400)) {
        const LIMIT: usize = 9;
        const CAPACITY: usize = 20;
        let table = Connections::new(CAPACITY, SECRET);
        let timeouts = Timeouts { udp_unreplied_s: 20, udp_replied_s: 40, ..Timeouts::default() };
        let mut model: HashMap<u16, Known> = HashMap::new();
        let mut dead: Vec<Token> = Vec::new();
        let mut absences: Vec<(u16, Token)> = Vec::new();
        let mut now_s = 0;
        let expires = |known: &Known, now_s: u32| {
            now_s - known.seen_s > if known.replied { 40 } else { 20 }
        };
        for operation in operations {
            match operation {
                Operation::Open(flow, owner) => {
                    if model.get(&flow).is_some_and(|known| expires(known, now_s)) {
                        dead.extend(model.remove(&flow).map(|known| known.token));
                    }
                    let key = key(protocol::UDP, (1, flow), (2, 53));
                    let opening = Opening {
                        zone: ZONE, key: &key, probe: &Probe::Other, owner: PortId(owner),
                        limit: LIMIT as u32, loose: false, now_s,
                    };
                    let outcome = table.open(&opening, &timeouts);
                    let owned = model.values().filter(|known| known.owner == owner).count();
                    if let Some(known) = model.get_mut(&flow) {
                        prop_assert_eq!(outcome, Ok(known.token));
                        known.seen_s = now_s;
                    } else if owned >= LIMIT {
                        prop_assert_eq!(outcome.map_err(|d| d.reason), Err(DropReason::ConnectionLimit));
                    } else if model.len() >= CAPACITY {
                        prop_assert_eq!(outcome.map_err(|d| d.reason), Err(DropReason::ConnectionTableFull));
                    } else {
                        let token = outcome.expect("room");
                        model.insert(flow, Known { token, owner, seen_s: now_s, replied: false });
                        for (absent, token) in &absences {
                            prop_assert!(*absent != flow || !table.stands(*token));
                        }
                        absences.retain(|(absent, _)| *absent != flow);
                    }
                }
                Operation::Find(flow, reply) => {
                    let opener = tuple(&key(protocol::UDP, (1, flow), (2, 53)));
                    let sought = if reply { opener.reverse() } else { opener };
                    if model.get(&flow).is_some_and(|known| expires(known, now_s)) {
                        dead.extend(model.remove(&flow).map(|known| known.token));
                    }
                    match (table.find(ZONE, &sought, &timeouts, now_s), model.get_mut(&flow)) {
                        (Sought::Found(found), Some(known)) => {
                            prop_assert_eq!(found.direction == Direction::Reply, reply);
                            prop_assert!(table.follows(found.token, now_s));
                            if reply {
                                table.advance(found.token, &Probe::Other, now_s).expect("it goes");
                                known.replied = true;
                            }
                            known.seen_s = now_s;
                        }
                        (Sought::Absent(token), None) => absences.push((flow, token)),
                        (sought, known) => prop_assert!(false, "{sought:?} {}", known.is_some()),
                    }
                    prop_assert!(matches!(
                        table.find(Zone(8), &sought, &timeouts, now_s), Sought::Absent(_)
                    ));
                }
                Operation::Remove(flow) => {
                    if let Some(known) = model.remove(&flow) {
                        table.remove(known.token);
                        dead.push(known.token);
                    }
                }
                Operation::Pass(seconds) => now_s += seconds,
                Operation::Sweep => {
                    table.sweep(1, &timeouts, now_s);
                    model.retain(|_, known| {
                        let gone = expires(known, now_s);
                        dead.extend(gone.then_some(known.token));
                        !gone
                    });
                    prop_assert_eq!(table.len() as usize, model.len());
                }
                Operation::Flush(owner) => {
                    table.flush(|row| row.owner == PortId(owner));
                    model.retain(|_, known| {
                        let gone = known.owner == owner;
                        dead.extend(gone.then_some(known.token));
                        !gone
                    });
                }
            }
            for token in &dead {
                prop_assert!(!table.stands(*token), "a dead connection's token stands");
            }
            for owner in 0..3 {
                let owned = model.values().filter(|known| known.owner == owner).count();
                prop_assert_eq!(table.owned_by(PortId(owner)) as usize, owned);
            }
        }
        for (flow, known) in &model {
            prop_assert!(expires(known, now_s) || table.stands(known.token), "{flow}");
        }
    }
}

/// Two workers on the same connections: what they open, advance and forget at once adds up, and
/// no token of a forgotten connection stands.
#[test]
fn two_workers_share_a_table() {
    const FLOWS: u16 = 64;
    let table = Connections::new(48, SECRET);
    let timeouts = Timeouts::default();
    let work = &|seed: u64| {
        let mut state = seed;
        let (mut opened, mut advanced, mut removed) = (0, 0, 0);
        for now_s in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let flow = (state >> 33) as u16 % FLOWS;
            let key = key(protocol::UDP, (1, flow), (2, 53));
            let opener = tuple(&key);
            let sought = table.find(ZONE, &opener.reverse(), &timeouts, now_s / 1000);
            match (state >> 50) % 4 {
                0 => {
                    if let Sought::Found(found) = sought {
                        table.remove(found.token);
                        assert!(!table.stands(found.token));
                        removed += 1;
                    }
                }
                1 => {
                    if let Sought::Found(found) = sought {
                        let step = table.advance(found.token, &Probe::Other, now_s / 1000);
                        advanced += u32::from(step.is_ok());
                    }
                }
                _ => {
                    let opening = Opening {
                        zone: ZONE,
                        key: &key,
                        probe: &Probe::Other,
                        owner: PortId(flow % 2),
                        limit: 30,
                        loose: false,
                        now_s: now_s / 1000,
                    };
                    opened += u32::from(table.open(&opening, &timeouts).is_ok());
                }
            }
            assert!(table.len() <= 48 && table.owned_by(PortId(0)) <= 30);
        }
        (opened, advanced, removed)
    };
    let counts = std::thread::scope(|scope| {
        let workers = [1, 2].map(|seed| scope.spawn(move || work(seed)));
        workers.map(|worker| worker.join().expect("no worker fails"))
    });
    for (opened, advanced, removed) in counts {
        assert!(opened > 1000 && advanced > 100 && removed > 100);
    }
    let rows = table.rows(&timeouts, 20, usize::MAX, |_| true);
    assert_eq!(rows.len(), table.len() as usize);
    let owned = table.owned_by(PortId(0)) + table.owned_by(PortId(1));
    assert_eq!(owned, table.len());
    let tuples: std::collections::HashSet<Tuple> = rows.iter().map(|row| row.tuple).collect();
    assert_eq!(tuples.len(), rows.len(), "no connection is there twice");
    table.flush(|_| true);
    assert!(table.is_empty());
}
