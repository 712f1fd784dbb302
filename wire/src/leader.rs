//! How a node that does not lead says who does: in the metadata of a reply or status, beside the answer.
//!
//! ```text
//!   loci-leader: 10.0.0.2:7700
//!   loci-leader-shard: 1
//! ```
//!
//! On a pipeline, where single replies have no metadata, it is a field of the reply.

use tonic::metadata::{MetadataMap, MetadataValue};

use crate::v1::Leader;

/// Where the leader is reached.
pub const LEADER_KEY: &str = "loci-leader";
/// Which shard it leads.
pub const LEADER_SHARD_KEY: &str = "loci-leader-shard";
/// Addresses are shorter: a DNS name has at most 253 characters.
const ADDRESS_BYTES_MAX: usize = 300;

/// Writes down who leads. An address that is no text for a header is left out.
pub fn insert_leader(metadata: &mut MetadataMap, leader: &Leader) {
    if let Ok(address) = MetadataValue::try_from(&*leader.address) {
        metadata.insert(LEADER_KEY, address);
        metadata.insert(LEADER_SHARD_KEY, MetadataValue::from(leader.shard));
    }
}

/// Who leads, if somebody said so.
pub fn leader(metadata: &MetadataMap) -> Option<Leader> {
    let address = metadata.get(LEADER_KEY)?.to_str().ok()?;
    if address.is_empty() || address.len() > ADDRESS_BYTES_MAX {
        return None;
    }
    let shard = metadata.get(LEADER_SHARD_KEY)?.to_str().ok()?.parse().ok()?;
    Some(Leader { shard, address: address.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_arrives_as_it_was_sent_and_nonsense_is_none() {
        let sent = Leader { shard: 7, address: "db2.example.org:7700".into() };
        let mut metadata = MetadataMap::new();
        assert_eq!(leader(&metadata), None);
        insert_leader(&mut metadata, &sent);
        assert_eq!(leader(&metadata), Some(sent));
        metadata.insert(LEADER_SHARD_KEY, MetadataValue::from_static("first"));
        assert_eq!(leader(&metadata), None);
        let mut metadata = MetadataMap::new();
        insert_leader(&mut metadata, &Leader { shard: 1, address: "a\nb".into() });
        assert!(metadata.is_empty());
    }
}
