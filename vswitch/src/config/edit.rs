//! Adding a port to a configuration's text, taking one out of it, changing what a set holds. Every other line keeps its
//! number, so that rules keep the places they were written at.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// The text with one more `[[port]]` at its end. `port` holds the fields, as TOML.
pub fn append_port(text: &str, port: &str) -> String {
    let gap = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!("{text}{gap}[[port]]\n{}\n", port.trim_end())
}

/// Why a port could not be taken out of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    /// No port has the name.
    #[error("there is no such port")]
    Unknown,
    /// Its section cannot be cut out.
    #[error(
        "the ports of this configuration are not written as [[port]]; apply a configuration without it instead"
    )]
    Inline,
}

/// The text with the lines of a port's section emptied.
///
/// # Errors
///
/// [`RemoveError`]: there is no such port, or it has no section of its own.
pub fn remove_port(text: &str, name: &str) -> Result<String, RemoveError> {
    let root = DeTable::parse(text).map_err(|_| RemoveError::Unknown)?;
    let ports = root.get_ref().get("port").ok_or(RemoveError::Unknown)?;
    let ports = ports.get_ref().as_array().ok_or(RemoveError::Unknown)?;
    let port = ports
        .iter()
        .find(|port| {
            let table = port.get_ref().as_table();
            let found = table.and_then(|table| table.get("name"));
            found.and_then(|value| value.get_ref().as_str()) == Some(name)
        })
        .ok_or(RemoveError::Unknown)?;
    let start = port.span().start;
    if !text[start..].starts_with("[[") {
        return Err(RemoveError::Inline);
    }
    let mut headers = Vec::new();
    for (key, value) in root.get_ref() {
        headers_of(key.get_ref(), value.get_ref(), &value.span(), &mut headers);
    }
    let end = headers
        .into_iter()
        .filter(|header| *header > start)
        .min()
        .unwrap_or(text.len());
    let emptied = "\n".repeat(text[start..end].matches('\n').count());
    Ok(format!("{}{emptied}{}", &text[..start], &text[end..]))
}

/// Where sections begin, but those that belong to a port.
fn headers_of(key: &str, value: &DeValue<'_>, span: &Range<usize>, headers: &mut Vec<usize>) {
    match value {
        DeValue::Array(items) => {
            for item in items {
                headers.push(item.span().start);
                if key != "port" {
                    nested(item.get_ref(), headers);
                }
            }
        }
        DeValue::Table(_) => {
            headers.push(span.start);
            nested(value, headers);
        }
        _ => {}
    }
}

fn nested(value: &DeValue<'_>, headers: &mut Vec<usize>) {
    if let DeValue::Table(table) = value {
        for (key, value) in table {
            headers_of(key.get_ref(), value.get_ref(), &value.span(), headers);
        }
    }
}

/// Members of a set that are not where they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not in the text of the running configuration")]
pub struct SetError;

/// The text with other members in a set, whose list stands at `span`. Comments between the old ones
/// go.
///
/// # Errors
///
/// [`SetError`]: there is no list.
pub fn replace_members(
    text: &str,
    span: &Range<usize>,
    members: &[String],
) -> Result<String, SetError> {
    let list = text.get(span.clone()).ok_or(SetError)?;
    if !list.starts_with('[') || !list.ends_with(']') {
        return Err(SetError);
    }
    let quoted = members
        .iter()
        .map(|m| toml::Value::String(m.clone()).to_string());
    let members = quoted.collect::<Vec<_>>().join(", ");
    let gap = "\n".repeat(list.matches('\n').count());
    Ok(format!(
        "{}[{members}{gap}]{}",
        &text[..span.start],
        &text[span.end..]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[[port]]\nname = \"a\"\n[port.storm]\nbroadcast_pps = 1\n\n[[acl]]\nname = \"x\"\n[[acl.rule]]\naction = \"deny\"\n[[port]]\nname = \"b\"\n";

    #[test]
    fn a_port_is_cut_out_with_its_own_tables_and_nothing_moves() {
        let without = remove_port(TEXT, "a").expect("there");
        assert_eq!(without.lines().count(), TEXT.lines().count());
        assert_eq!(
            without,
            "\n\n\n\n\n[[acl]]\nname = \"x\"\n[[acl.rule]]\naction = \"deny\"\n[[port]]\nname = \"b\"\n"
        );
        let without = remove_port(TEXT, "b").expect("there");
        assert_eq!(
            without.trim_end(),
            TEXT[..TEXT.rfind("[[port").expect("b")].trim_end()
        );
    }

    #[test]
    fn members_are_replaced_and_nothing_else_moves() {
        let text = "[[port_set]]\nname = \"web\"\nports = [\n  80, # plain\n  443,\n]\n[[acl]]\nname = \"x\"\n";
        let members = ["80".to_owned(), "8000-8999".to_owned()];
        let span = |text: &str| {
            let start = text.find("= [").expect("a list") + 2;
            start..start + text[start..].find(']').expect("its end") + 1
        };
        let changed = replace_members(text, &span(text), &members).expect("there");
        assert_eq!(
            changed,
            "[[port_set]]\nname = \"web\"\nports = [\"80\", \"8000-8999\"\n\n\n]\n[[acl]]\nname = \"x\"\n"
        );
        let empty = replace_members(&changed, &span(&changed), &[]).expect("there");
        assert!(empty.contains("ports = [\n\n\n]\n[[acl]]"), "{empty}");
        for nowhere in [0..3, 5..700, 2..2] {
            assert_eq!(replace_members(text, &nowhere, &members), Err(SetError));
        }
    }

    #[test]
    fn what_cannot_be_cut_out_is_refused() {
        assert_eq!(remove_port(TEXT, "c"), Err(RemoveError::Unknown));
        let inline = "port = [{name = \"a\"}]\n";
        assert_eq!(remove_port(inline, "a"), Err(RemoveError::Inline));
    }

    #[test]
    fn an_added_port_can_be_removed() {
        let more = append_port("x = 1", "name = \"c\"\ndriver = \"memory\"\n");
        assert_eq!(more, "x = 1\n[[port]]\nname = \"c\"\ndriver = \"memory\"\n");
        assert_eq!(remove_port(&more, "c").expect("there").trim_end(), "x = 1");
    }
}
