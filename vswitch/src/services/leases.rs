//! DHCP and `DHCPv6` messages as [`Services`] meets them: whose they are, and where answers go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::{Mac, NetworkId, PortId};

use super::{
    Destination, Event, Ingress, Output, Services, Verdict,
    dhcp4::{
        message::Message,
        relay::{Forward, Late},
        server::{self, Outcome, To},
    },
    dhcp6,
    directory::Directory,
    frame::{self, DHCP_CLIENT, DHCP_SERVER, DHCP6_CLIENT, DHCP6_SERVER, Datagram, Received},
    plan::{Mode4, Mode6, NetworkPlan, Relay4, VnicPlan, link_local},
    refusal::Refusal,
};

type Ruling = Result<Verdict, Refusal>;

impl Services {
    pub(super) fn dhcp4(
        &mut self,
        ingress: &Ingress,
        received: &Received<'_>,
        datagram: &Datagram<'_, Ipv4Addr>,
        out: &mut Output,
    ) -> Ruling {
        if datagram.dst_port != DHCP_SERVER {
            return Ok(Verdict::Pass);
        }
        if datagram.src_port == DHCP_SERVER && self.is_relay(datagram.dst) {
            return self.relay_reply(datagram, out);
        }
        let Some(network) = self.directory.network(ingress.network) else {
            return Ok(Verdict::Pass);
        };
        let vnic = self.directory.vnic(ingress.network, ingress.port);
        let Some(vnic) = vnic.filter(|vnic| vnic.dhcp4.mode != Mode4::Off) else {
            return Ok(Verdict::Pass);
        };
        let own = datagram.dst == vnic.dhcp4.server || network.has4(datagram.dst);
        if !own && !datagram.dst.is_broadcast() {
            return Ok(Verdict::Pass);
        }
        let request = Message::read(datagram.payload)?;
        if request.reply {
            return Err(Refusal::DhcpType);
        }
        if request.chaddr != vnic.mac {
            return Err(Refusal::DhcpAddress);
        }
        match &vnic.dhcp4.mode {
            Mode4::Relay(relay) => {
                let now_ns = ingress.now_ns;
                let whose = (vnic, relay);
                let forward = self
                    .relay
                    .forward(whose, datagram.payload, &request, now_ns)?;
                send_to_server(network, &forward, out);
            }
            Mode4::Fixed | Mode4::Off => {
                answer(network, vnic, &request, received.src, out)?;
            }
        }
        Ok(Verdict::Consumed)
    }

    /// Whether an address is that of a relay.
    fn is_relay(&self, address: Ipv4Addr) -> bool {
        let mut vnics = self.directory.vnics().iter();
        vnics.any(|vnic| vnic.dhcp4.server == address && matches!(vnic.dhcp4.mode, Mode4::Relay(_)))
    }

    fn relay_reply(&mut self, datagram: &Datagram<'_, Ipv4Addr>, out: &mut Output) -> Ruling {
        let message = Message::read(datagram.payload)?;
        if !message.reply {
            return Err(Refusal::DhcpType);
        }
        let directory = &self.directory;
        let deliver = self.relay.reply(
            (datagram.src, datagram.dst),
            datagram.payload,
            &message,
            |network, port| relay_of(directory, network, port),
        )?;
        let Some(network) = self.directory.network(deliver.network) else {
            return Err(Refusal::RelayUnasked);
        };
        let from = (network.mac, deliver.giaddr);
        let macs = (deliver.mac, deliver.mac);
        let frame = to_client(from, macs, deliver.to, &deliver.message);
        out.send(network.id, Destination::Port(deliver.port), frame);
        Ok(Verdict::Consumed)
    }

    /// Servers that did not answer in time.
    pub(super) fn relay_late(&mut self, now_ns: u64, out: &mut Output) {
        let directory = &self.directory;
        let late = self
            .relay
            .late(now_ns, |network, port| relay_of(directory, network, port));
        for late in late {
            match late {
                Late::Ask(id, forward) => {
                    if let Some(network) = self.directory.network(id) {
                        send_to_server(network, &forward, out);
                    }
                }
                Late::Silent(id, port, message) => {
                    self.refusals.count(id, Refusal::RelaySilent);
                    let network = self.directory.network(id);
                    let vnic = self.directory.vnic(id, port);
                    let (Some(network), Some(vnic)) = (network, vnic) else {
                        continue;
                    };
                    let falls = matches!(&vnic.dhcp4.mode, Mode4::Relay(relay) if relay.fallback);
                    if falls && let Err(refusal) = answer(network, vnic, &message, vnic.mac, out) {
                        self.refusals.count(id, refusal);
                    }
                }
            }
        }
    }

    pub(super) fn dhcp6(
        &mut self,
        ingress: &Ingress,
        received: &Received<'_>,
        datagram: &Datagram<'_, Ipv6Addr>,
        out: &mut Output,
    ) -> Ruling {
        let multicast = datagram.dst == dhcp6::message::ALL_SERVERS;
        if datagram.dst_port != DHCP6_SERVER {
            return Ok(Verdict::Pass);
        }
        if !multicast && self.is_relay6(datagram.dst) && datagram.src_port == DHCP6_SERVER {
            return self.relay_reply6(datagram, out);
        }
        let Some(network) = self.directory.network(ingress.network) else {
            return Ok(Verdict::Pass);
        };
        let vnic = self.directory.vnic(ingress.network, ingress.port);
        let Some(vnic) = vnic.filter(|vnic| vnic.dhcp6.mode != Mode6::Off) else {
            return Ok(Verdict::Pass);
        };
        if !multicast && !network.has6(datagram.dst) {
            return Ok(Verdict::Pass);
        }
        if let Mode6::Relay(relay) = &vnic.dhcp6.mode {
            let message = dhcp6::relay::forward(vnic, relay, datagram.src, datagram.payload)?;
            for server in &relay.servers {
                let relayed = Datagram {
                    src: relay.link,
                    dst: *server,
                    src_port: DHCP6_SERVER,
                    dst_port: DHCP6_SERVER,
                    payload: &message,
                };
                let frame = frame::udp6((network.mac, network.mac), &relayed);
                out.send(network.id, Destination::Route, frame);
            }
            return Ok(Verdict::Consumed);
        }
        let request = dhcp6::message::Message::read(datagram.payload)?;
        let outcome = dhcp6::server::answer(&request, vnic, network.mac, multicast)?;
        let client = (vnic.port, received.src, datagram.src);
        send_to_client6(network, client, &outcome.message, out);
        for address in outcome.declined {
            out.events.push(declined(vnic, address.into()));
        }
        Ok(Verdict::Consumed)
    }

    fn is_relay6(&self, address: Ipv6Addr) -> bool {
        let mut vnics = self.directory.vnics().iter();
        vnics.any(|vnic| matches!(&vnic.dhcp6.mode, Mode6::Relay(r) if r.link == address))
    }

    fn relay_reply6(&mut self, datagram: &Datagram<'_, Ipv6Addr>, out: &mut Output) -> Ruling {
        let deliver = dhcp6::relay::reply(datagram.payload)?;
        let vnic = self.vnic_of(deliver.link, deliver.interface_id);
        let vnic = vnic.ok_or(Refusal::RelayUnasked)?;
        let network = self.directory.network(vnic.network);
        let network = network.ok_or(Refusal::RelayUnasked)?;
        match &vnic.dhcp6.mode {
            Mode6::Relay(relay) if relay.servers.contains(&datagram.src) => {
                let client = (vnic.port, vnic.mac, deliver.peer);
                send_to_client6(network, client, deliver.message, out);
                Ok(Verdict::Consumed)
            }
            _ => Err(Refusal::RelayServer),
        }
    }
}

fn relay_of(directory: &Directory, network: NetworkId, port: PortId) -> Option<&Relay4> {
    match &directory.vnic(network, port)?.dhcp4.mode {
        Mode4::Relay(relay) => Some(relay),
        _ => None,
    }
}

fn declined(vnic: &VnicPlan, address: IpAddr) -> Event {
    Event::Declined {
        network: vnic.network,
        port: vnic.port,
        address,
    }
}

/// Answers with the vNIC's own lease. `src` is the Ethernet address that the message came from.
fn answer(
    network: &NetworkPlan,
    vnic: &VnicPlan,
    request: &Message,
    src: Mac,
    out: &mut Output,
) -> Result<(), Refusal> {
    let lease = vnic.dhcp4.lease.as_ref().ok_or(Refusal::DhcpNoLease)?;
    match server::answer(request, vnic.dhcp4.server, lease)? {
        Outcome::Answer { kind, message } => {
            let yours = Message::read(&message)?.yiaddr;
            let to = server::destination(request, kind, yours);
            let from = (network.mac, vnic.dhcp4.server);
            let frame = to_client(from, (vnic.mac, src), to, &message);
            out.send(network.id, Destination::Port(vnic.port), frame);
        }
        Outcome::Declined(address) => out.events.push(declined(vnic, address.into())),
        Outcome::Released => {}
    }
    Ok(())
}

/// A message's frame. `client` is the client's Ethernet address, `relay` that of whoever sent its
/// message.
fn to_client(
    (mac, src): (Mac, Ipv4Addr),
    (client, relay): (Mac, Mac),
    to: To,
    message: &[u8],
) -> Vec<u8> {
    let (dst_mac, dst, dst_port) = match to {
        To::Relay(address) => (relay, address, DHCP_SERVER),
        To::Client(address) => (client, address, DHCP_CLIENT),
        To::Everybody => (Mac::BROADCAST, Ipv4Addr::BROADCAST, DHCP_CLIENT),
    };
    let datagram = Datagram {
        src,
        dst,
        src_port: DHCP_SERVER,
        dst_port,
        payload: message,
    };
    frame::udp4((mac, dst_mac), &datagram)
}

fn send_to_server(network: &NetworkPlan, forward: &Forward, out: &mut Output) {
    let datagram = Datagram {
        src: forward.giaddr,
        dst: forward.server,
        src_port: DHCP_SERVER,
        dst_port: DHCP_SERVER,
        payload: &forward.message,
    };
    let frame = frame::udp4((network.mac, network.mac), &datagram);
    out.send(network.id, Destination::Route, frame);
}

fn send_to_client6(
    network: &NetworkPlan,
    (port, mac, address): (PortId, Mac, Ipv6Addr),
    message: &[u8],
    out: &mut Output,
) {
    let datagram = Datagram {
        src: link_local(network.mac),
        dst: address,
        src_port: DHCP6_SERVER,
        dst_port: DHCP6_CLIENT,
        payload: message,
    };
    let frame = frame::udp6((network.mac, mac), &datagram);
    out.send(network.id, Destination::Port(port), frame);
}
