//! What the node would refuse, found before it is sent, so that one bad row costs no batch.

use loci_client::{EmbeddingSpec, Metric, Record, Schema};

const KEY_BYTES_MAX: usize = 4096;
const VALUE_BYTES_MAX: usize = 16 << 20;

/// The rules of the collection that rows are for.
#[derive(Debug, Clone)]
pub struct Check {
    embeddings: Vec<EmbeddingSpec>,
}

impl Check {
    pub fn new(schema: &Schema) -> Check {
        Check { embeddings: schema.embeddings.clone() }
    }

    /// The record, if it can be written.
    pub fn checked(&self, record: Record) -> Result<Record, String> {
        if record.key.len() > KEY_BYTES_MAX {
            return Err(format!("a key of {} bytes: {KEY_BYTES_MAX} are allowed", record.key.len()));
        }
        let value_bytes = record.value.as_ref().map_or(0, |value| value.len());
        if value_bytes > VALUE_BYTES_MAX {
            return Err(format!("a value of {value_bytes} bytes: {VALUE_BYTES_MAX} are allowed"));
        }
        for embedding in &record.embeddings {
            let spec = match self.embeddings.as_slice() {
                [only] if embedding.name.is_empty() => Some(only),
                specs => specs.iter().find(|spec| spec.name == embedding.name),
            };
            let Some(spec) = spec else {
                let names: Vec<&str> = self.embeddings.iter().map(|spec| spec.name.as_str()).collect();
                return Err(format!("the collection has no embedding {:?}, it has {names:?}", embedding.name));
            };
            let vector = &embedding.vector;
            if vector.len() != spec.dimension as usize {
                return Err(format!("an embedding of dimension {} where {} is wanted", vector.len(), spec.dimension));
            }
            if let Some(position) = vector.iter().position(|component| !component.is_finite()) {
                return Err(format!("component {position} of the embedding is {}", vector[position]));
            }
            if spec.metric == Metric::Cosine && vector.iter().all(|component| *component == 0.0) {
                return Err("the zero vector has no direction, which cosine needs".into());
            }
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_node_would_refuse_is_refused_here() {
        let check = Check::new(&Schema::default().with_embedding("text", 2, Metric::Cosine));
        let good = Record::new("k").with_embedding([1.0, 0.0]);
        assert_eq!(check.checked(good.clone()), Ok(good));
        for (record, part) in [
            (Record::new(vec![b'k'; 5000]), "a key of 5000 bytes"),
            (Record::new("k").with_embedding([1.0]), "dimension 1 where 2"),
            (Record::new("k").with_embedding([1.0, f32::NAN]), "component 1 of the embedding is NaN"),
            (Record::new("k").with_embedding([f32::INFINITY, 1.0]), "component 0 of the embedding is inf"),
            (Record::new("k").with_embedding([0.0, -0.0]), "zero vector"),
            (Record::new("k").with_named_embedding("image", [1.0, 0.0]), "no embedding \"image\""),
        ] {
            let reason = check.checked(record).expect_err(part);
            assert!(reason.contains(part), "{reason}");
        }
    }
}
