//! Domain names as DNS writes them (RFC 1035 §3.1), for search lists. Names are not compressed: RFC 3397
//! would like it, no client needs it, and RFC 8106 and RFC 8415 forbid it.

use std::sync::Arc;

/// The longest name, as it is written in messages.
const MOST_BYTES: usize = 255;
const MOST_LABEL_BYTES: usize = 63;

/// Whether a text is a domain name: labels of letters, digits, `-` and `_`.
pub fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let known = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        (1..=MOST_LABEL_BYTES).contains(&label.len()) && label.bytes().all(known)
    };
    text.len() + 2 <= MOST_BYTES && text.split('.').all(is_label)
}

/// Names, one behind the other; what is not a name is left out.
pub(super) fn names(names: &[Arc<str>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names.iter().filter(|name| is_name(name)) {
        for label in name.strip_suffix('.').unwrap_or(name).split('.') {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_label_by_label() {
        assert_eq!(
            names(&["a.bc.".into(), "d".into()]),
            b"\x01a\x02bc\0\x01d\0"
        );
        let long = "a".repeat(64);
        // 255 bytes, the last of which is the root's.
        assert!(is_name(&"a.".repeat(127)));
        for bad in ["", ".", "a..b", "a b", &long, &"a.".repeat(128)] {
            assert!(!is_name(bad), "{bad}");
            assert!(names(&[bad.into()]).is_empty());
        }
    }
}
