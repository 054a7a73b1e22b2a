//! Calls and answers as they go over the wire: Varlink's envelope around [`Call`] and the replies.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::message::Call;
use super::text::{all_shown, shown};
use super::version::Version;
use crate::WriterError;

/// The interface of writers …
pub const INTERFACE: &str = "io.holdfast.Writer";
/// … its text …
pub const INTERFACE_TEXT: &str = include_str!("../../io.holdfast.Writer.varlink");
/// … and the interface of every Varlink service, with its text.
pub const SERVICE: &str = "org.varlink.service";
/// What `GetInterfaceDescription` says of it.
pub const SERVICE_TEXT: &str = include_str!("../../org.varlink.service.varlink");

/// A call as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Interface and method.
    pub method: String,
    /// What the method takes.
    #[serde(default = "no_parameters")]
    pub parameters: Value,
    /// No answer is wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oneway: bool,
    /// The connection is to become something else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub upgrade: bool,
}

/// A call that was understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Understood {
    /// One for the writer.
    Writer(Call),
    /// `org.varlink.service.GetInfo`.
    Info,
    /// `org.varlink.service.GetInterfaceDescription`.
    Description(String),
}

impl Request {
    /// The call with its interface.
    pub fn new(call: &Call) -> Self {
        // Our own types: string keys, finite numbers, and paths that were checked to be UTF-8.
        let mut call = serde_json::to_value(call).unwrap_or_default();
        let method = format!("{INTERFACE}.{}", call["method"].as_str().unwrap_or_default());
        Self { method, parameters: call["parameters"].take(), oneway: false, upgrade: false }
    }

    /// What is wanted, or the answer that refuses it.
    ///
    /// # Errors
    /// The answer to be sent: there is no such interface or method, or the parameters are not its own.
    pub fn understand(self) -> Result<Understood, Answer> {
        let Self { method, parameters, .. } = self;
        let (interface, name) = method.rsplit_once('.').unwrap_or(("", &method));
        let parameters = without_nulls(parameters);
        match (interface, name) {
            (SERVICE, "GetInfo") => Ok(Understood::Info),
            (SERVICE, "GetInterfaceDescription") => match parameters["interface"].as_str() {
                Some(interface) => Ok(Understood::Description(interface.to_owned())),
                None => Err(Answer::invalid_parameter("interface")),
            },
            (INTERFACE, name) if declared(name) => {
                let call = json!({"method": name, "parameters": parameters});
                serde_json::from_value(call).map(Understood::Writer).map_err(|error| {
                    // serde puts what it is about in backquotes, where it names it.
                    let text = error.to_string();
                    Answer::invalid_parameter(text.split('`').nth(1).unwrap_or(&text))
                })
            }
            (SERVICE | INTERFACE, _) => Err(Answer::method_not_found(&method)),
            _ => Err(Answer::service("InterfaceNotFound", json!({"interface": interface}))),
        }
    }
}

/// Longest error that is taken from a writer: it is shown to people.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// Whether the interface file has this method.
fn declared(method: &str) -> bool {
    let mut declared = INTERFACE_TEXT.lines().filter_map(|line| line.strip_prefix("method "));
    declared.any(|line| line.split('(').next() == Some(method))
}

/// An answer as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The error's name; absent on success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The reply, or the error's parameters.
    #[serde(default = "no_parameters")]
    pub parameters: Value,
    /// More answers to the same call follow: never said here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continues: bool,
}

fn no_parameters() -> Value {
    Value::Object(Map::new())
}

impl Answer {
    /// A reply.
    pub fn reply<T: Serialize>(reply: &T) -> Self {
        match serde_json::to_value(reply) {
            Ok(parameters) => Self { error: None, parameters, continues: false },
            // Such as a path that is not UTF-8.
            Err(error) => Self::failure(&WriterError::rejected("", format!("its answer: {error}"))),
        }
    }

    /// The writer's error.
    pub fn failure(error: &WriterError) -> Self {
        let mut fields = match serde_json::to_value(error) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) | Err(_) => Map::new(),
        };
        let class = fields.remove("class");
        let name = pascal(class.as_ref().and_then(Value::as_str).unwrap_or_default());
        // The requester knows whom it asked.
        fields.remove("writer");
        Self::error(INTERFACE, &name, Value::Object(fields))
    }

    /// Success, or the writer's error.
    pub fn from_result<T: Serialize>(result: Result<T, WriterError>) -> Self {
        match result {
            Ok(reply) => Self::reply(&reply),
            Err(error) => Self::failure(&error),
        }
    }

    /// Another major version is spoken here.
    pub fn version_mismatch() -> Self {
        Self::error(INTERFACE, "VersionMismatch", json!({"speaks": Version::OURS.to_string()}))
    }

    /// The method is not possible now.
    pub fn out_of_order(method: &str, state: &str) -> Self {
        Self::error(INTERFACE, "OutOfOrder", json!({"method": method, "state": state}))
    }

    /// There is no such method.
    pub fn method_not_found(method: &str) -> Self {
        Self::service("MethodNotFound", json!({"method": method}))
    }

    /// A parameter is missing or wrong.
    pub fn invalid_parameter(parameter: &str) -> Self {
        Self::service("InvalidParameter", json!({"parameter": parameter}))
    }

    /// There is no such interface.
    pub fn interface_not_found(interface: &str) -> Self {
        Self::service("InterfaceNotFound", json!({"interface": interface}))
    }

    fn service(name: &str, parameters: Value) -> Self {
        Self::error(SERVICE, name, parameters)
    }

    fn error(interface: &str, name: &str, parameters: Value) -> Self {
        Self { error: Some(format!("{interface}.{name}")), parameters, continues: false }
    }

    /// What the writer `id` answered.
    ///
    /// # Errors
    /// The writer's own error, or why this is no answer to the call.
    pub fn understand<T: DeserializeOwned>(self, id: &str) -> Result<T, Refusal> {
        let Some(name) = self.error else {
            return serde_json::from_value(without_nulls(self.parameters))
                .map_err(|error| Refusal::Nonsense(format!("its answer is not understood: {error}")));
        };
        let parameters = all_shown(without_nulls(self.parameters));
        let (name, described) = (shown(&name), parameters.to_string());
        if name.len() + described.len() > MAX_ERROR_BYTES {
            return Err(Refusal::Nonsense(format!("its error is longer than {MAX_ERROR_BYTES} bytes")));
        }
        let text = |key: &str| parameters[key].as_str().unwrap_or("?");
        let unknown = || Refusal::Nonsense(format!("it answered {name} {described}"));
        Err(match name.rsplit_once('.') {
            Some((SERVICE, "MethodNotFound" | "MethodNotImplemented")) => Refusal::NoSuchMethod,
            Some((INTERFACE, "VersionMismatch")) => Refusal::Writer(WriterError::rejected(
                id,
                format!("it speaks protocol {}, we speak {}", text("speaks"), Version::OURS),
            )),
            Some((INTERFACE, "OutOfOrder")) => Refusal::Nonsense(format!(
                "it says that {} is not possible in state `{}`",
                text("method"),
                text("state")
            )),
            Some((INTERFACE, class)) => {
                writer_error(id, class, &parameters).map_or_else(unknown, Refusal::Writer)
            }
            Some(_) | None => unknown(),
        })
    }
}

/// Why an answer is no reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// The writer's own error.
    Writer(WriterError),
    /// It does not have this method.
    NoSuchMethod,
    /// It is not an answer to what was asked.
    Nonsense(String),
}

/// The writer's error of that name; the id is ours, whatever it says.
fn writer_error(id: &str, name: &str, parameters: &Value) -> Option<WriterError> {
    let mut fields = parameters.as_object()?.clone();
    fields.insert("class".into(), kebab(name).into());
    fields.insert("writer".into(), id.into());
    serde_json::from_value(Value::Object(fields)).ok()
}

/// `timed-out` → `TimedOut`.
fn pascal(class: &str) -> String {
    let upper = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    class.split('-').filter(|word| !word.is_empty() && word.is_ascii()).map(upper).collect()
}

/// `TimedOut` → `timed-out`.
fn kebab(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// Null is the same as absent, as Varlink's `?` has it.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, field)| !field.is_null());
            Value::Object(fields.map(|(key, field)| (key, without_nulls(field))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}
