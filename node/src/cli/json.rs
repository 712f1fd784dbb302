//! Records as JSON, both ways.
//!
//! ```text
//! {"key": "k", "value": "text", "attributes": {...}, "embedding": [...], "embeddings": {"name": [...]},
//!  "sparse": {"name": {"7": 0.5, ..}}, "deadline": "2030-01-01T00:00:00Z", "ttl_millis": 1000, "version": 7}
//! ```
//!
//! Keys and values that are not text stand in `key_base64` and `value_base64`. A timestamp is `{"$timestamp": "2024-..."}`.
//! An embedding without a name is `embedding`, those with one are in `embeddings`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use loci_client::{Deadline, Embedding, Record, SparseEmbedding, Value};
use serde_json::{Map, Number, json};

use super::time;

type Json = serde_json::Value;

const TIMESTAMP: &str = "$timestamp";

/// Which fields of an object are what.
#[derive(Debug, Clone)]
pub struct Fields {
    pub key: String,
    /// None: `value`, or `text` if there is no such field.
    pub value: Option<String>,
    pub attributes: String,
    pub embedding: String,
    /// Fields that are nothing else become attributes.
    pub rest_as_attributes: bool,
}

impl Default for Fields {
    fn default() -> Fields {
        Fields {
            key: "key".into(),
            value: None,
            attributes: "attributes".into(),
            embedding: "embedding".into(),
            rest_as_attributes: false,
        }
    }
}

/// Reads a record; one without a key has an empty one. The message says which field is wrong.
pub fn record_from_json(json: Json, fields: &Fields) -> Result<Record, String> {
    let Json::Object(mut object) = json else {
        return Err("a record is a JSON object".into());
    };
    let mut record = Record { key: bytes_field(&mut object, &fields.key)?.unwrap_or_default(), ..Record::default() };
    record.value = match &fields.value {
        Some(name) => bytes_field(&mut object, name)?,
        None => match bytes_field(&mut object, "value")? {
            Some(value) => Some(value),
            None => bytes_field(&mut object, "text")?,
        },
    };
    match object.remove(&fields.attributes) {
        None | Some(Json::Null) => {}
        Some(Json::Object(attributes)) => record.attributes = values_from_json(attributes)?,
        Some(_) => return Err(format!("{:?} is not an object", fields.attributes)),
    }
    match object.remove(&fields.embedding) {
        None | Some(Json::Null) => {}
        Some(json) => record.embeddings.push(Embedding {
            name: String::new(),
            vector: vector_from_json(&json).map_err(|reason| format!("{:?}: {reason}", fields.embedding))?,
        }),
    }
    match object.remove("embeddings") {
        None | Some(Json::Null) => {}
        Some(Json::Object(named)) => {
            for (name, json) in named {
                let vector = vector_from_json(&json).map_err(|reason| format!("embedding {name:?}: {reason}"))?;
                record.embeddings.push(Embedding { name, vector });
            }
        }
        Some(_) => return Err("\"embeddings\" is not an object".into()),
    }
    match object.remove("sparse") {
        None | Some(Json::Null) => {}
        Some(Json::Object(named)) => {
            for (name, json) in named {
                let weights =
                    sparse_from_json(&json).map_err(|reason| format!("sparse embedding {name:?}: {reason}"))?;
                record.sparse.push(SparseEmbedding { name, weights });
            }
        }
        Some(_) => return Err("\"sparse\" is not an object of sparse embeddings by name".into()),
    }
    record.deadline = deadline_from_json(&mut object)?;
    object.remove("version");
    if fields.rest_as_attributes {
        record.attributes.extend(values_from_json(object)?);
    }
    Ok(record)
}

fn deadline_from_json(object: &mut Map<String, Json>) -> Result<Option<Deadline>, String> {
    let millis = match object.remove("ttl_millis") {
        None | Some(Json::Null) => None,
        Some(json) => Some(json.as_u64().ok_or("\"ttl_millis\" is not a whole number")?),
    };
    let moment = match object.remove("deadline") {
        None | Some(Json::Null) => None,
        Some(json) => Some(
            json.as_str()
                .and_then(time::parse)
                .and_then(|micros| u64::try_from(micros).ok())
                .ok_or("\"deadline\" is not a moment such as \"2030-01-31T12:00:00Z\"")?,
        ),
    };
    match (millis, moment) {
        (Some(_), Some(_)) => Err("\"ttl_millis\" and \"deadline\" are both there".into()),
        (Some(millis), None) => Ok(Some(Deadline::After(Duration::from_millis(millis)))),
        (None, Some(micros)) => Ok(Some(Deadline::At(UNIX_EPOCH + Duration::from_micros(micros)))),
        (None, None) => Ok(None),
    }
}

fn bytes_field(object: &mut Map<String, Json>, name: &str) -> Result<Option<Bytes>, String> {
    match object.remove(name) {
        None | Some(Json::Null) => {}
        Some(Json::String(text)) => return Ok(Some(text.into())),
        Some(Json::Number(number)) => return Ok(Some(number.to_string().into())),
        Some(_) => return Err(format!("{name:?} is not a text or a number")),
    }
    match object.remove(&format!("{name}_base64")) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => match from_base64(&text) {
            Some(bytes) => Ok(Some(bytes.into())),
            None => Err(format!("\"{name}_base64\" is not base64")),
        },
        Some(_) => Err(format!("\"{name}_base64\" is not a text")),
    }
}

/// Numbers that f32 can hold, all finite.
pub fn vector_from_json(json: &Json) -> Result<Vec<f32>, String> {
    let Json::Array(components) = json else {
        return Err("not a list of numbers".into());
    };
    let component = |(position, json): (usize, &Json)| match json.as_f64().map(|number| number as f32) {
        Some(number) if number.is_finite() => Ok(number),
        Some(_) => Err(format!("component {position} is too large for a 32-bit float")),
        None => Err(format!("component {position} is not a number")),
    };
    components.iter().enumerate().map(component).collect()
}

/// Weights by dimension: `{"7": 0.5, "1042": 1.25}`.
pub fn sparse_from_json(json: &Json) -> Result<Vec<(u32, f32)>, String> {
    let Json::Object(weights) = json else {
        return Err("not an object of weights by dimension, such as {\"7\": 0.5}".into());
    };
    let weight = |(dimension, json): (&String, &Json)| {
        let number =
            dimension.parse().map_err(|_| format!("{dimension:?} is not a dimension from 0 to {}", u32::MAX))?;
        match json.as_f64().map(|weight| weight as f32) {
            Some(weight) if weight.is_finite() => Ok((number, weight)),
            _ => Err(format!("the weight of dimension {dimension} is not a number that a 32-bit float can hold")),
        }
    };
    weights.iter().map(weight).collect()
}

fn values_from_json(object: Map<String, Json>) -> Result<BTreeMap<String, Value>, String> {
    object
        .into_iter()
        .map(|(name, json)| match value_from_json(json) {
            Ok(value) => Ok((name, value)),
            Err(reason) => Err(format!("attribute {name:?}: {reason}")),
        })
        .collect()
}

/// Reads an attribute's value.
pub fn value_from_json(json: Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::Int(whole),
            (None, Some(float)) if float.is_finite() => Value::Float(float),
            _ => return Err(format!("{number} is too large")),
        },
        Json::String(text) => Value::String(text),
        Json::Array(values) => Value::List(values.into_iter().map(value_from_json).collect::<Result<_, _>>()?),
        Json::Object(object) if object.len() == 1 && object.contains_key(TIMESTAMP) => {
            let micros = match &object[TIMESTAMP] {
                Json::String(text) => time::parse(text),
                other => other.as_i64(),
            };
            Value::Timestamp(micros.ok_or("\"$timestamp\" is not a moment such as \"2024-01-31T12:00:00Z\"")?)
        }
        Json::Object(object) => Value::Map(values_from_json(object)?),
    })
}

/// Writes a record. Parts that are not there are left out.
pub fn record_to_json(record: &Record) -> Json {
    let mut object = Map::new();
    bytes_to_json(&mut object, "key", &record.key);
    if let Some(value) = &record.value {
        bytes_to_json(&mut object, "value", value);
    }
    if !record.attributes.is_empty() {
        object.insert("attributes".into(), attributes_to_json(&record.attributes));
    }
    let mut named = Map::new();
    for embedding in &record.embeddings {
        let vector = embedding.vector.iter().map(|component| float_to_json(f64::from(*component))).collect();
        match embedding.name.as_str() {
            "" => object.insert("embedding".into(), vector),
            name => named.insert(name.to_owned(), vector),
        };
    }
    if !named.is_empty() {
        object.insert("embeddings".into(), Json::Object(named));
    }
    if !record.sparse.is_empty() {
        let weight = |&(dimension, weight): &(u32, f32)| (dimension.to_string(), float_to_json(f64::from(weight)));
        let sparse = record.sparse.iter().map(|sparse| {
            let weights: Map<String, Json> = sparse.weights.iter().map(weight).collect();
            (sparse.name.clone(), Json::Object(weights))
        });
        object.insert("sparse".into(), Json::Object(sparse.collect()));
    }
    if let Some(Deadline::At(moment)) = record.deadline {
        object.insert("deadline".into(), json!(moment_to_text(moment)));
    }
    object.insert("version".into(), json!(record.version));
    Json::Object(object)
}

/// Writes attributes.
pub fn attributes_to_json(attributes: &BTreeMap<String, Value>) -> Json {
    attributes.iter().map(|(name, value)| (name.clone(), value_to_json(value))).collect()
}

/// Writes an attribute's value.
pub fn value_to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(number) => json!(number),
        Value::Float(number) => float_to_json(*number),
        Value::String(text) => json!(text),
        Value::Timestamp(micros) => json!({ TIMESTAMP: time::format(*micros) }),
        Value::List(values) => values.iter().map(value_to_json).collect(),
        Value::Map(values) => attributes_to_json(values),
    }
}

/// JSON has no infinite numbers.
fn float_to_json(number: f64) -> Json {
    Number::from_f64(number).map_or(Json::Null, Json::Number)
}

/// As RFC 3339.
pub fn moment_to_text(moment: SystemTime) -> String {
    match Value::from(moment) {
        Value::Timestamp(micros) => time::format(micros),
        _ => String::new(),
    }
}

pub fn bytes_to_json(object: &mut Map<String, Json>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.into(), json!(text)),
        Err(_) => object.insert(format!("{name}_base64"), json!(to_base64(bytes))),
    };
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// With padding.
pub fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// With or without padding.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for four in text.chunks(4) {
        let mut bits = 0_u32;
        for at in 0..4 {
            let digit = match four.get(at) {
                Some(found) => DIGITS.iter().position(|digit| digit == found)? as u32,
                None => 0,
            };
            bits = bits << 6 | digit;
        }
        let [_, first, second, third] = bits.to_be_bytes();
        match four.len() {
            4 => bytes.extend([first, second, third]),
            3 => bytes.extend([first, second]),
            2 => bytes.push(first),
            _ => return None,
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Record, String> {
        record_from_json(serde_json::from_str(text).expect("the test's JSON"), &Fields::default())
    }

    #[test]
    fn a_record_comes_back_from_its_json() {
        let record = Record::new("k")
            .with_value(vec![0xff, 0x00])
            .with_attribute("list", [1.5, 2.0])
            .with_attribute("when", Value::Timestamp(1_500_000))
            .with_attribute("none", None::<i64>)
            .with_embedding([0.5, -1.0])
            .with_named_embedding("image", [3.0])
            .with_sparse("words", [(7, 0.5), (70_000, -1.0)])
            .expires_at(UNIX_EPOCH + Duration::from_millis(1234));
        assert_eq!(read(&record_to_json(&record).to_string()), Ok(record));
    }

    #[test]
    fn text_is_another_name_of_value() {
        assert_eq!(read(r#"{"key":"k","text":"t"}"#), Ok(Record::new("k").with_value("t")));
        assert_eq!(read(r#"{"key":7}"#), Ok(Record::new("7")));
    }

    #[test]
    fn fields_without_a_role_are_ignored_or_become_attributes() {
        let json = json!({"id": "k", "year": 2024});
        let mut fields = Fields { key: "id".into(), ..Fields::default() };
        assert_eq!(record_from_json(json.clone(), &fields), Ok(Record::new("k")));
        fields.rest_as_attributes = true;
        assert_eq!(record_from_json(json, &fields), Ok(Record::new("k").with_attribute("year", 2024)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("[]", "a JSON object"),
            (r#"{"key":[]}"#, "\"key\""),
            (r#"{"key_base64":"*"}"#, "\"key_base64\" is not base64"),
            (r#"{"key":"k","attributes":3}"#, "\"attributes\" is not an object"),
            (r#"{"key":"k","attributes":{"n":99999999999999999999999}}"#, ""),
            (r#"{"key":"k","embedding":[1,"x"]}"#, "\"embedding\": component 1 is not a number"),
            (r#"{"key":"k","embedding":[1e39]}"#, "component 0 is too large"),
            (r#"{"key":"k","embeddings":{"a":3}}"#, "embedding \"a\": not a list"),
            (r#"{"key":"k","sparse":{"a":[1]}}"#, "sparse embedding \"a\": not an object"),
            (r#"{"key":"k","sparse":{"a":{"x":1}}}"#, "\"x\" is not a dimension"),
            (r#"{"key":"k","sparse":{"a":{"1":1e39}}}"#, "the weight of dimension 1"),
            (r#"{"key":"k","deadline":"soon"}"#, "\"deadline\" is not a moment"),
            (r#"{"key":"k","deadline":"2030-01-01","ttl_millis":1}"#, "both there"),
            (r#"{"key":"k","ttl_millis":-1}"#, "\"ttl_millis\""),
            (r#"{"key":"k","attributes":{"t":{"$timestamp":"x"}}}"#, "attribute \"t\": \"$timestamp\""),
        ] {
            match read(text) {
                Err(message) => assert!(message.contains(part), "{text}: {message}"),
                Ok(_) => assert!(part.is_empty(), "{text}"),
            }
        }
    }

    #[test]
    fn base64_agrees_with_the_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(to_base64(bytes.as_bytes()), text);
            assert_eq!(from_base64(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(from_base64("Z"), None);
    }
}
