//! Copies that are longer than the tunnel's MTU, as outer fragments (RFC 791 §3.2, RFC 8200 §4.5).

use super::{
    Fields, MAX_PREFIX_BYTES, Template,
    encode::{put2, put4},
    outer::{IPV4_LEN, IPV6_LEN},
};

const FRAGMENT_HEADER_LEN: usize = 8;
/// Next header of an IPv6 fragment header.
const FRAGMENT: u8 = 44;
const MORE_FRAGMENTS: u16 = 0x2000;

/// One fragment: `prefix[..prefix_len] ++ frame[skip..skip + len]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Length of the prefix in bytes.
    pub prefix_len: usize,
    /// Bytes of the frame before this piece.
    pub skip: u32,
    /// Bytes of the frame in this piece.
    pub len: u32,
}

impl Template {
    /// Writes the prefix of fragment `number`, from 0; `None` behind the last. For frames that do
    /// not [`fit`](Template::fit) the MTU; all fragments of a frame are given the same fields.
    pub fn piece(
        &self,
        fields: &Fields,
        number: u32,
        prefix: &mut [u8; MAX_PREFIX_BYTES],
    ) -> Option<Piece> {
        let extra = if self.ipv6 { FRAGMENT_HEADER_LEN } else { 0 };
        let ip_len = if self.ipv6 { IPV6_LEN } else { IPV4_LEN };
        // Of the datagram, which is the tunnel's headers and the frame.
        let each = (self.mtu - ip_len - extra) & !7;
        let total = self.tunnel_len() + fields.inner_len as usize;
        let start = each * number as usize;
        if start >= total {
            return None;
        }
        let len = each.min(total - start);
        let more = start + len < total;

        self.start(prefix);
        let mut prefix_len = self.tunnel + extra;
        if self.ipv6 {
            let next = std::mem::replace(&mut prefix[self.ip + 6], FRAGMENT);
            let at = self.tunnel;
            prefix.copy_within(at..at + self.tunnel_len(), at + extra);
            prefix[at] = next;
            prefix[at + 1] = 0;
            put2(prefix, at + 2, start as u16 | u16::from(more));
            put4(prefix, at + 4, fields.ip_id);
            self.write_ip(fields, prefix, extra + len, 0);
        } else {
            let place = (start / 8) as u16 | if more { MORE_FRAGMENTS } else { 0 };
            self.write_ip(fields, prefix, len, place);
        }
        let headers = if number == 0 { self.tunnel_len() } else { 0 };
        if number == 0 {
            self.write_tunnel(fields, prefix, extra);
            prefix_len += headers;
        }
        Some(Piece {
            prefix_len,
            skip: (start + headers - self.tunnel_len()) as u32,
            len: (len - headers) as u32,
        })
    }
}
