//! Reading JSON field by field, with errors that say where.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Value};

/// What is wrong with a document, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    path: String,
    why: Cow<'static, str>,
}

/// An object that is being read. A field may be written in camel case or in snake case, as JSON of
/// Protocol Buffers may be; null is as good as absent.
#[derive(Clone, Copy)]
pub(super) struct Object<'a>(&'a Map<String, Value>);

impl Wrong {
    pub(super) fn here(why: impl Into<Cow<'static, str>>) -> Self {
        Self {
            path: String::new(),
            why: why.into(),
        }
    }

    /// The same, seen from the object that has it as this field.
    pub(super) fn within(mut self, field: &str) -> Self {
        let joint = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{field}{joint}{}", self.path);
        self
    }

    pub(super) fn at(self, index: usize) -> Self {
        self.within(&format!("[{index}]"))
    }

    /// The field at fault, from the outermost object on.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.is_empty() {
            true => f.write_str(&self.why),
            false => write!(f, "{} {}", self.path, self.why),
        }
    }
}

impl std::error::Error for Wrong {}

impl<'a> Object<'a> {
    pub(super) fn of(value: &'a Value) -> Result<Self, Wrong> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(Wrong::here("must be an object")),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        let found = self.0.get(name).or_else(|| self.0.get(&snake(name)));
        found.filter(|value| !value.is_null())
    }

    /// Whether the field is there, if only with null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, Wrong> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Wrong::here("must be a string").within(name)),
        }
    }

    /// A text that names something: bounded, and without control characters. An empty one is none.
    pub(super) fn name(&self, name: &str, most: usize) -> Result<Option<&'a str>, Wrong> {
        let Some(text) = self.text(name)?.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let why = match text {
            _ if text.len() > most => format!("is longer than {most} bytes"),
            _ if text.chars().any(char::is_control) => "has a control character".to_owned(),
            _ => return Ok(Some(text)),
        };
        Err(Wrong::here(why).within(name))
    }

    pub(super) fn required(&self, name: &str, most: usize) -> Result<&'a str, Wrong> {
        self.name(name, most)?
            .ok_or_else(|| Wrong::here("is missing").within(name))
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Wrong> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            // As a query has it.
            Some(Value::String(text)) if text == "true" => Ok(Some(true)),
            Some(Value::String(text)) if text == "false" => Ok(Some(false)),
            Some(_) => Err(Wrong::here("must be true or false").within(name)),
        }
    }

    /// A whole number within a range; as a string too, as Protocol Buffers and queries write it.
    pub(super) fn whole(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Result<Option<u32>, Wrong> {
        let number = match self.get(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.parse::<i64>().ok().map(|number| number as f64),
            Some(_) => None,
        };
        let wrong = |why: String| Wrong::here(why).within(name);
        match number {
            Some(number) if number.fract() == 0.0 => {
                let (least, most) = (*range.start(), *range.end());
                let fits = number >= f64::from(least) && number <= f64::from(most);
                match fits {
                    true => Ok(Some(number as u32)),
                    false if most == u32::MAX => Err(wrong(format!("must be at least {least}"))),
                    false => Err(wrong(format!("must be from {least} to {most}"))),
                }
            }
            _ => Err(wrong("must be a whole number".to_owned())),
        }
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<Object<'a>>, Wrong> {
        let value = self.get(name);
        value
            .map(|value| Object::of(value).map_err(|wrong| wrong.within(name)))
            .transpose()
    }

    pub(super) fn map(&self, name: &str) -> Result<Option<Map<String, Value>>, Wrong> {
        Ok(self
            .object(name)?
            .map(|object| object.0.clone())
            .filter(|map| !map.is_empty()))
    }

    pub(super) fn list(&self, name: &str, most: usize) -> Result<&'a [Value], Wrong> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(list)) if list.len() <= most => Ok(list),
            Some(Value::Array(_)) => {
                Err(Wrong::here(format!("has more than {most} entries")).within(name))
            }
            Some(_) => Err(Wrong::here("must be an array").within(name)),
        }
    }

    /// A list of names.
    pub(super) fn names(&self, name: &str, most: usize) -> Result<Vec<String>, Wrong> {
        let list = self.list(name, most)?.iter().enumerate();
        list.map(|(index, entry)| {
            match entry {
                Value::String(text) if text.len() <= MAX_ENTRY => Ok(text.clone()),
                Value::String(_) => Err(format!("is longer than {MAX_ENTRY} bytes").into()),
                _ => Err(Cow::from("must be a string")),
            }
            .map_err(|why: Cow<'static, str>| Wrong::here(why).at(index).within(name))
        })
        .collect()
    }

    /// Reads each entry of a list.
    pub(super) fn each<T>(
        &self,
        name: &str,
        most: usize,
        read: impl Fn(&'a Value) -> Result<T, Wrong>,
    ) -> Result<Vec<T>, Wrong> {
        let list = self.list(name, most)?.iter().enumerate();
        list.map(|(index, entry)| read(entry).map_err(|wrong| wrong.at(index).within(name)))
            .collect()
    }

    pub(super) fn read<T>(
        &self,
        name: &str,
        read: impl Fn(&'a Value) -> Result<T, Wrong>,
    ) -> Result<Option<T>, Wrong> {
        self.get(name)
            .map(|value| read(value).map_err(|wrong| wrong.within(name)))
            .transpose()
    }
}

fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// The longest entry of a list of names: a URI.
const MAX_ENTRY: usize = 1024;
