//! Rules that a text has in common with the one that was read before it.
//!
//! In: a configuration with its text, and the text that comes after it. Out: that text with runs of
//! rules that both have blanked out, and those rules, so that they are not read again: one rule
//! changed among ten thousand is what most changes are.
//!
//! What must hold: what is read so is what reading the whole text gives. A run is what two texts
//! that are alike before it, or behind it, have between the beginnings of two items of a list. With
//! spaces in its place, the item behind it stands as one of the same list in the new text only if the
//! run would begin as one; then its bytes mean what they meant. So a run counts only when that item was
//! met, and when one was not, or there is any problem, the text is read whole.

use std::{cell::Cell, ops::Range, sync::Arc};

use super::{
    problem::Source,
    types::{AclRule, Config},
};

/// Fewer rules are not worth it.
const FEWEST_RULES: usize = 64;

/// Rules that need not be read again, of one list.
#[derive(Debug)]
struct Run {
    /// The list's kind and name, as problems name it.
    owner: String,
    /// Where the item behind it begins.
    anchor: usize,
    rules: Vec<AclRule>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Kept {
    /// The new text with spaces instead of them.
    pub(super) blanked: String,
    /// In the order of the text.
    runs: Vec<Run>,
    met: Cell<usize>,
}

impl Kept {
    /// What `text` has in common with `before`, which `config` was read from; `None` if that is
    /// little.
    pub(super) fn find(
        source: &Source<'_>,
        text: &str,
        before: &str,
        config: &Config,
    ) -> Option<Self> {
        let common = Common::of(before, text);
        let acls = config.acls.iter();
        let acls = acls.map(|acl| (acl_owner(&acl.name), &acl.rules));
        let groups = config.groups.iter();
        let groups = groups.map(|group| (group_owner(&group.name), &group.rules));
        let mut runs = Vec::new();
        let mut blanks: Vec<Range<usize>> = Vec::new();
        for (owner, rules) in acls.chain(groups) {
            // A header of its own may have other sections behind it.
            let inline = |rule: &AclRule| {
                matches!(
                    before.as_bytes().get(rule.span.start),
                    Some(b'{' | b'"' | b'\'')
                )
            };
            let Some((last, _)) = rules.split_last().filter(|_| rules.iter().all(inline)) else {
                continue;
            };
            let ahead = rules.partition_point(|rule| rule.span.start <= common.ahead);
            let ahead = 0..ahead.saturating_sub(1);
            let behind = rules.partition_point(|rule| rule.span.start < common.behind);
            let moved = |at: usize| at.wrapping_add_signed(common.shift);
            // The item behind the first run is not part of the second.
            let is_anchor = |rule: &AclRule| {
                !ahead.is_empty() && moved(rule.span.start) == rules[ahead.end].span.start
            };
            let behind = behind + usize::from(rules.get(behind).is_some_and(is_anchor));
            let behind = behind.max(ahead.end)..rules.len() - 1;
            for (range, shift) in [(ahead, 0), (behind, common.shift)] {
                let Some(first) = rules.get(range.clone()).and_then(<[_]>::first) else {
                    continue;
                };
                let behind = rules.get(range.end).unwrap_or(last);
                let moved = |at: usize| at.wrapping_add_signed(shift);
                let anchor = moved(behind.span.start);
                blanks.push(moved(first.span.start)..anchor);
                let keep = |rule: &AclRule| AclRule {
                    rule: Arc::clone(&rule.rule),
                    text: Arc::clone(&rule.text),
                    place: place(source, rule, moved(rule.span.start)),
                    span: moved(rule.span.start)..moved(rule.span.end),
                };
                runs.push(Run {
                    owner: owner.clone(),
                    anchor,
                    rules: rules[range].iter().map(keep).collect(),
                });
            }
        }
        if runs.iter().map(|run| run.rules.len()).sum::<usize>() < FEWEST_RULES {
            return None;
        }
        runs.sort_by_key(|run| run.anchor);
        blanks.sort_by_key(|blank| blank.start);
        Some(Self {
            blanked: blanked(text, &blanks)?,
            runs,
            met: Cell::new(0),
        })
    }

    /// The rules that stand before the item at `start` of a list.
    pub(super) fn before(&self, owner: &str, start: usize) -> &[AclRule] {
        let run = self.runs.binary_search_by_key(&start, |run| run.anchor);
        let run = run.ok().map(|found| &self.runs[found]);
        run.filter(|run| run.owner == owner).map_or(&[], |run| {
            self.met.set(self.met.get() + 1);
            &run.rules
        })
    }

    /// Whether each was asked for, once.
    pub(super) fn all_met(&self) -> bool {
        self.met.get() == self.runs.len()
    }
}

/// How problems name an ACL.
pub(super) fn acl_owner(name: &str) -> String {
    format!("ACL \"{name}\"")
}

/// How problems name a group.
pub(super) fn group_owner(name: &str) -> String {
    format!("group \"{name}\"")
}

/// Where a rule stands now.
fn place(source: &Source<'_>, rule: &AclRule, start: usize) -> Arc<str> {
    let place = source.place(start);
    if *place == *rule.place {
        Arc::clone(&rule.place)
    } else {
        place.into()
    }
}

/// What two texts have in common at their ends.
#[derive(Debug)]
struct Common {
    /// So many bytes from the beginning on.
    ahead: usize,
    /// From this byte of the former text on.
    behind: usize,
    /// From a byte of that part to the same byte of the new text.
    shift: isize,
}

impl Common {
    fn of(before: &str, text: &str) -> Self {
        // Compared by chunks as far as it goes.
        const CHUNK: usize = 256;
        let (before, text) = (before.as_bytes(), text.as_bytes());
        let chunks = before.chunks(CHUNK).zip(text.chunks(CHUNK));
        let whole = chunks.take_while(|(old, new)| old == new).count();
        let ahead = (whole * CHUNK).min(before.len()).min(text.len());
        let (rest, new_rest) = (&before[ahead..], &text[ahead..]);
        let ahead = ahead + alike(rest.iter().zip(new_rest));
        let (rest, new_rest) = (&before[ahead..], &text[ahead..]);
        let chunks = rest.rchunks(CHUNK).zip(new_rest.rchunks(CHUNK));
        let whole = chunks.take_while(|(old, new)| old == new).count();
        let behind = (whole * CHUNK).min(rest.len()).min(new_rest.len());
        let (rest, new_rest) = (
            &rest[..rest.len() - behind],
            &new_rest[..new_rest.len() - behind],
        );
        let behind = behind + alike(rest.iter().rev().zip(new_rest.iter().rev()));
        Self {
            ahead,
            behind: before.len() - behind,
            shift: text.len().wrapping_sub(before.len()).cast_signed(),
        }
    }
}

fn alike<'t>(pairs: impl Iterator<Item = (&'t u8, &'t u8)>) -> usize {
    pairs.take_while(|(old, new)| old == new).count()
}

/// `text` with spaces in place of what is to be blank.
fn blanked(text: &str, blanks: &[Range<usize>]) -> Option<String> {
    let mut blanked = String::with_capacity(text.len());
    for blank in blanks {
        blanked += text.get(blanked.len()..blank.start)?;
        blanked.extend(std::iter::repeat_n(' ', blank.len()));
    }
    blanked += text.get(blanked.len()..)?;
    Some(blanked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Machine};

    fn machine() -> Machine {
        Machine {
            cores: vec![0],
            memory_bytes: 0,
        }
    }

    fn text(rules: &[String]) -> String {
        let rules = rules.concat();
        format!(
            "# first\n[[acl]]\nname = \"many\"\nrules = [\n{rules}]\n\n[[network]]\nname = \"blue\"\ntenant = \"acme\"\n"
        )
    }

    fn rules() -> Vec<String> {
        let rule = |n: u32| match n % 2 {
            0 => format!("  {{ action = \"deny\", dst = \"10.0.0.{n}\" }}, # }} of {n}\n"),
            _ => format!("  \"deny out udp to any port {n}\",\n"),
        };
        (1..=200).map(rule).collect()
    }

    /// How many rules of `after` were not read again, after `before`.
    fn kept(before: &str, after: &str) -> usize {
        let former = config::parse("f.toml", before, &machine()).expect("sound");
        let mut reader = config::section::Reader::new("f.toml", after);
        let Some(kept) = Kept::find(&reader.source, after, before, &former) else {
            return 0;
        };
        reader.kept = Some(&kept);
        let read = config::read(reader, &kept.blanked, &machine()).expect("sound");
        let whole = config::parse("f.toml", after, &machine()).expect("sound");
        assert!(kept.all_met());
        assert!(format!("{read:?}") == format!("{whole:?}"));
        kept.runs.iter().map(|run| run.rules.len()).sum()
    }

    #[test]
    fn nearly_all_rules_are_kept_when_one_comes_goes_or_changes() {
        let before = text(&rules());
        for place in [0, 1, 77, 198, 199] {
            let mut with = rules();
            with.insert(place, "  \"allow in tcp\",\n\n".into());
            let mut without = rules();
            without.remove(place);
            let mut other = rules();
            other[place] = "  \"allow in tcp\",\n".into();
            for after in [with, without, other] {
                let kept = kept(&before, &text(&after));
                assert!((195..200).contains(&kept), "{kept} at {place}");
            }
        }
        assert_eq!(kept(&before, &before), 199);
        assert_eq!(kept(&before, &format!("# more\n{before}")), 199);
    }

    #[test]
    fn what_changes_what_follows_means_is_read_whole() {
        let before = text(&rules());
        let former = config::parse("f.toml", &before, &machine()).expect("sound");
        for (from, to) in [
            ("name = \"many\"", "name = \"more\""),
            ("rules = [", "rule = ["),
            ("# first", "[switch]\nsocket = \"\"\"/"),
            ("# first", "x = '''"),
            ("port 31\",", "port 31,"),
            ("port 31\",", "port 31\"],\nother = ["),
            ("port 31\",", "port 31\"]\n[[acl]]\nname = \"b\"\nrules = ["),
            (
                "port 31\",",
                "port 31\"]\n[[group]]\nname = \"b\"\nrules = [",
            ),
        ] {
            let after = before.replace(from, to);
            assert_ne!(after, before);
            let read = config::parse_after((&before, &former), "f.toml", &after, &machine());
            let whole = config::parse("f.toml", &after, &machine());
            assert_eq!(format!("{read:?}"), format!("{whole:?}"), "{to}");
        }
    }
}
