//! Traffic as a line of text.
//!
//! ```text
//! eth.src=02:00:00:00:00:01 eth.dst=02:00:00:00:00:02 vlan=5
//! ip.src=10.0.0.1 ip.dst=10.1.0.0/22 udp.src=1000..1999 udp.dst=random
//! ```
//!
//! In: words of the form `FIELD=VALUE`, over several lines if need be; what follows `#` on a line is a
//! comment. Out: [`Spec`]. A value is one thing (`7`), a range, both ends included (`1000..1999`,
//! `10.1.0.0/22`), which flows go through one after the other, or drawn at random for each flow
//! (`random`, `random:1000..1999`). Fields that are not there have the value of
//! [`Spec::default`].

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use policy::Mac;

use crate::generator::{
    flow::Flow,
    random::Random,
    template::{Headers, Transport},
};

/// Values of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values {
    first: u128,
    count: u128,
    random: bool,
}

/// What frames have in common, and in which fields flows differ.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// What they have in common.
    pub headers: Headers,
    src: Values,
    dst: Values,
    src_port: Values,
    dst_port: Values,
}

impl Values {
    fn one(value: u128) -> Self {
        Self {
            first: value,
            count: 1,
            random: false,
        }
    }

    fn between(first: u128, last: u128) -> Result<Self, String> {
        if first > last {
            return Err("the end of the range is before its beginning".to_owned());
        }
        Ok(Self {
            first,
            // The whole of IPv6 has one more than fits.
            count: (last - first).saturating_add(1),
            random: false,
        })
    }

    /// The value of a flow. `rest` counts through what is not random.
    fn pick(self, rest: &mut u128, random: &mut Random) -> u128 {
        let index = if self.random {
            let wide = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
            wide % self.count
        } else {
            let index = *rest % self.count;
            *rest /= self.count;
            index
        };
        self.first.wrapping_add(index)
    }
}

impl Default for Spec {
    /// UDP over IPv4, one flow.
    fn default() -> Self {
        let address = |last| u128::from(u32::from(Ipv4Addr::new(10, 0, 0, last)));
        Self {
            headers: Headers {
                eth_src: Mac([2, 0, 0, 0, 0, 1]),
                eth_dst: Mac([2, 0, 0, 0, 0, 2]),
                vlan_tci: None,
                transport: Transport::Udp,
                ipv6: false,
            },
            src: Values::one(address(1)),
            dst: Values::one(address(2)),
            src_port: Values::one(20_000),
            dst_port: Values::one(10_000),
        }
    }
}

impl Spec {
    /// So many flows, no two the same unless they are drawn at random.
    ///
    /// # Errors
    /// When the fields do not tell so many apart.
    pub fn flows(&self, count: u32) -> Result<Vec<Flow>, String> {
        let fields = [self.dst_port, self.dst, self.src_port, self.src];
        let ways = fields.iter().filter(|values| !values.random);
        let ways = ways.fold(1_u128, |ways, values| ways.saturating_mul(values.count));
        let drawn = fields.iter().any(|values| values.random);
        if !drawn && ways < u128::from(count) {
            return Err(format!(
                "the template has {ways} different flows, and {count} are wanted; widen a range"
            ));
        }
        let address = |value: u128| -> IpAddr {
            if self.headers.ipv6 {
                Ipv6Addr::from(value).into()
            } else {
                Ipv4Addr::from(value as u32).into()
            }
        };
        let mut random = Random::new(0x5eed);
        let flows = (0..count).map(|index| {
            let mut rest = u128::from(index);
            let [dst_port, dst, src_port, src] =
                fields.map(|values| values.pick(&mut rest, &mut random));
            Flow {
                src: address(src),
                dst: address(dst),
                src_port: src_port as u16,
                dst_port: dst_port as u16,
            }
        });
        Ok(flows.collect())
    }

    fn set(&mut self, field: &str, value: &str) -> Result<(), String> {
        let transport = |name| match name {
            "tcp" => Transport::Tcp,
            _ => Transport::Udp,
        };
        match field {
            "eth.src" => self.headers.eth_src = mac(value)?,
            "eth.dst" => self.headers.eth_dst = mac(value)?,
            "vlan" => {
                let id = value.parse().ok().filter(|id| (1..=4094).contains(id));
                self.headers.vlan_tci = Some(id.ok_or("a VLAN is a number from 1 to 4094")?);
            }
            "udp.src" | "tcp.src" => {
                self.headers.transport = transport(&field[..3]);
                self.src_port = values(value, port, u16::MAX.into())?;
            }
            "udp.dst" | "tcp.dst" => {
                self.headers.transport = transport(&field[..3]);
                self.dst_port = values(value, port, u16::MAX.into())?;
            }
            _ => {
                return Err(
                    "no such field; there are eth.src, eth.dst, vlan, ip.src, ip.dst, \
                             udp.src, udp.dst, tcp.src and tcp.dst"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }

    /// Both addresses, of one family.
    fn set_addresses(&mut self, src: Option<&str>, dst: Option<&str>) -> Result<(), String> {
        let ipv6 = |value: &str| value.contains(':') && !value.ends_with("random");
        let six = [src, dst]
            .into_iter()
            .flatten()
            .any(|value| ipv6(value.trim_start_matches("random:")));
        if six {
            self.headers.ipv6 = true;
            let first = u128::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
            (self.src, self.dst) = (Values::one(first), Values::one(first + 1));
        }
        let limit = if six { u128::MAX } else { u32::MAX.into() };
        let parse = |text: &str| address(text, six);
        for (text, values_of) in [(src, &mut self.src), (dst, &mut self.dst)] {
            if let Some(text) = text {
                *values_of = values(text, parse, limit)?;
            }
        }
        Ok(())
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut spec = Self::default();
        let (mut src, mut dst) = (None, None);
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default());
        for word in lines.flat_map(str::split_whitespace) {
            let fault = |why: String| format!("\"{word}\": {why}");
            let (field, value) = word
                .split_once('=')
                .ok_or_else(|| fault("write FIELD=VALUE".to_owned()))?;
            match field {
                "ip.src" => src = Some(value),
                "ip.dst" => dst = Some(value),
                _ => spec.set(field, value).map_err(fault)?,
            }
        }
        spec.set_addresses(src, dst)
            .map_err(|why| format!("ip.src, ip.dst: {why}"))?;
        Ok(spec)
    }
}

fn mac(text: &str) -> Result<Mac, String> {
    text.parse()
        .map_err(|_| "an Ethernet address is six bytes, 02:00:00:00:00:01".to_owned())
}

fn port(text: &str) -> Result<u128, String> {
    let port: Result<u16, _> = text.parse();
    port.map(u128::from)
        .map_err(|_| format!("\"{text}\" is no port from 0 to 65535"))
}

fn address(text: &str, ipv6: bool) -> Result<u128, String> {
    let fault = || format!("\"{text}\" is no IPv{} address", if ipv6 { 6 } else { 4 });
    match text.parse() {
        Ok(IpAddr::V4(address)) if !ipv6 => Ok(u32::from(address).into()),
        Ok(IpAddr::V6(address)) if ipv6 => Ok(address.into()),
        _ => Err(fault()),
    }
}

fn values(
    text: &str,
    parse: impl Fn(&str) -> Result<u128, String>,
    limit: u128,
) -> Result<Values, String> {
    if text == "random" {
        return Ok(Values {
            random: true,
            ..Values::between(0, limit)?
        });
    }
    if let Some(range) = text.strip_prefix("random:") {
        return Ok(Values {
            random: true,
            ..values(range, parse, limit)?
        });
    }
    if let Some((first, last)) = text.split_once("..") {
        return Values::between(parse(first)?, parse(last)?);
    }
    if text.contains('/') {
        let net: IpNet = text
            .parse()
            .map_err(|_| format!("\"{text}\" is no prefix"))?;
        return Values::between(
            parse(&net.network().to_string())?,
            parse(&net.broadcast().to_string())?,
        );
    }
    Ok(Values::one(parse(text)?))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn flows(text: &str, count: u32) -> Vec<Flow> {
        let spec: Spec = text.parse().expect("a template");
        spec.flows(count).expect("flows")
    }

    #[test]
    fn ranges_are_gone_through_and_make_every_flow_another() {
        let all = flows("ip.dst=10.1.0.0/30 udp.dst=5..7 # comment\nudp.src=9", 12);
        let different: HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), 12);
        assert!(all.iter().all(|flow| flow.src_port == 9));
        assert_eq!(all[1].dst_port, 6);
        let spec: Spec = "udp.dst=5..7".parse().expect("a template");
        assert!(spec.flows(4).is_err());
    }

    #[test]
    fn random_values_stay_in_their_range_and_are_the_same_every_time() {
        let text = "tcp.src=random:1000..1009 ip.src=random:fd00::/64 ip.dst=fd00::2";
        let all = flows(text, 500);
        assert_eq!(all, flows(text, 500));
        let ports: HashSet<u16> = all.iter().map(|flow| flow.src_port).collect();
        assert_eq!(ports.len(), 10);
        assert!(ports.iter().all(|port| (1000..=1009).contains(port)));
        let spec: Spec = text.parse().expect("a template");
        assert!(spec.headers.ipv6 && spec.headers.transport == Transport::Tcp);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (text, part) in [
            ("udp.src", "FIELD=VALUE"),
            ("udp.sport=1", "udp.sport"),
            ("udp.src=70000", "70000"),
            ("udp.src=9..3", "before"),
            ("vlan=0", "4094"),
            ("eth.src=2", "six bytes"),
            ("ip.src=10.0.0.1 ip.dst=fd00::1", "IPv6"),
            ("ip.src=10.0.0.0/99", "prefix"),
        ] {
            let error = text.parse::<Spec>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
