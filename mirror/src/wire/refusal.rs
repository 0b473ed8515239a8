//! Why a frame is not delivered: one enum, whose variants are also the counters.
//!
//! The table below is all there is to know of a refusal; docs/mirroring.md is checked against it.

/// In whose account a refusal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// An outer fragment's, before its datagram was whole.
    Fragment,
    /// A frame's whose session is not known.
    Frame,
    /// A session's.
    Session,
}

policy::reasons! {
    /// Why the decapsulator does not deliver a frame.
    pub enum Refusal;
    /// In whose account it stands.
    fn account -> Account;

    Runt "runt" Frame
        "The frame is shorter than the headers that it begins with.",
        "The sender or its driver is broken; nothing to do here.";
    NotIp "not_ip" Frame
        "The frame carries no IP.",
        "Something but mirrored frames reaches the tunnel port; filter it before.";
    OuterMalformed "outer_malformed" Frame
        "The outer IP header contradicts itself, or the frame is shorter than it says.",
        "Look for a capture or a link that cuts frames off.";
    OuterChecksum "outer_checksum" Frame
        "The outer IPv4 header's checksum is wrong.",
        "Look for the link or the middlebox that corrupts frames.";
    NotATunnel "not_a_tunnel" Frame
        "The frame carries neither GRE nor VXLAN (UDP port 4789).",
        "Something but mirrored frames reaches the tunnel port; filter it before.";
    UnknownSender "unknown_sender" Fragment
        "A fragment between two addresses that no session has.",
        "Make a session for the sender, or have it stop.";
    FragmentMalformed "fragment_malformed" Fragment
        "A fragment's place contradicts itself, or its datagram is longer than IP allows.",
        "The sender is broken.";
    FragmentOverlap "fragment_overlap" Fragment
        "A fragment overlaps another; the whole datagram is given up (RFC 8200 §4.5).",
        "Two senders use one address and identification, or somebody tries to hide something.";
    FragmentsFull "fragments_full" Fragment
        "There is no room to hold another fragmented datagram, or another piece of it.",
        "Raise the sender's MTU, or have it truncate, so that it need not fragment.";
    FragmentTooBig "fragment_too_big" Fragment
        "The fragmented datagram is longer than the decapsulator holds.",
        "Have the sender truncate.";
    FragmentTimeout "fragment_timeout" Fragment
        "The other fragments of the datagram did not come in time.",
        "Look for loss between sender and decapsulator.";
    GreMalformed "gre_malformed" Frame
        "The GRE header is cut off.",
        "The sender is broken.";
    GreVersion "gre_version" Frame
        "GRE of another version than 0.",
        "Point-to-point tunnels (PPTP) carry no mirrored frames; filter them before.";
    GreReserved "gre_reserved" Frame
        "The GRE header has a source route or a flag that must be 0 (RFC 2784 §2.3).",
        "The sender follows an outdated RFC; configure another format.";
    GreChecksum "gre_checksum" Frame
        "The GRE checksum is wrong.",
        "Look for the link or the middlebox that corrupts frames.";
    GreProtocol "gre_protocol" Frame
        "GRE carries neither ERSPAN nor Ethernet.",
        "Something but mirrored frames reaches the tunnel port; filter it before.";
    ErspanVersion "erspan_version" Frame
        "The ERSPAN header is of another version than its GRE protocol says.",
        "Configure ERSPAN type II or III at the sender.";
    ErspanMalformed "erspan_malformed" Frame
        "The ERSPAN header is cut off.",
        "The sender is broken.";
    VxlanMalformed "vxlan_malformed" Frame
        "The UDP or VXLAN header is cut off, or the VNI is not marked as valid.",
        "The sender is broken, or something else uses UDP port 4789.";
    UnknownSession "unknown_session" Frame
        "No session has these outer addresses, this format and this number.",
        "Make the session, or have the sender stop; the list of unknown sessions names it.";
    NotEthernet "not_ethernet" Session
        "The header says that what it carries is no Ethernet frame.",
        "Have the sender mirror Ethernet frames only.";
    InnerRunt "inner_runt" Session
        "The mirrored frame is shorter than an Ethernet header.",
        "The sender truncates too much, or is broken.";
    Nested "nested" Session
        "The mirrored frame is a mirrored frame itself.",
        "The sender mirrors a port that mirrored traffic leaves by; change its source.";
    Duplicate "duplicate" Session
        "Another session of the same tenant has delivered the same frame; the session asks for each once.",
        "Nothing: both ends of the traffic are mirrored.";
    NoSniffer "no_sniffer" Session
        "The session has no sniffer.",
        "Give the session a sniffer, or end it.";
}
