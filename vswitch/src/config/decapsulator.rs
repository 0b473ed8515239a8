//! `[decapsulator]` and `[[sniffer]]`: who may send mirrored frames, and who gets them.
//!
//! In: the two sections, of the switch's configuration or of a file of their own. Out: a
//! [`Decapsulator`] in which every name resolves and every session's sniffers are its tenant's. What
//! must hold: no two sessions are known by the same things on the wire, and no two ports share an
//! interface or a socket.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use mirror::{
    decap::{FanOut, Options, ReassemblyLimits},
    wire::{Identity, SessionId, TunnelKind, Vni},
};
use policy::Mac;
use toml::de::DeTable;

use super::{
    Machine, Problems, port,
    problem::nearest,
    read::{self, own_mac},
    schema,
    section::{At, Reader, Section},
    types::{Driver, Switch},
};

/// Where the control socket of a decapsulator is that runs alone, unless `[switch]` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/vswitch/decap.sock";

/// The most sessions of a decapsulator.
const MOST_SESSIONS: u32 = 1_000_000;
/// The most sniffers of a decapsulator.
const MOST_SNIFFERS: usize = 1024;
/// The most memory that a sniffer's queue may take.
const MOST_QUEUE_BYTES: usize = 256 << 20;

/// A decapsulator and its sniffers.
#[derive(Clone, Debug, PartialEq)]
pub struct Decapsulator {
    /// Where tunnels end.
    pub port: Driver,
    /// Its own addresses, for which it answers ARP, neighbour discovery and echo requests.
    pub addresses: Vec<IpAddr>,
    /// The Ethernet address that it answers with; there when there are addresses.
    pub mac: Option<Mac>,
    /// The core of the thread that receives; `None` is wherever the scheduler puts it.
    pub core: Option<usize>,
    /// Longest progressive sleep of its threads, in microseconds.
    pub max_sleep_us: u32,
    /// Memory that is taken at the start; the secret is not part of it.
    pub options: Options,
    /// `[[decapsulator.session]]`, in the order of the file.
    pub sessions: Vec<Session>,
    /// `[[sniffer]]`, in the order of the file.
    pub sniffers: Vec<Sniffer>,
}

/// `[[decapsulator.session]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub name: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// What names it on the wire.
    pub identity: Identity,
    /// Who gets its frames, by name.
    pub sniffers: Vec<Arc<str>>,
    /// How they are shared out.
    pub fan_out: FanOut,
    /// What another session of the tenant has delivered is left out.
    pub once: bool,
}

/// `[[sniffer]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sniffer {
    /// Its name.
    pub name: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// The Ethernet destination that it receives frames with.
    pub mac: Mac,
    /// Where they go.
    pub sink: Sink,
    /// Frames that its queue has room for; a power of two.
    pub queue_frames: u32,
    /// Longest frame that it gets, in bytes.
    pub max_frame_bytes: usize,
}

/// Where a sniffer's frames go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// A port, transmit-only.
    Port(Driver),
    /// Rotating pcapng files.
    Files(Files),
    /// One pcapng stream into a FIFO; `-` is standard output.
    Stream(PathBuf),
}

/// Rotating pcapng files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Where they are.
    pub folder: PathBuf,
    /// A file that is longer is closed, in bytes.
    pub file_bytes: u64,
    /// A file that is older is closed, in seconds.
    pub file_s: u64,
    /// What all files together may take, in bytes; the oldest are removed.
    pub total_bytes: u64,
}

/// The configuration of a decapsulator that runs alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Alone {
    /// `[switch]`: the control socket.
    pub switch: Switch,
    /// `[metrics]`
    pub metrics: Option<SocketAddr>,
    /// `[decapsulator]` and `[[sniffer]]`
    pub decapsulator: Decapsulator,
}

/// Reads and checks the configuration of a decapsulator that runs alone.
///
/// # Errors
///
/// Every problem that was found, in the order of the text.
pub fn parse(file: &str, text: &str, machine: &Machine) -> Result<Alone, Problems> {
    let reader = Reader::new(file, text);
    if text.len() > super::MAX_BYTES {
        let message = format!(
            "the configuration is larger than {} MiB",
            super::MAX_BYTES >> 20
        );
        reader.report(&(0..0), message, "split the work over more decapsulators");
        return Err(Problems(reader.into_problems()));
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        reader.report(&error.span().unwrap_or(0..0), error.message(), "");
    }
    let alone = {
        let root = Section::open(&reader, root.get_ref(), 0..0, &schema::DECAPSULATOR_ALONE);
        let mut switch = read::switch(root.section("switch", &schema::SWITCH).as_ref());
        if root
            .section("switch", &schema::SWITCH)
            .is_none_or(|section| section.get("socket").is_none())
        {
            switch.socket = DEFAULT_SOCKET.into();
        }
        let metrics = root
            .section("metrics", &schema::METRICS)
            .and_then(|section| read::metrics(&section));
        let decapsulator = read(&root, machine);
        if root.get("decapsulator").is_none() {
            root.missing("[decapsulator]");
        }
        decapsulator.map(|decapsulator| Alone {
            switch,
            metrics,
            decapsulator,
        })
    };
    let problems = reader.into_problems();
    match alone {
        Some(alone) if problems.is_empty() => Ok(alone),
        _ => Err(Problems(problems)),
    }
}

/// Reads `[decapsulator]` and `[[sniffer]]` of `root`; `None` when there is no decapsulator, or none
/// without a problem.
pub(super) fn read(root: &Section<'_>, machine: &Machine) -> Option<Decapsulator> {
    let sniffers = root.sections("sniffer", &schema::SNIFFER);
    let Some(section) = root.section("decapsulator", &schema::DECAPSULATOR) else {
        if let Some(first) = sniffers.first() {
            first.reader.report(
                &first.span,
                "a sniffer without a decapsulator",
                "add [decapsulator], or remove the sniffer",
            );
        }
        return None;
    };
    let before = section.reader.count();
    let sniffers = named(&sniffers, sniffer);
    let own = addresses(&section);
    let sections = section.sections("session", &schema::SESSION);
    let sessions = named(&sections, |section, name| {
        session(section, name, &own, &sniffers)
    });
    identities(&sections, &sessions);
    let mac = section
        .string("mac")
        .and_then(|text| own_mac(&section, &text));
    if mac.is_none() && !own.is_empty() && section.get("mac").is_none() {
        section.reader.report(
            &section.value_span("addresses"),
            "addresses without mac",
            "add mac = \"...\", the address of the tunnel port's interface: neighbours are told it",
        );
    }
    let max_sessions = section.integer("max_sessions", 1..=MOST_SESSIONS);
    let max_sessions = max_sessions.unwrap_or(10_000) as usize;
    if sessions.len() > max_sessions {
        section.reader.report(
            &section.value_span("max_sessions"),
            format!("{} sessions, and room for {max_sessions}", sessions.len()),
            "raise max_sessions",
        );
    }
    let port = section.section("port", &schema::TUNNEL_PORT);
    if port.is_none() {
        section.missing("port");
    }
    let port = port.and_then(|section| port::driver(&section));
    let decapsulator = Decapsulator {
        port: port?,
        addresses: own,
        mac,
        core: core(&section, machine),
        max_sleep_us: section.integer("max_sleep_us", 1..=10_000).unwrap_or(50),
        options: options(&section, max_sessions),
        sessions: sessions.into_iter().flatten().collect(),
        sniffers: sniffers.into_iter().flatten().collect(),
    };
    places(&section, &decapsulator);
    (section.reader.count() == before).then_some(decapsulator)
}

/// Reads sections with names, each of which is there once.
fn named<T>(
    sections: &[Section<'_>],
    read: impl Fn(&Section<'_>, Arc<str>) -> Option<T>,
) -> Vec<Option<T>> {
    let mut seen: HashSet<String> = HashSet::new();
    let mut values = Vec::with_capacity(sections.len());
    for section in sections {
        let name = section.name();
        if let Some(name) = &name
            && !seen.insert(name.value.clone())
        {
            section.reader.report(
                &name.span,
                format!("there is another \"{}\"", name.value),
                "give one another name",
            );
        }
        let label = name.as_ref().map_or("?", |name| &name.value);
        values.push(read(section, label.into()).filter(|_| name.is_some()));
    }
    values
}

fn addresses(section: &Section<'_>) -> Vec<IpAddr> {
    let texts = section.strings("addresses");
    let parsed = texts.iter().filter_map(|text| address(section, text));
    parsed.collect()
}

fn address(section: &Section<'_>, text: &At<String>) -> Option<IpAddr> {
    let address = text.value.parse().ok();
    let address = address.filter(|a: &IpAddr| !a.is_multicast() && !a.is_unspecified());
    if address.is_none() {
        section.reader.report(
            &text.span,
            format!("\"{}\" is not a host's IP address", text.value),
            "write it as in \"192.0.2.99\" or \"2001:db8::99\"",
        );
    }
    address
}

fn core(section: &Section<'_>, machine: &Machine) -> Option<usize> {
    let core = usize::from(section.integer("core", 0..=4095_u16)?);
    if !machine.cores.is_empty() && !machine.cores.contains(&core) {
        let known: Vec<String> = machine.cores.iter().map(ToString::to_string).collect();
        section.reader.report(
            &section.value_span("core"),
            format!("this process may not run on core {core}"),
            format!("it may run on: {}", known.join(", ")),
        );
    }
    Some(core)
}

fn options(section: &Section<'_>, sessions: usize) -> Options {
    let mut options = Options {
        sessions,
        ..Options::default()
    };
    if let Some(section) = section.section("reassembly", &schema::REASSEMBLY) {
        let limits = &mut options.reassembly;
        let number = |field, most| section.integer::<u32>(field, 1..=most);
        let ReassemblyLimits {
            datagrams,
            datagrams_of_sender,
            datagram_bytes,
            timeout_ns,
        } = limits;
        *datagrams = number("datagrams", 65_536).map_or(*datagrams, |n| n as usize);
        *datagrams_of_sender =
            number("datagrams_of_sender", 65_536).map_or(*datagrams_of_sender, |n| n as usize);
        *datagram_bytes = number("datagram_bytes", 65_535).map_or(*datagram_bytes, |n| n as usize);
        *timeout_ns =
            number("timeout_ms", 60_000).map_or(*timeout_ns, |ms| u64::from(ms) * 1_000_000);
    }
    if let Some(section) = section.section("duplicates", &schema::DUPLICATES) {
        if let Some(entries) = section.integer("entries", 4..=1_u32 << 24) {
            options.duplicate_entries = entries as usize;
        }
        if let Some(ms) = section.integer("window_ms", 1..=10_000_u32) {
            options.duplicate_window_ns = u64::from(ms) * 1_000_000;
        }
    }
    options
}

fn session(
    section: &Section<'_>,
    name: Arc<str>,
    own: &[IpAddr],
    sniffers: &[Option<Sniffer>],
) -> Option<Session> {
    const FAN_OUTS: &[(&str, FanOut)] = &[("all", FanOut::All), ("spread", FanOut::Spread)];
    let tenant = section.required("tenant");
    let source = section
        .required("source")
        .and_then(|text| address(section, &text));
    let destination = destination(section, source, own);
    let carried = carried(section);
    let fan_out = section
        .string("fan_out")
        .and_then(|text| section.reader.choice(&text, FAN_OUTS));
    let once = section.bool("once").unwrap_or(false);
    let tenant: Arc<str> = tenant?.value.into();
    let wanted = section.strings("sniffers");
    for sniffer in &wanted {
        own_sniffer(section, &tenant, sniffer, sniffers);
    }
    let (kind, id) = carried?;
    Some(Session {
        name,
        tenant,
        identity: Identity::new(source?, destination?, kind, id),
        sniffers: wanted.into_iter().map(|name| name.value.into()).collect(),
        fan_out: fan_out.unwrap_or(FanOut::All),
        once,
    })
}

/// Notes a sniffer that does not exist, or is another tenant's.
fn own_sniffer(
    section: &Section<'_>,
    tenant: &Arc<str>,
    wanted: &At<String>,
    sniffers: &[Option<Sniffer>],
) {
    let mut known = sniffers.iter().flatten();
    match known.find(|sniffer| *sniffer.name == wanted.value) {
        None => {
            let names = sniffers.iter().flatten().map(|sniffer| &*sniffer.name);
            let help = nearest(&wanted.value, names);
            let message = format!("there is no sniffer \"{}\"", wanted.value);
            section.reader.report(&wanted.span, message, help);
        }
        Some(sniffer) if sniffer.tenant != *tenant => section.reader.report(
            &wanted.span,
            format!(
                "sniffer \"{}\" is of tenant \"{}\", and the session of \"{tenant}\"",
                wanted.value, sniffer.tenant
            ),
            "a tenant's frames go to its own sniffers",
        ),
        Some(_) => {}
    }
}

/// The address that the session's frames are sent to: by default the one of its own that a sender
/// can mean.
fn destination(section: &Section<'_>, source: Option<IpAddr>, own: &[IpAddr]) -> Option<IpAddr> {
    if let Some(text) = section.string("destination") {
        let destination = address(section, &text)?;
        if source.is_some_and(|source| source.is_ipv4() != destination.is_ipv4()) {
            section.reader.report(
                &text.span,
                "source and destination are of different families",
                "give both as IPv4 or both as IPv6",
            );
        }
        return Some(destination);
    }
    let source = source?;
    let mut possible = own.iter().filter(|own| own.is_ipv4() == source.is_ipv4());
    if let (Some(one), None) = (possible.next(), possible.next()) {
        return Some(*one);
    }
    section.reader.report(
        &section.span,
        "it is not clear which address the session is sent to",
        "add destination = \"...\"",
    );
    None
}

/// The format, and the number that a session has in it.
fn carried(section: &Section<'_>) -> Option<(TunnelKind, Option<u32>)> {
    let formats = TunnelKind::ALL.map(|kind| (kind.name(), kind));
    let text = section.required("format")?;
    let kind = section.reader.choice(&text, &formats)?;
    let id = section.integer("id", 0..=u32::MAX);
    let (fits, help) = match (kind, id) {
        (TunnelKind::ErspanI, id) => (id.is_none(), "ERSPAN type I carries no number; remove id"),
        (TunnelKind::ErspanII | TunnelKind::ErspanIII, id) => {
            let number = id.and_then(|id| u16::try_from(id).ok());
            let fits = number.is_some_and(|id| SessionId::new(id).is_some());
            (fits, "id is the ERSPAN session, from 0 to 1023")
        }
        (TunnelKind::Ethernet, _) => (true, ""),
        (TunnelKind::Vxlan, id) => {
            let fits = id.is_some_and(|id| Vni::new(id).is_some());
            (fits, "id is the VNI, from 0 to 16777215")
        }
    };
    if !fits {
        let message = format!("no session of format \"{kind}\" has this id");
        section
            .reader
            .report(&section.value_span("id"), message, help);
        return None;
    }
    Some((kind, id))
}

/// Notes sessions that nobody could tell apart.
fn identities(sections: &[Section<'_>], sessions: &[Option<Session>]) {
    let mut seen: HashMap<Identity, &Session> = HashMap::new();
    for (section, session) in sections.iter().zip(sessions) {
        let Some(session) = session else { continue };
        if let Some(first) = seen.insert(session.identity, session) {
            section.reader.report(
                &section.span,
                format!(
                    "sessions \"{}\" and \"{}\" are both received as {}",
                    first.name, session.name, session.identity
                ),
                "give one another id or address",
            );
        }
    }
}

fn sniffer(section: &Section<'_>, name: Arc<str>) -> Option<Sniffer> {
    let tenant = section.required("tenant");
    let mac = section
        .required("mac")
        .and_then(|text| own_mac(section, &text));
    let queue_frames = section.integer("queue_frames", 64..=65_536_u32);
    port::power_of_two(section, "queue_frames", queue_frames);
    let max_frame_bytes = section.integer("max_frame_bytes", 64..=65_536_u32);
    let sink = sink(section);
    let sniffer = Sniffer {
        name,
        tenant: tenant?.value.into(),
        mac: mac?,
        sink: sink?,
        queue_frames: queue_frames.unwrap_or(1024),
        max_frame_bytes: max_frame_bytes.unwrap_or(2048) as usize,
    };
    let bytes = sniffer.queue_frames as usize * sniffer.max_frame_bytes;
    if bytes > MOST_QUEUE_BYTES {
        section.reader.report(
            &section.value_span("queue_frames"),
            format!("a queue of {} MiB", bytes >> 20),
            format!("use fewer frames: at most {} MiB", MOST_QUEUE_BYTES >> 20),
        );
    }
    Some(sniffer)
}

fn sink(section: &Section<'_>) -> Option<Sink> {
    let fields = ["port", "files", "stream"];
    let given = fields.iter().filter(|field| section.get(field).is_some());
    if given.count() != 1 {
        section.reader.report(
            &section.span,
            "a sniffer has one of port, files and stream",
            "as in port = { driver = \"af_xdp\", interface = \"ids0\" }",
        );
        return None;
    }
    if let Some(port) = section.section("port", &schema::TUNNEL_PORT) {
        return port::driver(&port).map(Sink::Port);
    }
    if let Some(stream) = section.string("stream") {
        let absolute = stream.value == "-" || stream.value.starts_with('/');
        if !absolute {
            section.reader.report(
                &stream.span,
                "stream must be the absolute path of a FIFO, or \"-\" for standard output",
                "make it with mkfifo",
            );
        }
        return Some(Sink::Stream(stream.value.into()));
    }
    let files = section.section("files", &schema::FILES)?;
    let folder = files.required("folder");
    let file_bytes = files.integer("file_bytes", 4096..=1_i64 << 40);
    let file_s = files.integer("file_s", 1..=31_536_000_u32);
    let total_bytes = files.integer("total_bytes", 8192..=1_i64 << 50);
    let read = Files {
        folder: folder?.value.into(),
        file_bytes: file_bytes.unwrap_or(100 << 20) as u64,
        file_s: u64::from(file_s.unwrap_or(3600)),
        total_bytes: total_bytes.unwrap_or(1 << 30) as u64,
    };
    if read.total_bytes < 2 * read.file_bytes {
        files.reader.report(
            &files.value_span("total_bytes"),
            "total_bytes has no room for two files",
            "raise total_bytes, or lower file_bytes: the file in use is never removed",
        );
    }
    Some(Sink::Files(read))
}

/// Notes ports that share an interface or a socket, and too many sniffers.
fn places(section: &Section<'_>, decapsulator: &Decapsulator) {
    if decapsulator.sniffers.len() > MOST_SNIFFERS {
        section.reader.report(
            &section.span,
            format!("more than {MOST_SNIFFERS} sniffers"),
            "split the work over more decapsulators",
        );
    }
    let mut seen: HashMap<String, &str> = HashMap::new();
    for (owner, driver) in decapsulator.drivers() {
        let Some(place) = place(driver) else { continue };
        if let Some(other) = seen.insert(place.clone(), owner) {
            section.reader.report(
                &section.span,
                format!("{other} and {owner} share {place}"),
                "give each an interface or socket of its own",
            );
        }
    }
}

/// What only one port can have: an interface, a file that is written, a socket.
pub(super) fn place(driver: &Driver) -> Option<String> {
    let path = driver.output().or(driver.socket());
    let path = path.map(|path| path.display().to_string());
    path.or_else(|| driver.interface().map(str::to_owned))
}

impl Decapsulator {
    /// The drivers of its ports, and whose they are.
    pub fn drivers(&self) -> impl Iterator<Item = (&str, &Driver)> {
        let sniffers = self.sniffers.iter().filter_map(|sniffer| {
            if let Sink::Port(driver) = &sniffer.sink {
                Some((&*sniffer.name, driver))
            } else {
                None
            }
        });
        std::iter::once(("the decapsulator", &self.port)).chain(sniffers)
    }
}
