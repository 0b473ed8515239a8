//! Names for things: small checked numbers, so that one cannot be taken for another.

use std::{fmt, str::FromStr};

/// A port's number while it exists; an index into per-port tables. Given out by control, and
/// given again only when every worker has forgotten its former owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

/// A network's number while it exists; an index into per-network tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub u16);

/// A router's interface, while it exists: where the router is attached to a network or an uplink;
/// an index into the router's interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId(pub u16);

/// A rule's number. The same rule of the same ACL keeps it across reloads, so that counts go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

/// The number of a snapshot; grows with every one that is published. Zero is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl PortId {
    /// As an index.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl InterfaceId {
    /// As an index.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for InterfaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interface {}", self.0)
    }
}

impl NetworkId {
    /// As an index.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An 802.1Q VLAN identifier, 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanId(u16);

impl VlanId {
    /// `None` unless `vid` is from 1 to 4094 (IEEE 802.1Q: 0 marks a priority tag, 4095 is
    /// reserved).
    pub fn new(vid: u16) -> Option<Self> {
        (1..=4094).contains(&vid).then_some(Self(vid))
    }

    /// The number.
    #[inline]
    pub fn get(self) -> u16 {
        self.0
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The address in the low 48 bits.
    #[inline]
    pub fn to_u64(self) -> u64 {
        let [m0, m1, m2, m3, m4, m5] = self.0;
        u64::from_be_bytes([0, 0, m0, m1, m2, m3, m4, m5])
    }

    /// The address from the low 48 bits.
    #[inline]
    pub fn from_u64(bits: u64) -> Self {
        let [_, _, mac @ ..] = bits.to_be_bytes();
        Self(mac)
    }

    /// True for broadcast and multicast addresses (IEEE 802, the I/G bit).
    #[inline]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// True for 01:80:c2:00:00:00 to :0f, which a bridge does not forward (IEEE 802.1Q §8.6.3).
    #[inline]
    pub fn is_link_local(self) -> bool {
        self.to_u64() & !0xf == 0x0180_c200_0000
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [m0, m1, m2, m3, m4, m5] = self.0;
        write!(f, "{m0:02x}:{m1:02x}:{m2:02x}:{m3:02x}:{m4:02x}:{m5:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an Ethernet address; write six hexadecimal bytes, as in 02:00:00:00:00:01")]
pub struct MacParseError(String);

impl FromStr for Mac {
    type Err = MacParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || MacParseError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(error)?;
            if !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(error());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() {
            Err(error())
        } else {
            Ok(Self(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_print_as_they_parse() {
        let mac: Mac = "02:00:5e:00:00:0A".parse().expect("valid");
        assert_eq!(mac.to_string(), "02:00:5e:00:00:0a");
        assert_eq!(Mac::from_u64(mac.to_u64()), mac);
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:01",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn vlan_ids_are_checked() {
        assert_eq!(VlanId::new(0), None);
        assert_eq!(VlanId::new(4095), None);
        assert_eq!(VlanId::new(4094).map(VlanId::get), Some(4094));
    }

    #[test]
    fn link_local_groups_are_those_of_802_1q() {
        assert!(
            "01:80:c2:00:00:0e"
                .parse::<Mac>()
                .expect("valid")
                .is_link_local()
        );
        assert!(
            !"01:80:c2:00:00:10"
                .parse::<Mac>()
                .expect("valid")
                .is_link_local()
        );
    }
}
