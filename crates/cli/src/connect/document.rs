//! OpenClaw's configuration, JSON5 as people write it: read, and changed in place, so that comments
//! and layout stay. What cannot be changed safely is not changed.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstNode, CstObject, CstRootNode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A configuration that can be edited.
pub struct Document {
    root: CstRootNode,
    top: CstObject,
}

/// One change, as the journal keeps it to take it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// An object or array that was missing: goes again when nothing is left in it.
    Container {
        /// Where.
        path: Vec<String>,
    },
    /// A value that was missing.
    Value {
        /// Where.
        path: Vec<String>,
        /// What.
        value: Value,
    },
    /// A value that was another.
    Replaced {
        /// Where.
        path: Vec<String>,
        /// What it was.
        before: Value,
        /// What it is.
        value: Value,
    },
    /// An element that an array lacked.
    Element {
        /// The array.
        path: Vec<String>,
        /// What.
        value: Value,
    },
}

/// Why a document is left alone.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is not JSON5, or not of the kind that can be edited.
    #[error("it cannot be read as JSON5: {0}")]
    Malformed(String),
    /// Something is where an object or an array was expected.
    #[error("{0} is not what OpenClaw takes there")]
    Shape(String),
    /// A part of it is in another file.
    #[error("{0} is in an included file, and `$include` is not followed")]
    Included(String),
    /// A key stands there twice: which one counts is for its author to say.
    #[error("{0} stands there twice")]
    Twice(String),
}

impl Document {
    /// Reads a text.
    pub fn parse(text: &str) -> Result<Self, DocumentError> {
        // As strict as OpenClaw, which takes no missing comma.
        let options = ParseOptions {
            allow_missing_commas: false,
            ..ParseOptions::default()
        };
        let root = CstRootNode::parse(text, &options)
            .map_err(|error| DocumentError::Malformed(error.to_string()))?;
        let top = root
            .object_value()
            .ok_or_else(|| DocumentError::Shape("the file".to_owned()))?;
        Ok(Self { root, top })
    }

    /// The values.
    pub fn value(&self) -> Result<Value, DocumentError> {
        self.root
            .to_serde_value()
            .ok_or_else(|| DocumentError::Malformed("it holds a value that is no JSON".to_owned()))
    }

    /// The text as it is now.
    pub fn text(&self) -> String {
        self.root.to_string()
    }

    /// Sets a value where none is, and what leads to it. Nothing where it is there already.
    pub fn set(&self, path: &[&str], value: Value) -> Result<Vec<Edit>, DocumentError> {
        let Some((last, parents)) = path.split_last() else {
            return Ok(Vec::new());
        };
        let mut edits = Vec::new();
        let object = self.object(parents, &mut edits)?;
        only_once(&object, last, path)?;
        let edit = match object.get(last) {
            None => {
                object.append(last, input(&value));
                Edit::Value {
                    path: owned(path),
                    value,
                }
            }
            Some(property) => {
                let before = property.value().and_then(|node| node.to_serde_value());
                let before = before.ok_or_else(|| DocumentError::Shape(dotted(path)))?;
                if before == value {
                    return Ok(edits);
                }
                property.set_value(input(&value));
                Edit::Replaced {
                    path: owned(path),
                    before,
                    value,
                }
            }
        };
        edits.push(edit);
        Ok(edits)
    }

    /// Adds an element to an array, made where it is missing. Nothing where it is in it already.
    pub fn add(&self, path: &[&str], value: Value) -> Result<Vec<Edit>, DocumentError> {
        let Some((last, parents)) = path.split_last() else {
            return Ok(Vec::new());
        };
        let mut edits = Vec::new();
        let object = self.object(parents, &mut edits)?;
        only_once(&object, last, path)?;
        let array = match object.get(last) {
            None => {
                edits.push(Edit::Container { path: owned(path) });
                object
                    .append(last, CstInputValue::Array(Vec::new()))
                    .array_value()
            }
            Some(property) => property.array_value(),
        };
        let array = array.ok_or_else(|| DocumentError::Shape(dotted(path)))?;
        let there = array
            .elements()
            .iter()
            .any(|element| element.to_serde_value().as_ref() == Some(&value));
        if !there {
            array.append(input(&value));
            edits.push(Edit::Element {
                path: owned(path),
                value,
            });
        }
        Ok(edits)
    }

    /// Takes a change back, where what it made is still there; true where it was.
    pub fn undo(&self, edit: &Edit) -> bool {
        match edit {
            Edit::Container { path } => self.remove_if(path, |node| {
                node.children_exclude_trivia_and_tokens().is_empty()
            }),
            Edit::Value { path, value } => {
                self.remove_if(path, |node| node.to_serde_value().as_ref() == Some(value))
            }
            Edit::Replaced {
                path,
                before,
                value,
            } => {
                let Some(property) = self.property(path) else {
                    return false;
                };
                let now = property.value().and_then(|node| node.to_serde_value());
                if now.as_ref() != Some(value) {
                    return false;
                }
                property.set_value(input(before));
                true
            }
            Edit::Element { path, value } => {
                let array = self
                    .property(path)
                    .and_then(|property| property.array_value());
                let element = array.and_then(|array| {
                    array
                        .elements()
                        .into_iter()
                        .find(|element| element.to_serde_value().as_ref() == Some(value))
                });
                element.is_some_and(|element| {
                    element.remove();
                    true
                })
            }
        }
    }

    /// Removes a section whole, whatever is in it by now; what it was.
    pub fn remove(&self, path: &[&str]) -> Option<Value> {
        let property = self.property(&owned(path))?;
        let value = property.value().and_then(|node| node.to_serde_value());
        property.remove();
        value
    }

    fn remove_if(&self, path: &[String], ours: impl Fn(&CstNode) -> bool) -> bool {
        let Some(property) = self.property(path) else {
            return false;
        };
        let is_ours = property.value().is_some_and(|node| ours(&node));
        if is_ours {
            property.remove();
        }
        is_ours
    }

    fn property(&self, path: &[String]) -> Option<jsonc_parser::cst::CstObjectProp> {
        let (last, parents) = path.split_last()?;
        let object = parents
            .iter()
            .try_fold(self.top.clone(), |object, key| object.object_value(key))?;
        object.get(last)
    }

    /// The object at a path; what is missing is made.
    fn object(&self, path: &[&str], edits: &mut Vec<Edit>) -> Result<CstObject, DocumentError> {
        let mut object = self.top.clone();
        for (depth, key) in path.iter().enumerate() {
            let here = &path[..=depth];
            only_once(&object, key, here)?;
            object = match object.get(key) {
                None => {
                    edits.push(Edit::Container { path: owned(here) });
                    object
                        .append(key, CstInputValue::Object(Vec::new()))
                        .object_value()
                }
                Some(property) => property.object_value(),
            }
            .ok_or_else(|| DocumentError::Shape(dotted(here)))?;
            if object.get("$include").is_some() {
                return Err(DocumentError::Included(dotted(here)));
            }
        }
        Ok(object)
    }
}

impl Edit {
    /// Where, as people write it.
    pub fn place(&self) -> String {
        match self {
            Self::Container { path }
            | Self::Value { path, .. }
            | Self::Replaced { path, .. }
            | Self::Element { path, .. } => path.join("."),
        }
    }
}

fn only_once(object: &CstObject, key: &str, path: &[&str]) -> Result<(), DocumentError> {
    let properties = object.properties();
    let named = properties
        .iter()
        .filter(|property| property.decoded_name().as_deref() == Some(key));
    match named.count() {
        0 | 1 => Ok(()),
        _ => Err(DocumentError::Twice(dotted(path))),
    }
}

fn owned(path: &[&str]) -> Vec<String> {
    path.iter().map(|key| (*key).to_owned()).collect()
}

fn dotted(path: &[&str]) -> String {
    path.join(".")
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(value) => CstInputValue::Number(value.to_string()),
        Value::String(value) => CstInputValue::String(value.clone()),
        Value::Array(values) => CstInputValue::Array(values.iter().map(input).collect()),
        Value::Object(members) => CstInputValue::Object(
            members
                .iter()
                .map(|(key, value)| (key.clone(), input(value)))
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HAND_WRITTEN: &str = "// mine\n{\n  agents: { entries: { main: {} } }, // one\n  plugins: {\n    load: { paths: ['/mine'] },\n  },\n  /* the end */\n}\n";

    #[test]
    fn what_is_set_is_there_and_the_rest_of_the_text_is_as_it_was() {
        let document = Document::parse(HAND_WRITTEN).expect("JSON5");

        let mut edits = document
            .add(&["plugins", "load", "paths"], json!("/ours"))
            .expect("added");
        edits.extend(
            document
                .set(&["channels", "mesh", "enabled"], json!(true))
                .expect("set"),
        );

        let value = document.value().expect("values");
        assert_eq!(value["plugins"]["load"]["paths"], json!(["/mine", "/ours"]));
        assert_eq!(value["channels"], json!({"mesh": {"enabled": true}}));
        for kept in [
            "// mine",
            "{ main: {} } }, // one",
            "'/mine'",
            "/* the end */",
        ] {
            assert!(document.text().contains(kept), "{}", document.text());
        }
        assert_eq!(edits.len(), 4, "{edits:?}");
    }

    #[test]
    fn twice_is_once() {
        let document = Document::parse(HAND_WRITTEN).expect("JSON5");
        let path = ["channels", "mesh", "agents"];
        document.set(&path, json!(["main"])).expect("set");
        let text = document.text();

        assert_eq!(document.set(&path, json!(["main"])).expect("set"), []);
        assert_eq!(
            document
                .add(&["plugins", "load", "paths"], json!("/mine"))
                .expect("there"),
            []
        );
        assert_eq!(document.text(), text);
    }

    #[test]
    fn undoing_takes_back_what_is_still_ours_and_no_more() {
        let document = Document::parse(HAND_WRITTEN).expect("JSON5");
        let mut edits = document
            .set(&["channels", "mesh", "enabled"], json!(true))
            .expect("set");
        edits.extend(
            document
                .add(&["plugins", "load", "paths"], json!("/ours"))
                .expect("added"),
        );
        document
            .set(&["channels", "telegram", "enabled"], json!(true))
            .expect("the user's own, later");

        let undone: Vec<bool> = edits.iter().rev().map(|edit| document.undo(edit)).collect();

        let value = document.value().expect("values");
        assert_eq!(value["channels"], json!({"telegram": {"enabled": true}}));
        assert_eq!(value["plugins"]["load"]["paths"], json!(["/mine"]));
        // `channels` is not empty, so it stays.
        assert_eq!(undone, [true, true, true, false]);
    }

    #[test]
    fn what_cannot_be_edited_safely_is_refused() {
        let refused = |text: &str| {
            let document = Document::parse(text)?;
            document.set(&["channels", "mesh", "enabled"], json!(true))
        };

        for (text, word) in [
            ("{a: 1 b: 2}", "JSON5"),
            ("{", "JSON5"),
            ("[]", "the file"),
            ("{channels: 7}", "channels is not"),
            ("{channels: {$include: './c.json5'}}", "included file"),
            ("{channels: {}, channels: {}}", "twice"),
        ] {
            let error = refused(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
