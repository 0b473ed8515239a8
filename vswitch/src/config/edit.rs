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

/// A set that is not in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not in the text of the running configuration")]
pub struct SetError;

/// The text with other members in a set. Comments between the old ones go.
///
/// # Errors
///
/// [`SetError`]: there is no such set, or it has no list of members.
pub fn replace_members(
    text: &str,
    kind: &str,
    name: &str,
    field: &str,
    members: &[String],
) -> Result<String, SetError> {
    let root = DeTable::parse(text).map_err(|_| SetError)?;
    let sets = root.get_ref().get(kind).ok_or(SetError)?;
    let sets = sets.get_ref().as_array().ok_or(SetError)?;
    let tables = sets.iter().filter_map(|set| set.get_ref().as_table());
    let is_wanted = |table: &&DeTable<'_>| {
        let found = table.get("name");
        found.and_then(|value| value.get_ref().as_str()) == Some(name)
    };
    let table = tables.into_iter().find(is_wanted).ok_or(SetError)?;
    let span = table.get(field).ok_or(SetError)?.span();
    let lines = text[span.clone()].matches('\n').count();
    let quoted = members
        .iter()
        .map(|m| toml::Value::String(m.clone()).to_string());
    let list = quoted.collect::<Vec<_>>().join(", ");
    let gap = "\n".repeat(lines);
    Ok(format!(
        "{}[{list}{gap}]{}",
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
        let changed = replace_members(text, "port_set", "web", "ports", &members).expect("there");
        assert_eq!(
            changed,
            "[[port_set]]\nname = \"web\"\nports = [\"80\", \"8000-8999\"\n\n\n]\n[[acl]]\nname = \"x\"\n"
        );
        let empty = replace_members(&changed, "port_set", "web", "ports", &[]).expect("there");
        assert!(empty.contains("ports = [\n\n\n]\n[[acl]]"), "{empty}");
        let unknown = replace_members(text, "port_set", "wob", "ports", &members);
        assert_eq!(unknown, Err(SetError));
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
