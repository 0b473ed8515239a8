//! Frames of a capture file, as the API takes them.

use std::{collections::HashMap, path::Path};

use pmd::pcap::{LinkType, Reader, Record};
use policy::{FlowKey, PortId, parse::parse};

use crate::{api::types::FrameText, control::compare::MOST_FLOWS, decode, explain::HEAD_BYTES};

/// Most bytes of a frame that are given where each frame counts: no headers are longer.
const MOST_BYTES: usize = 4096;

/// Every frame, in order.
pub(super) fn frames(file: &Path) -> anyhow::Result<Vec<FrameText>> {
    let texts = records(file)?.map(|record| Ok(text(&record?, MOST_BYTES)));
    texts.collect()
}

/// One frame of each flow, with how often the flow was seen, and how many frames are in none.
pub(super) fn flows(file: &Path) -> anyhow::Result<(Vec<FrameText>, u64)> {
    let mut places: HashMap<(FlowKey, Option<Vec<u8>>), usize> = HashMap::new();
    let mut flows: Vec<FrameText> = Vec::new();
    let mut left_out = 0;
    for record in records(file)? {
        let record = record?;
        let (head, len) = head(&record, HEAD_BYTES);
        if len > head.len() && head.len() < HEAD_BYTES {
            // Captured with a short snapshot length: what is missing may decide.
            left_out += 1;
            continue;
        }
        let parsed = parse(head, len, None, PortId(0));
        let payload = (!parsed.class.cacheable()).then(|| head.to_vec());
        let identity = (parsed.key, payload);
        if let Some(place) = places.get(&identity) {
            let seen = &mut flows[*place].seen;
            *seen = seen.map(|seen| seen + 1);
        } else if flows.len() < MOST_FLOWS {
            places.insert(identity, flows.len());
            flows.push(text(&record, HEAD_BYTES));
        } else {
            left_out += 1;
        }
    }
    Ok((flows, left_out))
}

fn records(file: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Record>> + use<>> {
    let name = file.display().to_string();
    let records = Reader::open(file)?;
    Ok(records.map(move |record| {
        let record = record?;
        anyhow::ensure!(
            record.link_type == LinkType::ETHERNET,
            "{name}: {} is not Ethernet; capture on an Ethernet interface",
            record.link_type
        );
        Ok(record)
    }))
}

/// At most so many of the first bytes, and how many there were in all.
fn head(record: &Record, most: usize) -> (&[u8], usize) {
    let len = (record.original_len as usize).max(record.bytes.len());
    (&record.bytes[..record.bytes.len().min(most)], len)
}

fn text(record: &Record, most: usize) -> FrameText {
    let (head, len) = head(record, most);
    FrameText {
        hex: decode::hex(head),
        len_bytes: Some(len),
        seen: Some(1),
    }
}
