//! Rule sets of `ClassBench` (Taylor and Turner, "`ClassBench`: A Packet Classification
//! Benchmark", IEEE/ACM Transactions on Networking 2007), as they are.
//!
//! A rule is a line, the first line wins:
//! `@SRC/LEN  DST/LEN  LOW : HIGH  LOW : HIGH  0xPROTO/0xMASK  0xFLAGS/0xMASK`, with source ports
//! before destination ports. A protocol mask of 0 is any protocol. FLAGS holds TCP flags, or ICMP
//! type, in its upper byte, and the ICMP code in its lower; the column may be absent.

use std::{ops::RangeInclusive, sync::Arc};

use policy::{
    RuleId,
    key::protocol,
    model::Action,
    rule::{FlagsMatch, IcmpMatch, Match, Origin, Rule},
};

/// The rules of a file; even ones allow, odd ones deny, for the files do not say.
///
/// # Errors
/// The first line that is no rule, and why.
pub fn parse(text: &str) -> Result<Arc<[Rule]>, String> {
    let origin = Arc::new(Origin {
        acl: "classbench".into(),
        text: "".into(),
    });
    let lines = text.lines().zip(1_u32..);
    let filled = lines.filter(|(line, _)| !line.trim().is_empty());
    filled
        .map(|(line, number)| {
            let matches = parse_line(line).ok_or_else(|| format!("line {number}: {line:?}"))?;
            Ok(Rule {
                id: RuleId(number),
                action: [Action::Allow, Action::Deny][number as usize % 2],
                log: false,
                limit: None,
                matches,
                origin: origin.clone(),
            })
        })
        .collect()
}

fn parse_line(line: &str) -> Option<Match> {
    let line = line.trim().strip_prefix('@')?;
    let columns: Vec<&str> = line.split('\t').collect();
    let (protocol, protocol_mask) = parse_pair(columns.get(4)?)?;
    let protocol = (protocol_mask != 0).then_some(protocol as u8);
    let mut matches = Match {
        src: Some(columns.first()?.parse().ok()?),
        dst: Some(columns.get(1)?.parse().ok()?),
        protocol,
        src_ports: parse_ports(columns.get(2)?)?,
        dst_ports: parse_ports(columns.get(3)?)?,
        ..Match::default()
    };
    let flags = columns.get(5).filter(|column| !column.is_empty());
    let (value, mask) = flags.map_or(Some((0, 0)), |column| parse_pair(column))?;
    match protocol {
        Some(protocol::TCP) if mask & 0xff00 != 0 => {
            matches.tcp_flags = Some(FlagsMatch {
                set: ((value & mask) >> 8) as u8,
                mask: (mask >> 8) as u8,
            });
        }
        Some(protocol::ICMP) if mask & 0xff00 == 0xff00 => {
            matches.icmp = Some(IcmpMatch {
                kind: (value >> 8) as u8,
                code: (mask & 0xff == 0xff).then_some(value as u8),
            });
        }
        _ => {}
    }
    Some(matches)
}

/// `0xVALUE/0xMASK`.
fn parse_pair(column: &str) -> Option<(u16, u16)> {
    let (value, mask) = column.split_once('/')?;
    let number = |text: &str| u16::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    Some((number(value)?, number(mask)?))
}

/// `LOW : HIGH`; all ports are no condition.
fn parse_ports(column: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let (low, high) = column.split_once(':')?;
    let range = low.trim().parse().ok()?..=high.trim().parse().ok()?;
    Some(if range == (0..=u16::MAX) {
        Vec::new()
    } else {
        vec![range]
    })
}
