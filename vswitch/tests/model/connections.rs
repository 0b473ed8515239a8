//! The reference's connections: of whole UDP datagrams over IPv4, and nothing else. So a model that
//! allows anything statefully must meet no other packets that could have one.
//!
//! What is remembered is the frame that opened it; whom that concerns is asked anew for every frame.

use std::net::IpAddr;

use policy::model::{Action, DirectionPolicy, Model, Vnic};

use super::{
    judge,
    view::{Body, Fragment, Transport, View},
};

const UDP: u8 = 17;

/// An address and a port.
type End = (IpAddr, u16);

/// Which of a vNIC's policies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Out,
    In,
}

impl Way {
    pub(crate) fn of(self, vnic: &Vnic) -> &DirectionPolicy {
        match self {
            Self::Out => &vnic.outbound,
            Self::In => &vnic.inbound,
        }
    }
}

/// An open connection.
#[derive(Clone)]
struct Connection {
    network: u16,
    /// Where the opening frame came from, and where it went.
    ends: [End; 2],
    /// The port at which that frame came in.
    port: u16,
    frame: Vec<u8>,
    /// The tag that came beside it.
    beside: Option<u16>,
}

impl Connection {
    /// Whether a vNIC's policy allows the opening frame statefully.
    fn is_allowed_by(&self, policy: &DirectionPolicy) -> bool {
        let view = View::read(&self.frame, self.beside).expect("it passed once");
        judge::ruling(policy, &view).0 == Action::AllowStateful
    }

    /// Whether a vNIC stands up for what comes of a connection: it did open it, or was asked.
    fn is_backed_by(&self, vnic: &Vnic, port: u16, is_opener: bool) -> bool {
        if is_opener {
            port == self.port && self.is_allowed_by(&vnic.outbound)
        } else {
            self.is_allowed_by(&vnic.inbound)
        }
    }
}

/// A frame's part in its connection, while it is judged.
pub(crate) struct Part {
    network: u16,
    /// Where it comes from and goes; `None` for what can have no connection.
    pub(crate) ends: Option<[End; 2]>,
    /// The one that it belongs to, and whether it goes as the opening frame did.
    known: Option<(Connection, bool)>,
    /// A side has it pass because of that.
    is_backed: bool,
    /// A rule allows it statefully.
    pub(crate) is_wanted: bool,
}

impl Part {
    pub(crate) fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// Whether a vNIC has the frame pass because of its connection, out of its port or in.
    pub(crate) fn passes(&mut self, vnic: &Vnic, port: u16, way: Way) -> bool {
        let Some((connection, is_original)) = &self.known else {
            return false;
        };
        let is_opener = (way == Way::Out) == *is_original;
        let passes = connection.is_backed_by(vnic, port, is_opener);
        self.is_backed |= passes;
        passes
    }
}

/// The open ones.
#[derive(Clone, Default)]
pub(crate) struct Connections(Vec<Connection>);

impl Connections {
    /// What a frame belongs to.
    pub(crate) fn part(&self, network: u16, view: &View<'_>, is_tracked: bool) -> Part {
        let ends = ends(view).filter(|_| is_tracked);
        let known = ends.and_then(|[from, to]| {
            let mut here = self.0.iter().filter(|c| c.network == network);
            let found = here.find(|c| c.ends == [from, to] || c.ends == [to, from])?;
            Some((found.clone(), found.ends == [from, to]))
        });
        Part {
            network,
            ends,
            known,
            is_backed: false,
            is_wanted: false,
        }
    }

    /// A frame was refused before anybody was asked who would receive it. Returns whether that was
    /// the end of its connection.
    pub(crate) fn refused(&mut self, part: &Part, model: &Model) -> bool {
        let Some((connection, is_original)) = &part.known else {
            return false;
        };
        let opener = model.ports.iter().find(|port| port.id.0 == connection.port);
        let opener = opener.and_then(|port| port.vnic.as_ref());
        let is_backed = |vnic| connection.is_backed_by(vnic, connection.port, true);
        let is_answer_to_one_who_cares = !is_original && opener.is_some_and(is_backed);
        !part.is_backed && !is_answer_to_one_who_cares && self.remove(part)
    }

    /// A frame that came in by a port has met everybody whom it was for. Returns whether a
    /// connection began or ended.
    pub(crate) fn met(
        &mut self,
        part: &Part,
        port: u16,
        (frame, beside): (&[u8], Option<u16>),
        is_taken: bool,
    ) -> bool {
        if part.is_backed {
            return false;
        }
        let has_ended = self.remove(part);
        let begins = part.ends.filter(|_| part.is_wanted && is_taken);
        self.0.extend(begins.map(|ends| Connection {
            network: part.network,
            ends,
            port,
            frame: frame.to_vec(),
            beside,
        }));
        has_ended || begins.is_some()
    }

    fn remove(&mut self, part: &Part) -> bool {
        let Some((gone, _)) = &part.known else {
            return false;
        };
        let place = |c: &Connection| (c.network, c.ends);
        self.0.retain(|c| place(c) != place(gone));
        true
    }
}

fn ends(view: &View<'_>) -> Option<[End; 2]> {
    let Body::Ip(ip) = &view.body else {
        return None;
    };
    match ip.transport {
        Transport::Ports { src, dst }
            if ip.protocol == UDP && ip.fragment == Fragment::Whole && ip.src.is_ipv4() =>
        {
            Some([(ip.src, src), (ip.dst, dst)])
        }
        _ => None,
    }
}
