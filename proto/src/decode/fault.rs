//! What is wrong with a message, and where.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use mesh::address::canonical;
use mesh::identity::IdentityError;

use crate::names::NameError;

/// A message that cannot be a domain value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {field}: {problem}")]
pub struct DecodeError {
    /// Kind and name of the resource, as far as the message says it.
    pub resource: String,
    /// Path of the field, such as `addresses[1].length`.
    pub field: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not protobuf, or not of this message.
    #[error("cannot be read as protobuf: {0}")]
    Protobuf(String),
    /// A field that must be there is absent or empty.
    #[error("is absent or empty")]
    Missing,
    /// A text or message is longer than it may be.
    #[error("has {bytes} bytes, {bound} at most are allowed")]
    Long {
        /// Its length.
        bytes: usize,
        /// The bound.
        bound: usize,
    },
    /// A list or a number that is longer or larger than it may be.
    #[error("is more than {bound}")]
    Many {
        /// The bound.
        bound: usize,
    },
    /// A number outside of its range.
    #[error("{0} is outside of what is allowed")]
    Number(u32),
    /// Neither 4 nor 16 bytes.
    #[error("{0} bytes are no IP address")]
    AddressLength(usize),
    /// More bits than the address has.
    #[error("a prefix of {0} bits is longer than the address")]
    PrefixLength(u32),
    /// Outside of 1 to 65535.
    #[error("{0} is no port")]
    Port(u32),
    /// A number that the enumeration does not have.
    #[error("{0} is no value of this enumeration")]
    Enum(i32),
    /// Part of the wire format, and not supported.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// A text of the wrong form.
    #[error(transparent)]
    Form(#[from] NameError),
    /// Not an identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Problem {
    /// A text that is not of a form; of a long one, the beginning is kept.
    pub(super) fn form(text: &str, form: &'static str) -> Self {
        Self::Form(NameError {
            text: text.chars().take(128).collect(),
            form,
        })
    }
}

/// A problem and the path to it, not yet the resource.
#[derive(Debug)]
pub(super) struct Fault {
    field: String,
    problem: Problem,
}

impl Fault {
    pub(super) fn new(field: impl Display, problem: Problem) -> Self {
        Self {
            field: field.to_string(),
            problem,
        }
    }

    /// The error, when the resource is known.
    pub(super) fn of(self, resource: impl Into<String>) -> DecodeError {
        DecodeError {
            resource: resource.into(),
            field: self.field,
            problem: self.problem,
        }
    }
}

/// Says where a problem is.
pub(super) trait At<T> {
    fn at(self, field: impl Display) -> Result<T, Fault>;
}

impl<T> At<T> for Result<T, Problem> {
    fn at(self, field: impl Display) -> Result<T, Fault> {
        self.map_err(|problem| Fault::new(field, problem))
    }
}

impl<T> At<T> for Result<T, Fault> {
    fn at(self, field: impl Display) -> Result<T, Fault> {
        self.map_err(|fault| Fault::new(format!("{field}.{}", fault.field), fault.problem))
    }
}

/// Reads each item of a repeated field.
pub(super) fn each<W, T>(
    field: &str,
    items: impl IntoIterator<Item = W>,
    read: impl Fn(W) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let items = items.into_iter().enumerate();
    items
        .map(|(i, item)| read(item).map_err(|fault| fault.within(field, i)))
        .collect()
}

impl Fault {
    /// The same fault in item `i` of a repeated field.
    fn within(self, field: &str, i: usize) -> Self {
        let rest = if self.field.is_empty() {
            String::new()
        } else {
            format!(".{}", self.field)
        };
        Self {
            field: format!("{field}[{i}]{rest}"),
            problem: self.problem,
        }
    }
}

/// The item itself is wrong, not a field of it.
pub(super) fn whole<T>(result: Result<T, Problem>) -> Result<T, Fault> {
    result.at("")
}

/// A text that must not be empty.
pub(super) fn required(text: String) -> Result<Arc<str>, Problem> {
    if text.is_empty() {
        Err(Problem::Missing)
    } else {
        Ok(text.into())
    }
}

/// A text with a default for the empty one.
pub(super) fn or_default(text: String, default: &str) -> Arc<str> {
    if text.is_empty() {
        default.into()
    } else {
        text.into()
    }
}

/// 4 or 16 bytes as they are, IPv4-mapped or not.
pub(super) fn raw_ip(bytes: &[u8]) -> Result<IpAddr, Problem> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    let v6 = <[u8; 16]>::try_from(bytes).map_err(|_| Problem::AddressLength(bytes.len()))?;
    Ok(v6.into())
}

/// 4 or 16 bytes; IPv4-mapped becomes IPv4.
pub(super) fn ip(bytes: &[u8]) -> Result<IpAddr, Problem> {
    raw_ip(bytes).map(canonical)
}

/// 1 to 65535.
pub(super) fn port(number: u32) -> Result<u16, Problem> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Problem::Port(number)),
    }
}

/// 0 (not given) to 65535.
pub(super) fn port_or_zero(number: u32) -> Result<u16, Problem> {
    u16::try_from(number).map_err(|_| Problem::Port(number))
}

/// A number as a value of an enumeration.
pub(super) fn value<E: TryFrom<i32>>(number: i32) -> Result<E, Problem> {
    E::try_from(number).map_err(|_| Problem::Enum(number))
}
