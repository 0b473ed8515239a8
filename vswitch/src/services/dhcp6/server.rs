//! A vNIC's configured addresses and settings by `DHCPv6` (RFC 8415 §18.3).
//!
//! In: a client's message, the vNIC, its network's Ethernet address. Out: the answer, if there is one.
//! There is no state: the addresses are the vNIC's for as long as the configuration says so. All of them
//! are given to the first association (`IA_NA`) of a message; others, temporary addresses and
//! prefixes there are none of.

use std::net::Ipv6Addr;

use policy::Mac;

use super::message::{Association, Kind, Message, Status, Writer, option};
use crate::services::{
    dns,
    plan::{Mode6, Settings6, VnicPlan},
    refusal::Refusal,
};

/// How soon settings are asked for again, seconds (RFC 8415 §21.23: the default).
const REFRESH_S: u32 = 86_400;

/// What becomes of a client's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The answer.
    pub message: Vec<u8>,
    /// Addresses that the client says somebody else has.
    pub declined: Vec<Ipv6Addr>,
}

/// The server's identifier, of its Ethernet address (DUID-LL, RFC 8415 §11.4).
pub fn identifier(mac: Mac) -> [u8; 10] {
    let [m0, m1, m2, m3, m4, m5] = mac.0;
    [0, 3, 0, 1, m0, m1, m2, m3, m4, m5]
}

/// Answers a client's message. `multicast` says that it was sent to all servers.
///
/// # Errors
///
/// Why it is not answered.
pub fn answer(
    request: &Message<'_>,
    vnic: &VnicPlan,
    server: Mac,
    multicast: bool,
) -> Result<Outcome, Refusal> {
    let identifier = identifier(server);
    identities(request, &identifier)?;
    let kind = request.kind;
    let done = |writer: Writer| {
        Ok(Outcome {
            message: writer.finish()?,
            declined: Vec::new(),
        })
    };
    let mut reply = Writer::message(reply_kind(request, vnic), request.xid);
    if let Some(client) = request.options.get(option::CLIENT) {
        reply.option(option::CLIENT, client);
    }
    reply.option(option::SERVER, &identifier);
    if !multicast {
        // RFC 8415 §18.4: nobody was told that they may.
        return match kind {
            Kind::Request | Kind::Renew | Kind::Release | Kind::Decline => {
                reply.status(Status::UseMulticast, "send to all servers");
                done(reply)
            }
            _ => Err(Refusal::Dhcp6Type),
        };
    }
    if kind == Kind::InformationRequest {
        settings(request, &vnic.dhcp6.settings, true, &mut reply);
        return done(reply);
    }
    if vnic.dhcp6.mode == Mode6::Stateless {
        return Err(Refusal::Dhcp6NoAddresses);
    }
    let associations = request.options.all(option::IA_NA).map(Association::read);
    let associations = associations.collect::<Result<Vec<_>, _>>()?;
    match kind {
        Kind::Confirm => confirm(&associations, vnic, &mut reply)?,
        Kind::Release | Kind::Decline => {
            give_back(&associations, vnic, &mut reply);
            let mut outcome = done(reply)?;
            if kind == Kind::Decline {
                let addresses = associations.into_iter().flat_map(|a| a.addresses);
                let own = addresses.filter(|address| vnic.ipv6.contains(address));
                outcome.declined = own.collect();
            }
            return Ok(outcome);
        }
        _ => {
            if rapid(request, vnic) {
                reply.option(option::RAPID_COMMIT, &[]);
            }
            give(request, &associations, vnic, &mut reply)?;
            settings(request, &vnic.dhcp6.settings, false, &mut reply);
        }
    }
    done(reply)
}

/// RFC 8415 §16: which identifiers a message must have, and must not have.
fn identities(request: &Message<'_>, own: &[u8]) -> Result<(), Refusal> {
    let client = request.options.get(option::CLIENT).is_some();
    let server = request.options.get(option::SERVER);
    let (needs_client, needs_server) = match request.kind {
        Kind::Solicit | Kind::Confirm | Kind::Rebind => (true, Some(false)),
        Kind::Request | Kind::Renew | Kind::Release | Kind::Decline => (true, Some(true)),
        Kind::InformationRequest => (false, None),
        _ => return Err(Refusal::Dhcp6Type),
    };
    let has_association = [option::IA_NA, option::IA_TA, option::IA_PD]
        .iter()
        .any(|code| request.options.get(*code).is_some());
    if needs_client && !client
        || needs_server.is_some_and(|needed| needed != server.is_some())
        || request.kind == Kind::InformationRequest && has_association
    {
        return Err(Refusal::Dhcp6Identity);
    }
    if server.is_some_and(|server| server != own) {
        return Err(Refusal::Dhcp6OtherServer);
    }
    Ok(())
}

fn rapid(request: &Message<'_>, vnic: &VnicPlan) -> bool {
    request.kind == Kind::Solicit
        && vnic.dhcp6.settings.rapid_commit
        && request.options.get(option::RAPID_COMMIT).is_some()
}

fn reply_kind(request: &Message<'_>, vnic: &VnicPlan) -> Kind {
    if request.kind == Kind::Solicit && !rapid(request, vnic) {
        Kind::Advertise
    } else {
        Kind::Reply
    }
}

/// RFC 8415 §18.3.3.
fn confirm(
    associations: &[Association],
    vnic: &VnicPlan,
    reply: &mut Writer,
) -> Result<(), Refusal> {
    let mut addresses = associations.iter().flat_map(|a| &a.addresses).peekable();
    if addresses.peek().is_none() {
        return Err(Refusal::Dhcp6NothingToConfirm);
    }
    if addresses.all(|address| vnic.ipv6.contains(address)) {
        reply.status(Status::Success, "");
    } else {
        reply.status(Status::NotOnLink, "this interface has other addresses");
    }
    Ok(())
}

/// RFC 8415 §18.3.7, §18.3.8: nothing changes, as the addresses are the vNIC's by configuration.
fn give_back(associations: &[Association], vnic: &VnicPlan, reply: &mut Writer) {
    for association in associations {
        let is_own = |address: &Ipv6Addr| vnic.ipv6.contains(address);
        if !association.addresses.iter().all(is_own) {
            let mut data = header(association.id, 0);
            append_status(
                &mut data,
                Status::NoBinding,
                "not an address of this interface",
            );
            reply.option(option::IA_NA, &data);
        }
    }
    reply.status(Status::Success, "");
}

/// RFC 8415 §18.3.1, §18.3.2, §18.3.4, §18.3.5.
fn give(
    request: &Message<'_>,
    associations: &[Association],
    vnic: &VnicPlan,
    reply: &mut Writer,
) -> Result<(), Refusal> {
    for (place, association) in associations.iter().enumerate() {
        let mut data = header(association.id, vnic.dhcp6.settings.preferred_s);
        let own = if place == 0 { &vnic.ipv6[..] } else { &[] };
        if own.is_empty() {
            append_status(&mut data, Status::NoAddrsAvail, "no address is configured");
        }
        let Settings6 {
            preferred_s,
            valid_s,
            ..
        } = *vnic.dhcp6.settings;
        for address in own {
            append_address(&mut data, *address, preferred_s, valid_s);
        }
        // What the client should no longer use.
        for address in association.addresses.iter().filter(|a| !own.contains(a)) {
            if matches!(request.kind, Kind::Renew | Kind::Rebind) {
                append_address(&mut data, *address, 0, 0);
            }
        }
        reply.option(option::IA_NA, &data);
    }
    let others = [
        (option::IA_TA, 4, Status::NoAddrsAvail),
        (option::IA_PD, 12, Status::NoPrefixAvail),
    ];
    for (code, header_bytes, status) in others {
        for association in request.options.all(code) {
            let id = association.first_chunk::<4>().ok_or(Refusal::Dhcp6Form)?;
            let mut data = id.to_vec();
            data.resize(header_bytes, 0);
            append_status(&mut data, status, "");
            reply.option(code, &data);
        }
    }
    Ok(())
}

/// An association's number, T1 and T2 (RFC 8415 §21.4: half and four fifths of the preferred lifetime).
fn header(id: [u8; 4], preferred_s: u32) -> Vec<u8> {
    let share = |of_ten: u64| match preferred_s {
        u32::MAX => u32::MAX,
        s => (u64::from(s) * of_ten / 10) as u32,
    };
    let mut data = id.to_vec();
    data.extend(share(5).to_be_bytes());
    data.extend(share(8).to_be_bytes());
    data
}

fn append(data: &mut Vec<u8>, code: u16, option: &[u8]) {
    data.extend(code.to_be_bytes());
    data.extend((option.len() as u16).to_be_bytes());
    data.extend_from_slice(option);
}

fn append_address(data: &mut Vec<u8>, address: Ipv6Addr, preferred_s: u32, valid_s: u32) {
    let mut option = address.octets().to_vec();
    option.extend(preferred_s.to_be_bytes());
    option.extend(valid_s.to_be_bytes());
    append(data, option::ADDRESS, &option);
}

fn append_status(data: &mut Vec<u8>, status: Status, text: &str) {
    let mut option = (status as u16).to_be_bytes().to_vec();
    option.extend_from_slice(text.as_bytes());
    append(data, option::STATUS, &option);
}

/// What the client asks for beside addresses; everything, if it does not say.
fn settings(request: &Message<'_>, settings: &Settings6, refresh: bool, reply: &mut Writer) {
    let oro = request.options.get(option::ORO);
    let asks = |code: u16| {
        let pair = code.to_be_bytes();
        oro.is_none_or(|codes| codes.chunks_exact(2).any(|asked| asked == pair))
    };
    let dns: Vec<u8> = settings.dns.iter().flat_map(Ipv6Addr::octets).collect();
    let search = dns::names(&settings.search);
    let url = settings.boot_file_url.as_deref().unwrap_or_default();
    for (code, data) in [
        (option::DNS, &dns[..]),
        (option::SEARCH, &search),
        (option::BOOT_FILE, url.as_bytes()),
    ] {
        if asks(code) && !data.is_empty() {
            reply.option(code, data);
        }
    }
    if refresh && asks(option::REFRESH) {
        reply.option(option::REFRESH, &REFRESH_S.to_be_bytes());
    }
}
