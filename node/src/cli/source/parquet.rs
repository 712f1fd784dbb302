//! Parquet files: a row is a record, its columns are key, value, embedding and attributes as the options say.
//!
//! Columns without a role become attributes. Compressed by snappy, gzip, LZ4 or not at all.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use bytes::Bytes;
use loci_client::{Embedding, Record, Value};
use parquet::basic::Compression;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as ParquetRow};

use super::{Position, Row, SourceError, Spec, excerpt};
use crate::cli::json::Fields;

pub struct Parquet {
    iter: RowIter<'static>,
    rows: u64,
    position: Position,
    spec: Spec,
}

impl fmt::Debug for Parquet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Parquet").field("position", &self.position).finish_non_exhaustive()
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// The library panics on some damaged files. That is an answer like another, and no reason to print a panic.
fn guarded<T>(read: impl FnOnce() -> Result<T, parquet::errors::ParquetError>) -> Result<T, SourceError> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                usual(panic);
            }
        }));
    });
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(false);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(SourceError::Parquet(error.to_string())),
        Err(_) => Err(SourceError::Parquet("it cannot be read past this place".into())),
    }
}

impl Parquet {
    pub fn open(spec: Spec, from: Position) -> Result<Parquet, SourceError> {
        let file = File::open(&spec.path)?;
        let reader = guarded(|| SerializedFileReader::new(file))?;
        let rows = u64::try_from(reader.metadata().file_metadata().num_rows())
            .map_err(|_| SourceError::Parquet("a negative number of rows".into()))?;
        let groups = reader.metadata().row_groups();
        let codecs = groups.iter().flat_map(|group| group.columns()).map(|column| column.compression());
        if let Some(reason) = codecs.filter_map(refused_codec).next() {
            return Err(SourceError::Parquet(reason));
        }
        let schema = reader.metadata().file_metadata().schema().clone();
        let columns: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
        let fields = &spec.fields;
        let has_key = columns.contains(&fields.key.as_str());
        if !has_key && spec.key_prefix.is_none() {
            let key = &fields.key;
            let reason =
                format!("no column {key:?} among {columns:?} (--key-field names another, --key-prefix numbers rows)");
            return Err(SourceError::Parquet(reason));
        }
        let mut iter = guarded(|| Ok(RowIter::from_file_into(Box::new(reader))))?;
        for row in 0..from.rows {
            let skipped = guarded(|| iter.next().transpose())?;
            if skipped.is_none() {
                return Err(SourceError::Parquet(format!("it ends after {row} rows")));
            }
        }
        Ok(Parquet { iter, rows, position: from, spec })
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn next(&mut self) -> Result<Option<Row>, SourceError> {
        let Some(parquet_row) = guarded(|| self.iter.next().transpose())? else {
            // The library ends early where pages are missing.
            return match self.position.rows {
                read if read == self.rows => Ok(None),
                read => Err(SourceError::Parquet(format!("it ends after {read} of {} rows", self.rows))),
            };
        };
        let row = self.position.rows;
        self.position.rows += 1;
        let outcome = record_of(&parquet_row, &self.spec.fields).and_then(|record| self.spec.finished(record, row));
        let shown = match &outcome {
            Ok(_) => String::new(),
            Err(_) => excerpt(parquet_row.to_string().as_bytes()),
        };
        Ok(Some(Row { line: row + 1, after: self.position, outcome, excerpt: shown }))
    }
}

/// Said before the first row: a codec that this program has not would be noticed in the middle.
fn refused_codec(codec: Compression) -> Option<String> {
    match codec {
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) => None,
        Compression::LZ4 | Compression::LZ4_RAW => None,
        other => Some(format!("compressed with {other}: write it with snappy, gzip, LZ4 or not compressed")),
    }
}

fn record_of(row: &ParquetRow, fields: &Fields) -> Result<Record, String> {
    let mut record = Record::default();
    for (name, field) in row.get_column_iter() {
        if matches!(field, Field::Null) {
            continue;
        }
        let is_value = match &fields.value {
            Some(value) => name == value,
            None => name == "value" || name == "text",
        };
        let named = |reason: String| format!("column {name:?}: {reason}");
        if *name == fields.key {
            record.key = bytes_of(field).ok_or_else(|| named("a key is text, bytes or a whole number".into()))?;
        } else if is_value {
            record.value = Some(bytes_of(field).ok_or_else(|| named("a value is text, bytes or a number".into()))?);
        } else if *name == fields.embedding {
            let vector = vector_of(field).map_err(named)?;
            record.embeddings.push(Embedding { name: String::new(), vector });
        } else {
            let value = value_of(field).map_err(named)?;
            match value {
                Value::Map(values) if *name == fields.attributes => record.attributes.extend(values),
                value => _ = record.attributes.insert(name.clone(), value),
            }
        }
    }
    Ok(record)
}

fn bytes_of(field: &Field) -> Option<Bytes> {
    match field {
        Field::Str(text) => Some(text.clone().into()),
        Field::Bytes(bytes) => Some(Bytes::copy_from_slice(bytes.data())),
        field => whole_number(field).map(|number| number.to_string().into()),
    }
}

fn whole_number(field: &Field) -> Option<i64> {
    Some(match field {
        Field::Byte(number) => i64::from(*number),
        Field::Short(number) => i64::from(*number),
        Field::Int(number) => i64::from(*number),
        Field::Long(number) => *number,
        Field::UByte(number) => i64::from(*number),
        Field::UShort(number) => i64::from(*number),
        Field::UInt(number) => i64::from(*number),
        Field::ULong(number) => i64::try_from(*number).ok()?,
        _ => return None,
    })
}

fn float(field: &Field) -> Option<f64> {
    match field {
        Field::Float16(number) => Some(number.to_f64()),
        Field::Float(number) => Some(f64::from(*number)),
        Field::Double(number) => Some(*number),
        field => whole_number(field).map(|number| number as f64),
    }
}

fn vector_of(field: &Field) -> Result<Vec<f32>, String> {
    let Field::ListInternal(list) = field else {
        return Err("an embedding is a list of numbers".into());
    };
    let component = |(position, field)| match float(field) {
        Some(number) => Ok(number as f32),
        None => Err(format!("component {position} is not a number")),
    };
    list.elements().iter().enumerate().map(component).collect()
}

fn value_of(field: &Field) -> Result<Value, String> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::Bool(*value),
        Field::Str(text) => Value::String(text.clone()),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::String(text.into()),
            Err(_) => return Err("an attribute cannot be bytes that are not text".into()),
        },
        Field::Date(days) => Value::Timestamp(i64::from(*days) * 86_400_000_000),
        Field::TimestampMillis(millis) => Value::Timestamp(millis.saturating_mul(1000)),
        Field::TimestampMicros(micros) => Value::Timestamp(*micros),
        Field::TimeMillis(millis) => Value::Int(i64::from(*millis)),
        Field::TimeMicros(micros) => Value::Int(*micros),
        Field::Group(row) => Value::Map(
            row.get_column_iter()
                .map(|(name, field)| Ok((name.clone(), value_of(field)?)))
                .collect::<Result<_, String>>()?,
        ),
        Field::ListInternal(list) => Value::List(list.elements().iter().map(value_of).collect::<Result<_, String>>()?),
        Field::MapInternal(map) => Value::Map(
            map.entries()
                .iter()
                .map(|(key, field)| match key {
                    Field::Str(name) => Ok((name.clone(), value_of(field)?)),
                    _ => Err("the names of a map are texts".to_owned()),
                })
                .collect::<Result<_, String>>()?,
        ),
        Field::Decimal(_) => return Err("decimals have no attribute type: cast to a float or a text".into()),
        field => match (whole_number(field), float(field)) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) if !number.is_nan() => Value::Float(number),
            _ => return Err("a number that no attribute can hold".into()),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::super::tests::{check_resumes, read_from, spec, write};
    use super::*;

    const SCHEMA: &str = "message schema {
        REQUIRED BYTE_ARRAY key (UTF8);
        REQUIRED BYTE_ARRAY text (UTF8);
        REQUIRED INT64 year;
        OPTIONAL GROUP embedding (LIST) { REPEATED GROUP list { OPTIONAL FLOAT element; } }
    }";

    /// Two rows: (a, A, 1, [0.5, 1.5]) and (b, B, 2, null).
    fn file(compression: Compression) -> Vec<u8> {
        let schema = Arc::new(parse_message_type(SCHEMA).expect("a schema"));
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let mut bytes = Vec::new();
        let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).expect("a writer");
        let mut group = writer.next_row_group().expect("a group");
        for texts in [["a", "b"], ["A", "B"]] {
            let mut column = group.next_column().expect("written").expect("a column");
            let values = texts.map(ByteArray::from);
            column.typed::<ByteArrayType>().write_batch(&values, None, None).expect("written");
            column.close().expect("written");
        }
        let mut column = group.next_column().expect("written").expect("a column");
        column.typed::<Int64Type>().write_batch(&[1, 2], None, None).expect("written");
        column.close().expect("written");
        let mut column = group.next_column().expect("written").expect("a column");
        let levels = (Some(&[3, 3, 0][..]), Some(&[0, 1, 0][..]));
        column.typed::<FloatType>().write_batch(&[0.5, 1.5], levels.0, levels.1).expect("written");
        column.close().expect("written");
        group.close().expect("written");
        writer.close().expect("written");
        bytes
    }

    #[test]
    fn columns_become_parts_of_records() {
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::LZ4_RAW] {
            let (_directory, path) = write("r.parquet", &file(compression));
            let (rows, end) = read_from(spec(&path), Position::default());
            assert!(end.is_ok(), "{end:?}");
            let records: Vec<_> = rows.into_iter().map(|row| row.outcome).collect();
            let first = Record::new("a").with_value("A").with_attribute("year", 1).with_embedding([0.5, 1.5]);
            let second = Record::new("b").with_value("B").with_attribute("year", 2);
            assert_eq!(records, [Ok(first), Ok(second)]);
            check_resumes(&spec(&path));
        }
    }

    #[test]
    fn a_codec_that_cannot_be_read_is_named_with_those_that_can() {
        let reason = refused_codec(Compression::ZSTD(Default::default())).expect("not supported");
        assert!(reason.contains("ZSTD") && reason.contains("snappy"), "{reason}");
    }

    #[test]
    fn a_missing_key_column_is_named() {
        let (_directory, path) = write("r.parquet", &file(Compression::UNCOMPRESSED));
        let fields = Fields { key: "id".into(), ..Fields::default() };
        let (_, end) = read_from(Spec { fields, key_prefix: None, ..spec(&path) }, Position::default());
        assert!(end.expect_err("no key").to_string().contains("no column \"id\" among [\"key\","));
    }

    #[test]
    fn every_cut_is_an_error() {
        let whole = file(Compression::SNAPPY);
        for length in 0..whole.len() {
            let (_directory, path) = write("r.parquet", &whole[..length]);
            let (_, end) = read_from(spec(&path), Position::default());
            assert!(end.is_err(), "{length} bytes");
        }
    }
}
