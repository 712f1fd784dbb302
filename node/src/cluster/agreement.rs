//! Whether all members have the same state: looked at every few seconds where the shard is led.
//!
//! Members remember a fingerprint of their state after every so many entries. The leader asks the others for theirs after an
//! entry that all have reached. Where most agree, whoever differs is damaged, by a bad memory or a bug: it marks its data and
//! stops, whether it is one of the others or the leader itself. Where no most of them agree nobody can tell who is right;
//! then it is told, and nothing stops.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use loci_raft::MemberId;
use loci_wire::v1;

use super::Cluster;
use crate::fatal;
use crate::shard::Fingerprint;

/// Marks a store whose state is not that of the others. Says why, for people.
pub const DIVERGED_FILE: &str = "DIVERGED";
/// Another when a program computes the digest otherwise, or does something else with an entry.
const FINGERPRINT_VERSION: u32 = 1;
const LOOK_EVERY: Duration = Duration::from_secs(3);
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Who is wrong.
#[derive(Debug, PartialEq, Eq)]
pub enum Odd {
    /// Nobody, among those who could be asked.
    Nobody,
    /// These; most have what the leader has, or each other's.
    These {
        /// The damaged.
        members: Vec<MemberId>,
        /// What the others have.
        right: Fingerprint,
    },
    /// Nobody knows.
    Undecided,
}

/// Compares fingerprints of the same entry; of all who could be asked, the leader among them.
pub fn odd(all: &[(MemberId, Fingerprint)]) -> Odd {
    let count = |of: &Fingerprint| all.iter().filter(|(_, known)| known == of).count();
    let Some((_, right)) = all.iter().max_by_key(|(_, known)| count(known)) else { return Odd::Nobody };
    let members: Vec<_> = all.iter().filter(|(_, known)| known != right).map(|(member, _)| *member).collect();
    match members.len() {
        0 => Odd::Nobody,
        wrong if 2 * (all.len() - wrong) > all.len() => Odd::These { members, right: *right },
        _ => Odd::Undecided,
    }
}

/// Looks for as long as the node runs. `store` is where the shard's files are.
pub async fn run(cluster: Cluster, store: std::path::PathBuf) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let shard = cluster.shard();
        if shard.is_stopping() {
            return;
        }
        if shard.leader() != Some(cluster.me()) {
            continue;
        }
        let Some(own) = shard.fingerprint(None) else { continue };
        let Some(members) = shard.members() else { continue };
        let mut all = vec![(cluster.me(), own)];
        // Learners have what a voter gave them: their word adds nothing.
        for member in members.voters().iter().filter(|member| **member != cluster.me()) {
            let request = v1::CompareRequest { shard: shard.id(), index: own.index };
            let asked = async { cluster.links().client(*member)?.compare(request).await };
            // Whoever is behind or away is compared another time.
            if let Ok(Ok(reply)) = tokio::time::timeout(ANSWER_TIME, asked).await
                && let Some(known) = reply.into_inner().fingerprint.and_then(from_wire)
            {
                all.push((*member, known));
            }
        }
        match odd(&all) {
            Odd::Nobody => {}
            Odd::Undecided => {
                tracing::error!(
                    index = own.index,
                    ?all,
                    "members have different states, and no most of them agree: restore from a backup"
                );
            }
            Odd::These { members, right } => {
                for member in members {
                    tracing::error!(
                        member = member.0,
                        index = own.index,
                        "a member's state is not that of the others: it is stopped"
                    );
                    if member == cluster.me() {
                        stop(&store, &own, &right);
                    }
                    let request = v1::DivergedRequest { shard: shard.id(), fingerprint: Some(to_wire(&right)) };
                    if let Ok(mut client) = cluster.links().client(member) {
                        // It may be gone before it answers.
                        let _ = tokio::time::timeout(ANSWER_TIME, client.diverged(request)).await;
                    }
                }
            }
        }
    }
}

/// Marks the data, and ends the process.
pub fn stop(store: &Path, own: &Fingerprint, right: &Fingerprint) -> ! {
    let what = difference(own, right);
    let mark = || {
        let mut file = std::fs::File::create(store.join(DIVERGED_FILE))?;
        writeln!(file, "{what}")?;
        file.sync_all()
    };
    let marked = mark().err().map(|error| format!(" (and it could not be marked: {error})")).unwrap_or_default();
    fatal::stop(&format!(
        "{what}: {} cannot be trusted{marked}; remove this member from the cluster, and start its node with an empty data directory",
        store.display()
    ))
}

/// In what a member's state is not that of the others, for people.
fn difference(own: &Fingerprint, right: &Fingerprint) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (what, own_has, others_have) = match own.digest == right.digest {
        false => ("this member's state has the digest", own.digest, right.digest),
        true => {
            ("this member has the same records, but the chain of its entries ends in", own.chain_head, right.chain_head)
        }
    };
    format!("after entry {} {what} {}, that of most others {}", own.index, hex(&own_has), hex(&others_have))
}

/// As it travels.
pub fn to_wire(known: &Fingerprint) -> v1::Fingerprint {
    let Fingerprint { index, digest, chain_head } = known;
    v1::Fingerprint {
        version: FINGERPRINT_VERSION,
        index: *index,
        digest: digest.to_vec().into(),
        chain_head: chain_head.to_vec().into(),
    }
}

/// As it arrives; none of another version, which says nothing about the state.
pub fn from_wire(known: v1::Fingerprint) -> Option<Fingerprint> {
    if known.version != FINGERPRINT_VERSION {
        return None;
    }
    let digest = known.digest[..].try_into().ok()?;
    Some(Fingerprint { index: known.index, digest, chain_head: known.chain_head[..].try_into().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(of: u8) -> Fingerprint {
        Fingerprint { index: 64, digest: [of; 32], chain_head: [1; 32] }
    }

    #[test]
    fn most_decide_who_is_odd() {
        let all = |prints: &[u8]| (1..).map(MemberId).zip(prints.iter().map(|of| print(*of))).collect::<Vec<_>>();
        assert_eq!(odd(&all(&[])), Odd::Nobody);
        assert_eq!(odd(&all(&[7])), Odd::Nobody);
        assert_eq!(odd(&all(&[7, 7, 7])), Odd::Nobody);
        let these =
            |members: &[u64]| Odd::These { members: members.iter().copied().map(MemberId).collect(), right: print(7) };
        assert_eq!(odd(&all(&[7, 8, 7])), these(&[2]));
        assert_eq!(odd(&all(&[8, 7, 7])), these(&[1]), "the leader can be it");
        assert_eq!(odd(&all(&[7, 7, 7, 8, 9])), these(&[4, 5]));
        assert_eq!(odd(&all(&[7, 8])), Odd::Undecided);
        assert_eq!(odd(&all(&[7, 8, 9])), Odd::Undecided);
    }

    #[test]
    fn what_differs_is_said() {
        let chain = Fingerprint { chain_head: [2; 32], ..print(7) };
        assert!(difference(&print(8), &print(7)).contains(&"08".repeat(32)));
        let said = difference(&chain, &print(7));
        assert!(said.contains("same records") && said.contains(&"02".repeat(32)) && !said.contains("0707"), "{said}");
    }

    #[test]
    fn another_chain_is_another_state() {
        let other = Fingerprint { chain_head: [2; 32], ..print(7) };
        let all = [(MemberId(1), print(7)), (MemberId(2), other), (MemberId(3), print(7))];
        assert_eq!(odd(&all), Odd::These { members: vec![MemberId(2)], right: print(7) });
    }
}
