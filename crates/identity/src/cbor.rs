//! Deterministic CBOR (RFC 8949 §4.2) with integer keys: the body of every signed document.
//!
//! [`Value::decode`] accepts exactly the bytes that [`Value::encode`] would write: shortest
//! integers, definite lengths, sorted keys without duplicates, nothing behind the end. So one
//! meaning has one form, and no two decoders can read one signed document differently.
//!
//! Keys from 0 upwards are critical: a document with one that this version does not know is
//! refused. Negative keys are extensions that older versions skip.

use std::collections::BTreeMap;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use crate::{Digest, IdentityPublic, NodeId, ParseNameError, UnixTime, WireGuardPublic};

/// What our documents are made of: no floats, no tags, no nulls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value<'b> {
    Uint(u64),
    /// -1 - n.
    Negative(u64),
    Bytes(&'b [u8]),
    Text(&'b str),
    Array(Vec<Value<'b>>),
    Map(BTreeMap<Key, Value<'b>>),
}

/// A key of a map, in the order of its encoding: 0, 1, 2, .. then -1, -2, ..
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    negative: bool,
    magnitude: u64,
}

/// The fields of one map, taken one by one; [`finish`](Self::finish) refuses what was left.
pub(crate) struct Fields<'b>(BTreeMap<Key, Value<'b>>);

/// A type that one value of a document parses into.
pub(crate) trait FromValue<'b>: Sized {
    fn from_value(value: Value<'b>) -> Result<Self, FormatError>;
}

impl<'b> Value<'b> {
    /// Reads one value and nothing behind it.
    pub(crate) fn decode(bytes: &'b [u8]) -> Result<Self, FormatError> {
        match bytes.len() > MAX_DOCUMENT {
            true => Err(FormatError::TooLong),
            false => Self::decode_own(bytes),
        }
    }

    /// The same for a file of our own, which may be longer than anything from afar.
    pub(crate) fn decode_own(bytes: &'b [u8]) -> Result<Self, FormatError> {
        let mut decoder = Decoder::new(bytes);
        let value = Self::read(&mut decoder, MAX_DEPTH)?;
        match value.encode() == bytes {
            true => Ok(value),
            false => Err(FormatError::NotCanonical),
        }
    }

    /// Writes the one form of this value.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new());
        self.write(&mut encoder);
        encoder.into_writer()
    }

    /// A map from its fields; those that are `None` are left out.
    pub(crate) fn map<const N: usize>(fields: [(u64, Option<Value<'b>>); N]) -> Self {
        let fields = fields.into_iter();
        Self::Map(
            fields
                .filter_map(|(key, value)| Some((Key::of(key), value?)))
                .collect(),
        )
    }

    fn read(decoder: &mut Decoder<'b>, depth: usize) -> Result<Self, FormatError> {
        let depth = depth.checked_sub(1).ok_or(FormatError::TooDeep)?;
        match decoder.datatype()? {
            Type::U8 | Type::U16 | Type::U32 | Type::U64 => Ok(Self::Uint(decoder.u64()?)),
            Type::I8 | Type::I16 | Type::I32 | Type::I64 => {
                let value = decoder.i64()?;
                Ok(Self::Negative(
                    u64::try_from(-1 - value).map_err(|_| FormatError::Malformed)?,
                ))
            }
            Type::Bytes => Ok(Self::Bytes(decoder.bytes()?)),
            Type::String => Ok(Self::Text(decoder.str()?)),
            Type::Array => {
                let count = decoder.array()?.ok_or(FormatError::NotCanonical)?;
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(Self::read(decoder, depth)?);
                }
                Ok(Self::Array(items))
            }
            Type::Map => {
                let count = decoder.map()?.ok_or(FormatError::NotCanonical)?;
                let mut fields = BTreeMap::new();
                for _ in 0..count {
                    let key = match Self::read(decoder, depth)? {
                        Self::Uint(magnitude) => Key {
                            negative: false,
                            magnitude,
                        },
                        Self::Negative(magnitude) => Key {
                            negative: true,
                            magnitude,
                        },
                        _ => return Err(FormatError::Malformed),
                    };
                    let value = Self::read(decoder, depth)?;
                    if fields.insert(key, value).is_some() {
                        return Err(FormatError::NotCanonical);
                    }
                }
                Ok(Self::Map(fields))
            }
            _ => Err(FormatError::Malformed),
        }
    }

    fn write(&self, encoder: &mut Encoder<Vec<u8>>) {
        let written = match self {
            Self::Uint(value) => encoder.u64(*value).map(|_| ()),
            Self::Negative(value) => {
                let value = i64::try_from(*value).map_or(i64::MIN, |value| -1 - value);
                encoder.i64(value).map(|_| ())
            }
            Self::Bytes(bytes) => encoder.bytes(bytes).map(|_| ()),
            Self::Text(text) => encoder.str(text).map(|_| ()),
            Self::Array(items) => {
                let written = encoder.array(items.len() as u64).map(|_| ());
                items.iter().for_each(|item| item.write(encoder));
                written
            }
            Self::Map(fields) => {
                let written = encoder.map(fields.len() as u64).map(|_| ());
                for (key, value) in fields {
                    match key.negative {
                        false => Value::Uint(key.magnitude).write(encoder),
                        true => Value::Negative(key.magnitude).write(encoder),
                    }
                    value.write(encoder);
                }
                written
            }
        };
        written.expect("writing to a vector cannot fail");
    }
}

impl Key {
    fn of(key: u64) -> Self {
        Self {
            negative: false,
            magnitude: key,
        }
    }
}

impl<'b> Fields<'b> {
    /// The fields of a document that is one map.
    pub(crate) fn decode(bytes: &'b [u8]) -> Result<Self, FormatError> {
        Self::from_value(Value::decode(bytes)?)
    }

    pub(crate) fn required<T: FromValue<'b>>(&mut self, key: u64) -> Result<T, FormatError> {
        self.optional(key)?.ok_or(FormatError::Missing { key })
    }

    pub(crate) fn optional<T: FromValue<'b>>(
        &mut self,
        key: u64,
    ) -> Result<Option<T>, FormatError> {
        self.0.remove(&Key::of(key)).map(T::from_value).transpose()
    }

    /// Refuses a critical field that nobody took.
    pub(crate) fn finish(self) -> Result<(), FormatError> {
        match self.0.keys().find(|key| !key.negative) {
            Some(key) => Err(FormatError::UnknownField { key: key.magnitude }),
            None => Ok(()),
        }
    }
}

impl<'b> FromValue<'b> for Value<'b> {
    fn from_value(value: Value<'b>) -> Result<Self, FormatError> {
        Ok(value)
    }
}

impl<'b> FromValue<'b> for Fields<'b> {
    fn from_value(value: Value<'b>) -> Result<Self, FormatError> {
        match value {
            Value::Map(fields) => Ok(Self(fields)),
            _ => Err(FormatError::Malformed),
        }
    }
}

impl<'b> FromValue<'b> for u64 {
    fn from_value(value: Value<'b>) -> Result<Self, FormatError> {
        match value {
            Value::Uint(value) => Ok(value),
            _ => Err(FormatError::Malformed),
        }
    }
}

impl<'b> FromValue<'b> for u32 {
    fn from_value(value: Value<'b>) -> Result<Self, FormatError> {
        u32::try_from(u64::from_value(value)?).map_err(|_| FormatError::Malformed)
    }
}

impl<'b> FromValue<'b> for UnixTime {
    fn from_value(value: Value<'b>) -> Result<Self, FormatError> {
        u64::from_value(value).map(UnixTime)
    }
}

impl<'b> FromValue<'b> for &'b [u8] {
    fn from_value(value: Value<'b>) -> Result<Self, FormatError> {
        match value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(FormatError::Malformed),
        }
    }
}

impl<'b> FromValue<'b> for &'b str {
    fn from_value(value: Value<'b>) -> Result<Self, FormatError> {
        match value {
            Value::Text(text) => Ok(text),
            _ => Err(FormatError::Malformed),
        }
    }
}

impl<'b, const N: usize> FromValue<'b> for [u8; N] {
    fn from_value(value: Value<'b>) -> Result<Self, FormatError> {
        <&[u8]>::from_value(value)?
            .try_into()
            .map_err(|_| FormatError::Malformed)
    }
}

impl<'b, T: FromValue<'b>> FromValue<'b> for Vec<T> {
    fn from_value(value: Value<'b>) -> Result<Self, FormatError> {
        match value {
            Value::Array(items) => items.into_iter().map(T::from_value).collect(),
            _ => Err(FormatError::Malformed),
        }
    }
}

macro_rules! from_bytes_value {
    ($($name:ident),*) => {$(
        impl<'b> FromValue<'b> for $name {
            fn from_value(value: Value<'b>) -> Result<Self, FormatError> {
                FromValue::from_value(value).map($name)
            }
        }
    )*};
}

from_bytes_value!(NodeId, Digest, IdentityPublic, WireGuardPublic);

impl From<minicbor::decode::Error> for FormatError {
    fn from(_: minicbor::decode::Error) -> Self {
        Self::Malformed
    }
}

/// The longest signed document: it must fit one frame of 1 MiB with room around it.
pub(crate) const MAX_DOCUMENT: usize = 960 << 10;

/// Enough for every document that we know, and too little for a stack to overflow.
const MAX_DEPTH: usize = 8;

/// Why bytes are not the document that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Not CBOR, or not the shape that was expected here.
    #[error("malformed document")]
    Malformed,
    /// CBOR, but not in its deterministic form, or with something behind its end.
    #[error("the document is not in deterministic form")]
    NotCanonical,
    /// Longer than any document may be.
    #[error("the document exceeds {MAX_DOCUMENT} bytes")]
    TooLong,
    /// Nested too deep.
    #[error("the document is nested too deep")]
    TooDeep,
    /// Another kind of document.
    #[error("a document of another kind")]
    OtherKind,
    /// Signed by an algorithm that this version does not know.
    #[error("the signature algorithm is not known to this version")]
    Algorithm,
    /// A field is missing.
    #[error("field {key} is missing")]
    Missing {
        /// Its key.
        key: u64,
    },
    /// A critical field that this version does not know.
    #[error("field {key} is not known to this version")]
    UnknownField {
        /// Its key.
        key: u64,
    },
    /// Fields that exclude each other, or a list out of its bounds.
    #[error("the fields of the document contradict each other")]
    Contradiction,
    /// A name breaks its grammar.
    #[error(transparent)]
    Name(#[from] ParseNameError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_deterministic_form_decodes() {
        let map = Value::map([(0, Some(Value::Uint(1))), (3, Some(Value::Text("x")))]);
        let bytes = map.encode();
        assert_eq!(Value::decode(&bytes), Ok(map));

        let refused: [(&str, &[u8]); 7] = [
            ("trailing byte", &[0x01, 0x00]),
            ("long integer", &[0x18, 0x01]),
            ("indefinite array", &[0x9f, 0x01, 0xff]),
            ("duplicate key", &[0xa2, 0x00, 0x01, 0x00, 0x01]),
            ("unsorted keys", &[0xa2, 0x01, 0x01, 0x00, 0x01]),
            ("null", &[0xf6]),
            ("tag", &[0xc0, 0x01]),
        ];
        for (what, bytes) in refused {
            assert!(Value::decode(bytes).is_err(), "{what}");
        }
    }

    #[test]
    fn hostile_lengths_and_depths_are_refused_without_cost() {
        assert!(Value::decode(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(Value::decode(&[0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert_eq!(Value::decode(&[0x81; 4096]), Err(FormatError::TooDeep));
    }

    #[test]
    fn unknown_critical_fields_are_refused_and_extensions_skipped() {
        let critical = Fields::decode(&[0xa1, 0x05, 0x01]).expect("a map");
        let extension = Fields::decode(&[0xa1, 0x20, 0x01]).expect("a map");

        assert_eq!(critical.finish(), Err(FormatError::UnknownField { key: 5 }));
        assert_eq!(extension.finish(), Ok(()));
    }
}
