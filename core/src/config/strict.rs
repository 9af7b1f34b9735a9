//! Files that people write: TOML read with strict keys, and errors that say where, what and how to mend it. The same
//! for every file of the project; what the keys mean is beside the type that is read ([`super::file`] for
//! `cluster.toml`). Values can be overridden by variables and flags before anything is read, and an error in such a
//! value names its source instead of a line.
//!
//! A type to be read is an ordinary `serde::Deserialize` struct. Every key that its structs do not have is an error,
//! whatever their attributes say; so `flatten`, which hides a struct's keys, must not be used.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{self, DeserializeOwned, DeserializeSeed, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::de::{DeString, DeTable, DeValue};

use crate::limits;

/// The largest file that is read: far more than any configuration, and little memory.
pub const FILE_BYTES_MAX: usize = limits::MIB;

/// Where an error is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file as a whole: what is missing has no line.
    File {
        /// Its name, as the user gave it.
        file: String,
    },
    /// At a place of a file.
    Position {
        /// Its name, as the user gave it.
        file: String,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// In a value that was given outside the file.
    Override {
        /// By what: `BFTD_LOG__LEVEL`, `--listen`.
        source: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file } => write!(f, "{file}"),
            Self::Position { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Override { source } => write!(f, "{source}"),
        }
    }
}

/// Why a file is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}{}{}", if hint.is_some() { "; " } else { "" }, hint.as_deref().unwrap_or(""))]
pub struct FileError {
    /// Where.
    pub place: Place,
    /// What is wrong. Begins with the key, dotted, where there is one.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl FileError {
    /// The same with advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A file that was parsed, with what overrides it.
#[derive(Clone, Debug)]
pub struct Document {
    file: String,
    text: String,
    root: Node,
}

#[derive(Clone, Debug)]
struct Node {
    origin: Origin,
    value: Value,
}

/// Where a key or value comes from.
#[derive(Clone, Debug)]
enum Origin {
    /// The file as a whole.
    File,
    /// These bytes of it.
    Span(Range<usize>),
    /// What [`Document::set`] was told.
    Override(Arc<str>),
}

#[derive(Clone, Debug)]
enum Value {
    Text(String),
    Integer(i128),
    Float(f64),
    Boolean(bool),
    Date(String),
    List(Vec<Node>),
    Section(Vec<Field>),
    /// The text of an override: read as whatever is asked for.
    Raw(String),
}

/// A key and what it is set to.
#[derive(Clone, Debug)]
struct Field {
    key: String,
    origin: Origin,
    node: Node,
}

/// Reads a file without overrides.
pub fn parse<T: DeserializeOwned>(text: &str, file: &str) -> Result<T, FileError> {
    Document::parse(text, file)?.read()
}

impl Document {
    /// Checks that `text` is TOML. `file` is the name that errors give.
    pub fn parse(text: &str, file: &str) -> Result<Self, FileError> {
        let empty = Node { origin: Origin::File, value: Value::Section(Vec::new()) };
        let mut document = Self { file: file.into(), text: text.into(), root: empty };
        if text.len() > FILE_BYTES_MAX {
            let what = format!("the file has {} bytes; at most {FILE_BYTES_MAX} are read", text.len());
            return Err(document.error("", what));
        }
        let table = DeTable::parse(text).map_err(|error| {
            let origin = error.span().map_or(Origin::File, Origin::Span);
            FileError { place: document.place(&origin), what: error.message().into(), hint: None }
        })?;
        let root = section(table.get_ref(), &Origin::Span).map_err(|fault| document.locate(fault))?;
        document.root.value = root;
        Ok(document)
    }

    /// Sets a dotted key to a value that came as text from `source`: a variable or a flag. The text is taken for
    /// whatever the key wants: a number, `true`, a TOML list, or text, without quotes.
    pub fn set(&mut self, key: &str, value: &str, source: &str) -> Result<(), FileError> {
        let origin = Origin::Override(source.into());
        let fault = |what: String| FileError { place: Place::Override { source: source.into() }, what, hint: None };
        if key.split('.').any(str::is_empty) {
            return Err(fault(format!("`{key}` is no key")));
        }
        let (sections, last) = key.rsplit_once('.').unwrap_or(("", key));
        let mut node = &mut self.root;
        for name in sections.split('.').filter(|name| !name.is_empty()) {
            let Value::Section(fields) = &mut node.value else { return Err(fault(in_no_section(key, sections))) };
            node = entry(fields, name, &origin, || Value::Section(Vec::new()));
        }
        let Value::Section(fields) = &mut node.value else { return Err(fault(in_no_section(key, sections))) };
        let node = Node { origin: origin.clone(), value: Value::Raw(value.into()) };
        *entry(fields, last, &origin, || Value::Section(Vec::new())) = node;
        Ok(())
    }

    /// Takes overrides from environment variables: with the prefix `BFTD_`, `BFTD_SECTION__KEY=value` sets
    /// `section.key`. Names without the prefix are none of its business.
    pub fn set_from_variables<N: AsRef<str>, V: AsRef<str>>(
        &mut self,
        prefix: &str,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Result<(), FileError> {
        let mut variables: Vec<_> = variables.into_iter().collect();
        // The order of an environment is nobody's promise; the first error should be.
        variables.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
        for (name, value) in &variables {
            if let Some(key) = name.as_ref().strip_prefix(prefix) {
                self.set(&key.to_ascii_lowercase().replace("__", "."), value.as_ref(), name.as_ref())?;
            }
        }
        Ok(())
    }

    /// Reads the file as a `T`.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, FileError> {
        T::deserialize(&self.root).map_err(|fault| self.locate(fault))
    }

    /// Reads one top-level key as a `T`, whatever the others are; `None` if it is not there.
    pub fn read_key<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, FileError> {
        let Value::Section(fields) = &self.root.value else { return Ok(None) };
        let field = fields.iter().find(|field| field.key == key);
        field.map(|field| field.read().map_err(|fault| self.locate(fault))).transpose()
    }

    /// Refuses a file of another version. To be asked before the file is read: another version may have other keys.
    pub fn require_version(&self, version: u64) -> Result<(), FileError> {
        let hint = format!("this program reads version {version}");
        match self.read_key::<u64>("version")? {
            Some(found) if found == version => Ok(()),
            Some(other) => Err(self.error("version", format!("version: the file has version {other}")).with_hint(hint)),
            None => Err(self.error("", "version: missing").with_hint(hint)),
        }
    }

    /// An error about the value of `key`, such as `protocol.window` or `replica[1].address`; about its section if the
    /// file leaves it out, or about the file if it leaves that out too.
    #[must_use]
    pub fn error(&self, key: &str, what: impl Into<String>) -> FileError {
        FileError { place: self.place(self.find(key)), what: what.into(), hint: None }
    }

    fn find(&self, key: &str) -> &Origin {
        let mut node = &self.root;
        for name in key.split(['.', '[']) {
            let next = match (&node.value, name.strip_suffix(']')) {
                (Value::List(list), Some(index)) => index.parse().ok().and_then(|index: usize| list.get(index)),
                (Value::Section(fields), None) => {
                    fields.iter().find(|field| field.key == name).map(|field| &field.node)
                }
                _ => None,
            };
            let Some(next) = next else { break };
            node = next;
        }
        &node.origin
    }

    fn place(&self, origin: &Origin) -> Place {
        match origin {
            Origin::File => Place::File { file: self.file.clone() },
            Origin::Override(source) => Place::Override { source: source.to_string() },
            Origin::Span(span) => {
                let (line, column) = position(&self.text, span.start);
                Place::Position { file: self.file.clone(), line, column }
            }
        }
    }

    fn locate(&self, fault: Fault) -> FileError {
        let Fault { origin, path, what, hint } = fault;
        let what = if path.is_empty() { what } else { format!("{path}: {what}") };
        FileError { place: self.place(&origin.unwrap_or(Origin::File)), what, hint }
    }
}

fn in_no_section(key: &str, sections: &str) -> String {
    format!("{key}: `{sections}` is no section")
}

fn entry<'a>(fields: &'a mut Vec<Field>, key: &str, origin: &Origin, value: impl FnOnce() -> Value) -> &'a mut Node {
    let index = fields.iter().position(|field| field.key == key).unwrap_or_else(|| {
        let node = Node { origin: origin.clone(), value: value() };
        fields.push(Field { key: key.into(), origin: origin.clone(), node });
        fields.len() - 1
    });
    &mut fields[index].node
}

/// Line and column, from 1, of the byte at `offset`.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

type OriginOf<'a> = &'a dyn Fn(Range<usize>) -> Origin;

fn section(table: &DeTable<'_>, origin: OriginOf<'_>) -> Result<Value, Fault> {
    let mut keys: Vec<_> = table.iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    let field = |key: &toml::Spanned<DeString<'_>>, value: &toml::Spanned<DeValue<'_>>| {
        let key_text: &str = key.get_ref();
        let node = node(value, origin).map_err(|fault| fault.inside(key_text))?;
        Ok(Field { key: key_text.into(), origin: origin(key.span()), node })
    };
    keys.into_iter().map(|(key, value)| field(key, value)).collect::<Result<_, _>>().map(Value::Section)
}

fn node(value: &toml::Spanned<DeValue<'_>>, origin: OriginOf<'_>) -> Result<Node, Fault> {
    let place = origin(value.span());
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i128::from_str_radix(number.as_str(), number.radix());
            Value::Integer(parsed.map_err(|_| Fault::at(&place, "the number is too large"))?)
        }
        DeValue::Float(number) => {
            Value::Float(number.as_str().parse().map_err(|_| Fault::at(&place, "the number cannot be read"))?)
        }
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(list) => {
            let items = list.iter().enumerate();
            let nodes = items.map(|(index, item)| node(item, origin).map_err(|fault| fault.inside_index(index)));
            Value::List(nodes.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => section(table, origin)?,
    };
    Ok(Node { origin: place, value })
}

/// An error on its way up: each level adds its key, the first that knows where it is says so.
#[derive(Debug)]
struct Fault {
    origin: Option<Origin>,
    path: String,
    what: String,
    hint: Option<String>,
}

impl Fault {
    fn new(what: impl Into<String>) -> Self {
        Self { origin: None, path: String::new(), what: what.into(), hint: None }
    }

    fn at(origin: &Origin, what: &str) -> Self {
        Self { origin: Some(origin.clone()), ..Self::new(what) }
    }

    fn or_at(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }

    fn inside(self, key: &str) -> Self {
        let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let key = if key.chars().all(is_bare) { key.to_owned() } else { shown(key) };
        self.under(&key)
    }

    fn inside_index(self, index: usize) -> Self {
        self.under(&format!("[{index}]"))
    }

    fn under(mut self, step: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{step}{dot}{}", self.path);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self::new(what.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}, found {}", plain_expected(expected), plain_found(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(found: &str, expected: &'static [&'static str]) -> Self {
        Self { hint: Some(likely(found, expected, "possible")), ..Self::new(format!("unknown value {}", shown(found))) }
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new("missing").inside(key)
    }
}

/// Text from outside in quotes, on one line, and not too much of it.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let mut shown = format!("{:?}", text.chars().take(CHARS_MAX).collect::<String>());
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// What people call the things that serde expects.
fn plain_expected(expected: &dyn Expected) -> String {
    let name = expected.to_string();
    let plain = match name.as_str() {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "i64" | "i32" => "a whole number",
        "a string" => "text in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        other => other,
    };
    plain.into()
}

fn plain_found(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(number) => number.to_string(),
        Unexpected::Signed(number) => number.to_string(),
        Unexpected::Float(number) => number.to_string(),
        Unexpected::Str(text) => shown(text),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "a section".into(),
        other => other.to_string(),
    }
}

/// "did you mean …?" if one of `known` is near, otherwise all of them.
fn likely(found: &str, known: &[&str], adjective: &str) -> String {
    let distance = |name: &str| strsim::damerau_levenshtein(&found.to_ascii_lowercase(), name);
    // A name far too long is like none, and the comparison takes the product of the lengths.
    let near = known.iter().filter(|_| found.len() <= 64).min_by_key(|name| distance(name));
    match near.filter(|name| distance(name) <= name.len().div_ceil(3)) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("{adjective} are {}", known.join(", ")),
    }
}

impl Field {
    fn read<'de, T: Deserialize<'de>>(&self) -> Result<T, Fault> {
        T::deserialize(&self.node).map_err(|fault| fault.or_at(&self.node.origin).inside(&self.key))
    }
}

impl Node {
    fn found(&self) -> String {
        match &self.value {
            Value::Text(text) | Value::Raw(text) => plain_found(Unexpected::Str(text)),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => plain_found(Unexpected::Float(*number)),
            Value::Boolean(value) => value.to_string(),
            Value::Date(date) => format!("the date {date}"),
            Value::List(_) => "a list".into(),
            Value::Section(_) => "a section".into(),
        }
    }

    fn fault(&self, expected: &str) -> Fault {
        Fault::new(format!("expected {expected}, found {}", self.found())).or_at(&self.origin)
    }

    /// An override read as TOML; itself where it is none.
    fn cooked(&self) -> Option<Self> {
        let Value::Raw(text) = &self.value else { return None };
        let parsed = DeValue::parse(text).ok()?;
        node(&parsed, &|_| self.origin.clone()).ok()
    }

    fn visit<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Text(text) | Value::Raw(text) => visitor.visit_str(text),
            Value::Date(_) => Err(de::Error::invalid_type(Unexpected::Other(&self.found()), &visitor)),
            Value::Integer(number) => match (u64::try_from(*number), i64::try_from(*number)) {
                (Ok(number), _) => visitor.visit_u64(number),
                (Err(_), Ok(number)) => visitor.visit_i64(number),
                (Err(_), Err(_)) => Err(de::Error::invalid_type(Unexpected::Other(&number.to_string()), &visitor)),
            },
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::List(list) => visitor.visit_seq(Items { list, next: 0 }),
            Value::Section(fields) => visitor.visit_map(Fields { rest: fields.iter(), value: None }),
        }
        .map_err(|fault| fault.or_at(&self.origin))
    }
}

impl<'de> Deserializer<'de> for &Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.cooked() {
            Some(cooked) => cooked.visit(visitor),
            None => self.visit(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Section(fields) = &self.value else { return Err(self.fault("a section")) };
        if let Some(field) = fields.iter().find(|field| !known.contains(&field.key.as_str())) {
            let hint = Some(likely(&field.key, known, "the keys here"));
            return Err(Fault { hint, ..Fault::at(&field.origin, "unknown key").inside(&field.key) });
        }
        self.visit(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Text(text) | Value::Raw(text) => {
                visitor.visit_enum(text.as_str().into_deserializer()).map_err(|fault: Fault| fault.or_at(&self.origin))
            }
            Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Date(_)
            | Value::List(_)
            | Value::Section(_) => Err(self.fault("text in quotes")),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

struct Items<'a> {
    list: &'a [Node],
    next: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.list.get(self.next) else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        seed.deserialize(item).map(Some).map_err(|fault| fault.or_at(&item.origin).inside_index(index))
    }
}

struct Fields<'a> {
    rest: std::slice::Iter<'a, Field>,
    value: Option<&'a Field>,
}

impl<'de> de::MapAccess<'de> for Fields<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.value = self.rest.next();
        self.value.map(|field| seed.deserialize(field.key.as_str().into_deserializer())).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let field = self.value.take().expect("a value is asked for after its key");
        seed.deserialize(&field.node).map_err(|fault| fault.or_at(&field.node.origin).inside(&field.key))
    }
}

/// A number of bytes: `64MiB`, `1GiB`, or a bare number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

/// A time, in nanoseconds: `50ms`, `1.5s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HumanDuration(pub u64);

const SIZE_UNITS: &[(&str, u64)] = &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

const DURATION_UNITS: &[(&str, u64)] = &[
    ("d", 86_400 * limits::SECOND),
    ("h", 3_600 * limits::SECOND),
    ("min", 60 * limits::SECOND),
    ("s", limits::SECOND),
    ("ms", limits::MILLISECOND),
    ("us", 1_000),
    ("ns", 1),
];

/// The text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no size: write a number and one of B, KiB, MiB, GiB, TiB, as in 64MiB")]
pub struct NotASize(String);

/// The text is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no time: write a number and one of ns, us, ms, s, min, h, d, as in 50ms")]
pub struct NotADuration(String);

/// A number, perhaps with a decimal fraction, and one of the units; `None` for anything else, and for what is no whole
/// number in the smallest unit.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let unit = unit.trim_start();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(whole, fraction)| (whole, Some(fraction)));
    let whole: u64 = whole.parse().ok()?;
    let fraction = match fraction {
        None => 0,
        Some(digits) => {
            let scale = 10u128.checked_pow(u32::try_from(digits.len()).ok()?)?;
            let scaled = digits.parse::<u64>().ok().map(u128::from)? * u128::from(*factor);
            scaled.is_multiple_of(scale).then(|| u64::try_from(scaled / scale).ok()).flatten()?
        }
    };
    whole.checked_mul(*factor)?.checked_add(fraction)
}

fn write_quantity(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let fits = |factor: u64| value != 0 && value.is_multiple_of(factor);
    let smallest = units[units.len() - 1];
    let (unit, factor) = units.iter().find(|(_, factor)| fits(*factor)).copied().unwrap_or(smallest);
    write!(f, "{}{unit}", value / factor)
}

impl FromStr for ByteSize {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let bare = text.parse().ok();
        bare.or_else(|| quantity(text, SIZE_UNITS)).map(Self).ok_or_else(|| NotASize(shown(text)))
    }
}

impl FromStr for HumanDuration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        quantity(text, DURATION_UNITS).map(Self).ok_or_else(|| NotADuration(shown(text)))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_quantity(f, self.0, SIZE_UNITS)
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_quantity(f, self.0, DURATION_UNITS)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"64MiB\"")
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
        Ok(ByteSize(bytes))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor)
    }
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = HumanDuration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time such as \"50ms\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<HumanDuration, E> {
        text.parse().map_err(E::custom)
    }
}
