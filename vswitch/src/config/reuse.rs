//! Rules that a text has in common with the one that was read before it.
//!
//! In: a configuration with its text, and the text that comes after it. Out: that text without runs of
//! rules that both have, and those rules, so that they are not read again: one rule changed among ten
//! thousand is what most changes are.
//!
//! What must hold: what is read so is what reading the whole text gives. A run is what two texts
//! that are alike before it, or behind it, have between the beginnings of two items of a list. Without
//! it, the item behind it stands as one of the same list in the new text only if the run would begin as
//! one; then its bytes mean what they meant. So a run counts only when that item was met, and when one
//! was not, or there is any problem, the text is read whole.

use std::{cell::Cell, ops::Range};

use super::{
    problem::Source,
    types::{AclRules, Config, Head},
};

/// Fewer rules are not worth it.
const FEWEST_RULES: usize = 64;

/// Rules that need not be read again, of one list.
#[derive(Debug)]
pub(super) struct Run {
    /// The list's kind and name, as problems name it.
    owner: String,
    /// What is left out for them.
    cut: Range<usize>,
    /// Where the item behind them begins in what is left.
    anchor: usize,
    /// The number of the list, groups behind ACLs, and which of its rules they are.
    list: usize,
    rules: Range<usize>,
    /// How much further on they stand in the new text than in the former.
    bytes: isize,
    lines: isize,
}

impl Run {
    /// Puts the rules at the end of a list.
    pub(super) fn share_with(&self, rules: &mut AclRules, former: &AclRules) {
        rules.share(former, self.rules.clone(), self.bytes, self.lines);
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Kept<'c> {
    /// The new text without them.
    pub(super) text: String,
    /// The former lists, groups behind ACLs.
    lists: Vec<&'c AclRules>,
    /// In the order of the text.
    runs: Vec<Run>,
    met: Cell<usize>,
}

impl<'c> Kept<'c> {
    /// What `text` has in common with `before`, which `config` was read from; `None` if that is
    /// little.
    pub(super) fn find(
        source: &Source<'_>,
        text: &str,
        before: &str,
        config: &'c Config,
    ) -> Option<Self> {
        let common = Common::of(before, text);
        let acls = config.acls.iter();
        let acls = acls.map(|acl| (acl_owner(&acl.name), &acl.rules));
        let groups = config.groups.iter();
        let groups = groups.map(|group| (group_owner(&group.name), &group.rules));
        let (mut lists, mut runs) = (Vec::new(), Vec::new());
        for (list, (owner, rules)) in acls.chain(groups).enumerate() {
            lists.push(rules);
            let heads = rules.heads();
            // A header of its own may have other sections behind it.
            if !rules.inline() || heads.is_empty() {
                continue;
            }
            for (range, bytes) in common.runs(heads) {
                if range.is_empty() {
                    continue;
                }
                let (Some(first), Some(behind)) = (heads.get(range.start), heads.get(range.end))
                else {
                    continue;
                };
                let moved = |head: &Head| head.span().start.wrapping_add_signed(bytes);
                let (line, _) = source.position(moved(first));
                runs.push(Run {
                    owner: owner.clone(),
                    cut: moved(first)..moved(behind),
                    anchor: 0,
                    list,
                    rules: range,
                    bytes,
                    lines: line.wrapping_sub(first.line as usize).cast_signed(),
                });
            }
        }
        if runs.iter().map(|run| run.rules.len()).sum::<usize>() < FEWEST_RULES {
            return None;
        }
        runs.sort_by_key(|run| run.cut.start);
        let (mut left, mut from) = (String::new(), 0);
        for run in &mut runs {
            left += text.get(from..run.cut.start)?;
            run.anchor = left.len();
            from = run.cut.end;
        }
        left += text.get(from..)?;
        Some(Self {
            text: left,
            lists,
            runs,
            met: Cell::new(0),
        })
    }

    /// Gives what stands before the item at `start` of a list: a former list, and which of its
    /// rules.
    pub(super) fn before(&self, owner: &str, start: usize, mut take: impl FnMut(&AclRules, &Run)) {
        let first = self.runs.partition_point(|run| run.anchor < start);
        let here = self.runs[first..].iter();
        for run in here.take_while(|run| run.anchor == start) {
            if run.owner == owner {
                self.met.set(self.met.get() + 1);
                take(self.lists[run.list], run);
            }
        }
    }

    /// Whether each was asked for, once.
    pub(super) fn all_met(&self) -> bool {
        self.met.get() == self.runs.len()
    }

    /// Where the new text has what `text` has at `at`.
    pub(super) fn whole(&self, at: usize) -> usize {
        let before = self.runs.partition_point(|run| run.anchor <= at);
        match self.runs[..before].last() {
            Some(run) => run.cut.end + at - run.anchor,
            None => at,
        }
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
    /// Which rules of a list that was read from the former text the new one has too, each run with
    /// how far it has moved. Behind each is a rule that does not belong to it.
    fn runs(&self, heads: &[Head]) -> [(Range<usize>, isize); 2] {
        let start = |head: &Head| head.span().start;
        // Not one that begins where the texts part: there may be no item there now.
        let ahead = heads.partition_point(|head| start(head) < self.ahead);
        let ahead = 0..ahead.saturating_sub(1);
        let behind = heads.partition_point(|head| start(head) < self.behind);
        let moved = |at: usize| at.wrapping_add_signed(self.shift);
        // The item behind the first run is not part of the second.
        let is_anchor =
            |head: &Head| !ahead.is_empty() && moved(start(head)) == start(&heads[ahead.end]);
        let behind = behind + usize::from(heads.get(behind).is_some_and(is_anchor));
        let behind = behind.max(ahead.end)..heads.len() - 1;
        [(ahead, 0), (behind, self.shift)]
    }

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
        let read = config::read(reader, &kept.text, &machine()).expect("sound");
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
    fn comments_that_come_with_a_rule_cost_nothing() {
        let before = text(&rules());
        for place in [0, 1, 77, 199] {
            let mut with = rules();
            with.insert(place, "  # why\n\n  \"allow in tcp\",\n".into());
            let kept = kept(&before, &text(&with));
            assert!((195..200).contains(&kept), "{kept} at {place}");
        }
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
