//! Reading a TOML table field by field, keeping where everything stood.
//!
//! In: a parsed table. Out: typed values with their spans; every problem goes into the reader's
//! list and reading goes on, so that a person sees all of them at once.

use std::{cell::RefCell, ops::Range, str::FromStr};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    problem::{Problem, Source, nearest},
    reuse::Kept,
    schema::Schema,
};

/// A value and the bytes of the text it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// The text being read and what was found wrong with it so far.
#[derive(Debug)]
pub(crate) struct Reader<'t> {
    pub(crate) source: Source<'t>,
    /// Rules that are not read again.
    pub(super) kept: Option<&'t Kept<'t>>,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(file: &'t str, text: &'t str) -> Self {
        Self {
            source: Source::new(file, text),
            kept: None,
            problems: RefCell::default(),
        }
    }

    /// The bytes of the whole text that were read at `span`.
    pub(crate) fn whole(&self, span: &Range<usize>) -> Range<usize> {
        let whole = |at| self.kept.map_or(at, |kept| kept.whole(at));
        whole(span.start)..whole(span.end)
    }

    /// Notes a problem.
    pub(crate) fn report(
        &self,
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let problem = self.source.problem(span.clone(), message, help);
        self.problems.borrow_mut().push(problem);
    }

    /// How many problems were noted.
    pub(crate) fn count(&self) -> usize {
        self.problems.borrow().len()
    }

    /// Everything noted, in the order of the text.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        // A field that is read twice, alone and among others, is told once.
        problems.sort_by(|a, b| {
            let place = |p: &Problem| (p.line, p.column);
            place(a).cmp(&place(b)).then(a.message.cmp(&b.message))
        });
        problems.dedup();
        problems
    }

    /// Parses a text with [`FromStr`], noting what it says when it fails.
    pub(crate) fn parse<T: FromStr<Err: std::fmt::Display>>(&self, text: &At<String>) -> Option<T> {
        match text.value.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.report(&text.span, error.to_string(), "");
                None
            }
        }
    }

    /// One of `choices` by name.
    pub(crate) fn choice<T: Copy>(&self, text: &At<String>, choices: &[(&str, T)]) -> Option<T> {
        let found = choices.iter().find(|(name, _)| *name == text.value);
        if found.is_none() {
            let help = nearest(&text.value, choices.iter().map(|(name, _)| *name));
            self.report(
                &text.span,
                format!("\"{}\" is not a valid value here", text.value),
                help,
            );
        }
        found.map(|(_, value)| *value)
    }
}

/// A table that is being read.
#[derive(Clone, Debug)]
pub(crate) struct Section<'d> {
    pub(crate) reader: &'d Reader<'d>,
    table: &'d DeTable<'d>,
    /// Where it begins: its header, or the inline table.
    pub(crate) span: Range<usize>,
    name: &'static str,
}

impl<'d> Section<'d> {
    /// Takes a table, and notes its fields that the schema does not have.
    pub(crate) fn open(
        reader: &'d Reader<'d>,
        table: &'d DeTable<'d>,
        span: Range<usize>,
        schema: &Schema,
    ) -> Self {
        for key in table.keys() {
            let field = key.get_ref().as_ref();
            if !schema.fields.contains(&field) {
                reader.report(
                    &key.span(),
                    format!("unknown field \"{field}\" in {}", schema.name),
                    nearest(field, schema.fields.iter().copied()),
                );
            }
        }
        Self {
            reader,
            table,
            span,
            name: schema.name,
        }
    }

    /// The value of a field.
    pub(crate) fn get(&self, field: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.table.get(field)
    }

    /// Where a field's name stands, if it is there.
    pub(crate) fn key_span(&self, field: &str) -> Option<Range<usize>> {
        let (key, _) = self.table.get_key_value(field)?;
        Some(key.span())
    }

    /// Where a field's value stands, or the section when it has none.
    pub(crate) fn value_span(&self, field: &str) -> Range<usize> {
        self.get(field).map_or(self.span.clone(), Spanned::span)
    }

    /// Notes that a value is of another type than is wanted.
    pub(crate) fn wrong_type(&self, field: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        self.reader.report(
            &value.span(),
            format!(
                "{field} of {} must be {wanted}, not {}",
                self.name,
                with_article(value.get_ref().type_str())
            ),
            "",
        );
    }

    /// A text.
    pub(crate) fn string(&self, field: &str) -> Option<At<String>> {
        let value = self.get(field)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(field, value, "a text in quotes");
        }
        text.map(|text| At {
            value: text.to_owned(),
            span: value.span(),
        })
    }

    /// A text that must be there.
    pub(crate) fn required(&self, field: &str) -> Option<At<String>> {
        if self.get(field).is_none() {
            self.missing(field);
        }
        self.string(field)
    }

    /// Notes that a field is missing.
    pub(crate) fn missing(&self, field: &str) {
        self.reader.report(
            &self.span,
            format!("{} has no {field}", self.name),
            format!("add {field} = ..."),
        );
    }

    /// A name that must be there: letters, digits, `-`, `_`, `.`, at most 64 bytes.
    pub(crate) fn name(&self) -> Option<At<String>> {
        let name = self.required("name")?;
        let valid = !name.value.is_empty()
            && name.value.len() <= 64
            && name
                .value
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
        if !valid {
            self.reader.report(
                &name.span,
                format!("\"{}\" cannot be a name", name.value),
                "use 1 to 64 letters, digits, - _ or .",
            );
        }
        valid.then_some(name)
    }

    /// True or false.
    pub(crate) fn bool(&self, field: &str) -> Option<bool> {
        let value = self.get(field)?;
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.wrong_type(field, value, "true or false");
        }
        found
    }

    /// A whole number within a range.
    pub(crate) fn integer<T>(&self, field: &str, range: std::ops::RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + std::fmt::Display + Copy,
    {
        self.integer_of(field, self.get(field)?, &range)
    }

    fn integer_of<T>(
        &self,
        field: &str,
        value: &Spanned<DeValue<'_>>,
        range: &std::ops::RangeInclusive<T>,
    ) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + std::fmt::Display + Copy,
    {
        let Some(number) = value.get_ref().as_integer() else {
            self.wrong_type(field, value, "a whole number");
            return None;
        };
        let found = i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|n| T::try_from(n).ok())
            .filter(|n| range.contains(n));
        if found.is_none() {
            self.reader.report(
                &value.span(),
                format!("{field} is out of range"),
                format!("use a number from {} to {}", range.start(), range.end()),
            );
        }
        found
    }

    /// A share from 0 to 1.
    pub(crate) fn share(&self, field: &str) -> Option<f64> {
        let value = self.get(field)?;
        let number = match value.get_ref() {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) => integer.as_str().parse().ok(),
            _ => None,
        };
        let found = number.filter(|n| (0.0..=1.0).contains(n));
        if found.is_none() {
            self.reader.report(
                &value.span(),
                format!("{field} must be a share from 0.0 to 1.0"),
                "",
            );
        }
        found
    }

    /// A list of whole numbers within a range; empty when absent.
    pub(crate) fn integers<T>(&self, field: &str, range: &std::ops::RangeInclusive<T>) -> Vec<At<T>>
    where
        T: TryFrom<i64> + PartialOrd + std::fmt::Display + Copy,
    {
        self.items(field)
            .iter()
            .filter_map(|item| {
                Some(At {
                    value: self.integer_of(field, item, range)?,
                    span: item.span(),
                })
            })
            .collect()
    }

    /// A list of texts; empty when absent.
    pub(crate) fn strings(&self, field: &str) -> Vec<At<String>> {
        self.items(field)
            .iter()
            .filter_map(|item| {
                let text = item.get_ref().as_str();
                if text.is_none() {
                    self.wrong_type(field, item, "a list of texts in quotes");
                }
                Some(At {
                    value: text?.to_owned(),
                    span: item.span(),
                })
            })
            .collect()
    }

    /// A list whose items are texts or whole numbers, as texts; empty when absent.
    pub(crate) fn words(&self, field: &str) -> Vec<At<String>> {
        self.items(field)
            .iter()
            .filter_map(|item| self.word_of(field, item))
            .collect()
    }

    /// A text or whole number, as a text.
    pub(crate) fn word(&self, field: &str) -> Option<At<String>> {
        self.word_of(field, self.get(field)?)
    }

    fn word_of(&self, field: &str, item: &Spanned<DeValue<'_>>) -> Option<At<String>> {
        let value = match item.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.as_str().to_owned(), |n| n.to_string()),
            _ => {
                self.wrong_type(field, item, "a text in quotes or a whole number");
                return None;
            }
        };
        Some(At {
            value,
            span: item.span(),
        })
    }

    /// The items of a list; none when absent.
    pub(crate) fn items(&self, field: &str) -> Vec<&'d Spanned<DeValue<'d>>> {
        let Some(value) = self.get(field) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(field, value, "a list in [ ]");
            return Vec::new();
        };
        array.iter().collect()
    }

    /// A table.
    pub(crate) fn section(&self, field: &str, schema: &Schema) -> Option<Section<'d>> {
        let value = self.get(field)?;
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(field, value, "a table");
            return None;
        };
        Some(Section::open(self.reader, table, value.span(), schema))
    }

    /// A list of tables; empty when absent.
    pub(crate) fn sections(&self, field: &str, schema: &Schema) -> Vec<Section<'d>> {
        let Some(value) = self.get(field) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(
                field,
                value,
                &format!("a list of tables: write [[{field}]]"),
            );
            return Vec::new();
        };
        array
            .iter()
            .filter_map(|item| {
                let table = item.get_ref().as_table();
                if table.is_none() {
                    self.wrong_type(field, item, "a table");
                }
                Some(Section::open(self.reader, table?, item.span(), schema))
            })
            .collect()
    }
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {kind}")
}
