//! A message and its parts, read and written in both versions.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Map, Value, json};

use super::Version;
use super::fields::{Object, Wrong};

/// What one side says to the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its sender's idempotency key.
    pub id: String,
    /// Which thread of talk it belongs to.
    pub context: Option<String>,
    /// The task that it is about.
    pub task: Option<String>,
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub parts: Vec<Part>,
    /// Beside it, for extensions.
    pub metadata: Option<Map<String, Value>>,
    /// URIs of extensions.
    pub extensions: Vec<String>,
    /// Other tasks that it refers to.
    pub references: Vec<String>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The client.
    User,
    /// The server.
    Agent,
}

/// One part of a message or an artifact.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What it holds.
    pub content: Content,
    /// A media type.
    pub media_type: Option<String>,
    /// A file's name.
    pub filename: Option<String>,
    /// Beside it, for extensions.
    pub metadata: Option<Map<String, Value>>,
}

/// What a part holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Text.
    Text(String),
    /// A file's bytes.
    Raw(Vec<u8>),
    /// Where a file is.
    Url(String),
    /// Any JSON.
    Data(Value),
}

/// The longest id of a message, a context or a task.
pub const MAX_ID: usize = 256;
/// The most parts of a message.
pub const MAX_PARTS: usize = 1000;

impl Message {
    /// Reads a message.
    pub fn read(value: &Value, version: Version) -> Result<Self, Wrong> {
        let object = Object::of(value)?;
        let message = Self {
            id: object.required("messageId", MAX_ID)?.to_owned(),
            context: object.name("contextId", MAX_ID)?.map(str::to_owned),
            task: object.name("taskId", MAX_ID)?.map(str::to_owned),
            role: Role::read(&object)?,
            parts: object.each("parts", MAX_PARTS, |part| Part::read(part, version))?,
            metadata: object.map("metadata")?,
            extensions: object.names("extensions", MAX_LIST)?,
            references: object.names("referenceTaskIds", MAX_LIST)?,
        };
        match message.parts.is_empty() {
            true => Err(Wrong::here("must have at least one part").within("parts")),
            false => Ok(message),
        }
    }

    /// In the shape of a version.
    pub fn write(&self, version: Version) -> Value {
        let mut object = Map::new();
        if version == Version::V03 {
            object.insert("kind".into(), "message".into());
        }
        object.insert("messageId".into(), self.id.as_str().into());
        for (name, value) in [("contextId", &self.context), ("taskId", &self.task)] {
            if let Some(value) = value {
                object.insert(name.into(), value.as_str().into());
            }
        }
        object.insert("role".into(), self.role.word(version).into());
        let parts = self.parts.iter().map(|part| part.write(version));
        object.insert("parts".into(), parts.collect());
        insert_map(&mut object, "metadata", self.metadata.as_ref());
        for (name, list) in [
            ("extensions", &self.extensions),
            ("referenceTaskIds", &self.references),
        ] {
            if !list.is_empty() {
                object.insert(name.into(), json!(list));
            }
        }
        Value::Object(object)
    }
}

impl Role {
    fn read(object: &Object<'_>) -> Result<Self, Wrong> {
        let word = object.text("role")?;
        match word {
            Some("ROLE_USER" | "user") => Ok(Self::User),
            Some("ROLE_AGENT" | "agent") => Ok(Self::Agent),
            Some(_) => Err(Wrong::here("must be ROLE_USER or ROLE_AGENT").within("role")),
            None => Err(Wrong::here("is missing").within("role")),
        }
    }

    fn word(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::User, Version::V1) => "ROLE_USER",
            (Self::Agent, Version::V1) => "ROLE_AGENT",
            (Self::User, Version::V03) => "user",
            (Self::Agent, Version::V03) => "agent",
        }
    }
}

impl Part {
    /// A part of text alone.
    pub fn text(text: impl Into<String>) -> Self {
        Self::of(Content::Text(text.into()))
    }

    /// A part of content alone.
    pub fn of(content: Content) -> Self {
        Self {
            content,
            media_type: None,
            filename: None,
            metadata: None,
        }
    }

    pub(super) fn read(value: &Value, version: Version) -> Result<Self, Wrong> {
        let object = Object::of(value)?;
        match version {
            Version::V1 => Self::read_v1(&object),
            Version::V03 => Self::read_v03(&object),
        }
    }

    fn read_v1(object: &Object<'_>) -> Result<Self, Wrong> {
        // Only in `data` null is a value.
        let there = |name: &&str| match *name {
            "data" => object.has(name),
            _ => object.get(name).is_some(),
        };
        let found = ["text", "raw", "url", "data"].into_iter().filter(there);
        let found: Vec<_> = found.collect();
        let content = match found[..] {
            ["text"] => Content::Text(object.text("text")?.unwrap_or_default().to_owned()),
            ["raw"] => Content::Raw(object.read("raw", bytes)?.unwrap_or_default()),
            ["url"] => Content::Url(url(object, "url")?),
            ["data"] => Content::Data(object.get("data").cloned().unwrap_or_default()),
            [] => return Err(Wrong::here("must have one of text, raw, url and data")),
            _ => return Err(Wrong::here("must have only one of text, raw, url and data")),
        };
        Ok(Self {
            content,
            media_type: media_type(object, "mediaType")?,
            filename: object.name("filename", MAX_FILENAME)?.map(str::to_owned),
            metadata: object.map("metadata")?,
        })
    }

    fn read_v03(object: &Object<'_>) -> Result<Self, Wrong> {
        let metadata = object.map("metadata")?;
        let plain = |content| Self {
            metadata: metadata.clone(),
            ..Self::of(content)
        };
        match object.text("kind")? {
            Some("text") => match object.text("text")? {
                Some(text) => Ok(plain(Content::Text(text.to_owned()))),
                None => Err(Wrong::here("is missing").within("text")),
            },
            Some("data") => {
                let data = object.map("data")?.unwrap_or_default();
                // How a value that is no object travels in this version, where it must be one.
                let wrapped = metadata
                    .as_ref()
                    .is_some_and(|it| it.get(WRAPPED) == Some(&Value::Bool(true)));
                match (wrapped, data.get("value")) {
                    (true, Some(value)) => {
                        let mut metadata = metadata.unwrap_or_default();
                        metadata.remove(WRAPPED);
                        Ok(Self {
                            metadata: Some(metadata).filter(|it| !it.is_empty()),
                            ..Self::of(Content::Data(value.clone()))
                        })
                    }
                    _ => Ok(plain(Content::Data(Value::Object(data)))),
                }
            }
            Some("file") => {
                let Some(file) = object.object("file")? else {
                    return Err(Wrong::here("is missing").within("file"));
                };
                let read = || {
                    let content = match (file.get("bytes"), file.get("uri")) {
                        (Some(_), None) => {
                            Content::Raw(file.read("bytes", bytes)?.unwrap_or_default())
                        }
                        (None, Some(_)) => Content::Url(url(&file, "uri")?),
                        _ => return Err(Wrong::here("must have one of bytes and uri")),
                    };
                    Ok(Self {
                        content,
                        media_type: media_type(&file, "mimeType")?,
                        filename: file.name("name", MAX_FILENAME)?.map(str::to_owned),
                        metadata: metadata.clone(),
                    })
                };
                read().map_err(|wrong| wrong.within("file"))
            }
            Some(_) => Err(Wrong::here("must be text, file or data").within("kind")),
            None => Err(Wrong::here("is missing").within("kind")),
        }
    }

    pub(super) fn write(&self, version: Version) -> Value {
        match version {
            Version::V1 => self.write_v1(),
            Version::V03 => self.write_v03(),
        }
    }

    fn write_v1(&self) -> Value {
        let mut object = Map::new();
        let (name, value) = match &self.content {
            Content::Text(text) => ("text", text.as_str().into()),
            Content::Raw(bytes) => ("raw", BASE64.encode(bytes).into()),
            Content::Url(url) => ("url", url.as_str().into()),
            Content::Data(value) => ("data", value.clone()),
        };
        object.insert(name.into(), value);
        for (name, value) in [
            ("mediaType", &self.media_type),
            ("filename", &self.filename),
        ] {
            if let Some(value) = value {
                object.insert(name.into(), value.as_str().into());
            }
        }
        insert_map(&mut object, "metadata", self.metadata.as_ref());
        Value::Object(object)
    }

    fn write_v03(&self) -> Value {
        let mut object = Map::new();
        let mut metadata = self.metadata.clone();
        let (kind, name, value) = match &self.content {
            Content::Text(text) => ("text", "text", text.as_str().into()),
            Content::Raw(bytes) => ("file", "file", self.file("bytes", BASE64.encode(bytes))),
            Content::Url(url) => ("file", "file", self.file("uri", url.clone())),
            Content::Data(value @ Value::Object(_)) => ("data", "data", value.clone()),
            Content::Data(value) => {
                metadata
                    .get_or_insert_default()
                    .insert(WRAPPED.into(), true.into());
                ("data", "data", json!({"value": value}))
            }
        };
        object.insert("kind".into(), kind.into());
        object.insert(name.into(), value);
        insert_map(&mut object, "metadata", metadata.as_ref());
        Value::Object(object)
    }

    fn file(&self, name: &str, value: String) -> Value {
        let mut file = Map::new();
        file.insert(name.into(), value.into());
        for (name, value) in [("mimeType", &self.media_type), ("name", &self.filename)] {
            if let Some(value) = value {
                file.insert(name.into(), value.as_str().into());
            }
        }
        Value::Object(file)
    }
}

pub(super) fn insert_map(
    object: &mut Map<String, Value>,
    name: &str,
    map: Option<&Map<String, Value>>,
) {
    if let Some(map) = map {
        object.insert(name.into(), Value::Object(map.clone()));
    }
}

/// Bytes in either alphabet of base64, padded or not, as JSON of Protocol Buffers may have them.
fn bytes(value: &Value) -> Result<Vec<u8>, Wrong> {
    let Value::String(text) = value else {
        return Err(Wrong::here("must be a string of base64"));
    };
    let plain = text
        .trim_end_matches('=')
        .replace('+', "-")
        .replace('/', "_");
    BASE64URL_NOPAD
        .decode(plain.as_bytes())
        .map_err(|_| Wrong::here("is not base64"))
}

fn url(object: &Object<'_>, name: &str) -> Result<String, Wrong> {
    object.required(name, MAX_URL).map(str::to_owned)
}

/// A media type that a message of the mesh can carry too: printable ASCII.
fn media_type(object: &Object<'_>, name: &str) -> Result<Option<String>, Wrong> {
    match object.name(name, MAX_MEDIA_TYPE)? {
        Some(text) if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) => {
            Err(Wrong::here("is no media type").within(name))
        }
        found => Ok(found.map(str::to_owned)),
    }
}

/// The note by which the SDKs know a value again that this version cannot carry bare.
const WRAPPED: &str = "data_part_compat";
const MAX_LIST: usize = 100;
const MAX_FILENAME: usize = 1024;
const MAX_URL: usize = 8192;
const MAX_MEDIA_TYPE: usize = 127;
