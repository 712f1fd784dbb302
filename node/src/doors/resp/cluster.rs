//! CLUSTER: the shard that holds the databases, told as a cluster of one shard that owns all slots.

use loci_index::table::commands::{is, parse_int};
use loci_raft::MemberId;

use super::session::Session;
use crate::cluster::book;
use crate::router::{SLOTS, slot};

/// A member as clients of a cluster know one.
struct Node {
    id: String,
    host: String,
    port: u16,
    leads: bool,
    is_me: bool,
}

impl Session {
    /// CLUSTER.
    pub fn cluster(&mut self, args: &[&[u8]]) {
        let (what, rest) = (args[1], &args[2..]);
        match rest {
            [] if is(what, "info") => {
                let nodes = self.nodes().len();
                let text = format!(
                    "cluster_enabled:0\r\ncluster_state:ok\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{SLOTS}\r\n\
                     cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:{nodes}\r\ncluster_size:1\r\n\
                     cluster_current_epoch:1\r\ncluster_my_epoch:1\r\n\
                     cluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
                     total_cluster_links_buffer_limit_exceeded:0\r\n"
                );
                self.out.verbatim(*b"txt", text);
            }
            [] if is(what, "myid") => {
                let id = format!("{}00000000", self.door.status.node());
                self.out.bulk(id);
            }
            [] if is(what, "myshardid") => {
                let id = self.door.cluster.identity().cluster.to_string();
                self.out.bulk(format!("{id:0<40}"));
            }
            [key] if is(what, "keyslot") => self.out.int(i64::from(slot(key))),
            [_] if is(what, "countkeysinslot") => self.out.int(0),
            [_, _] if is(what, "getkeysinslot") => self.out.array(0),
            [] if is(what, "slots") => self.slots(),
            [] if is(what, "shards") => self.shards(),
            [] if is(what, "nodes") => {
                let lines = self.nodes().into_iter().map(|node| {
                    let Node { id, host, port, leads, is_me } = node;
                    let me = if is_me { "myself," } else { "" };
                    match leads {
                        true => format!("{id} {host}:{port}@{port} {me}master - 0 0 1 connected 0-{}\n", SLOTS - 1),
                        false => format!("{id} {host}:{port}@{port} {me}slave - 0 0 1 connected\n"),
                    }
                });
                let text: String = lines.collect();
                self.out.verbatim(*b"txt", text);
            }
            [] if is(what, "links") => self.out.array(0),
            [epoch] if is(what, "reset") || is(what, "set-config-epoch") && parse_int(epoch).is_some() => {
                self.out.error("ERR the nodes find their members themselves: see `loci cluster`");
            }
            [] if is(what, "help") => self
                .help("CLUSTER", &["INFO", "KEYSLOT <key>", "LINKS", "MYID", "MYSHARDID", "NODES", "SHARDS", "SLOTS"]),
            _ => self.no_part("CLUSTER", what),
        }
    }

    /// The members of the shard, the one that leads first. Where this door is on other nodes is not known: they are taken to
    /// have it at the same port.
    fn nodes(&self) -> Vec<Node> {
        let door = &*self.door;
        let me = door.cluster.me();
        let leader = door.home().ok().and_then(|home| home.leader());
        let lines = book::read(&door.cluster.catalog().newest());
        let mut nodes: Vec<Node> = lines
            .into_iter()
            .filter(|(_, line)| !line.removed)
            .map(|(member, line)| Node {
                id: format!("{}00000000", line.node),
                host: line.address.rsplit_once(':').map_or(line.address.as_str(), |(host, _)| host).to_owned(),
                port: door.port(),
                leads: Some(member) == leader,
                is_me: member == me,
            })
            .collect();
        if !nodes.iter().any(|node| node.is_me) {
            nodes.push(Node {
                id: format!("{}00000000", door.status.node()),
                host: self.client.local.ip().to_string(),
                port: door.port(),
                leads: leader.is_none_or(|leader: MemberId| leader == me),
                is_me: true,
            });
        }
        nodes.sort_by_key(|node| !node.leads);
        nodes
    }

    fn slots(&mut self) {
        let nodes = self.nodes();
        self.out.array(1);
        self.out.array(2 + nodes.len());
        self.out.int(0);
        self.out.int(i64::from(SLOTS - 1));
        for node in nodes {
            self.out.array(4);
            self.out.bulk(node.host);
            self.out.int(i64::from(node.port));
            self.out.bulk(node.id);
            self.out.array(0);
        }
    }

    fn shards(&mut self) {
        let nodes = self.nodes();
        self.out.array(1);
        self.out.map(2);
        self.out.bulk("slots");
        self.out.array(2);
        self.out.int(0);
        self.out.int(i64::from(SLOTS - 1));
        self.out.bulk("nodes");
        self.out.array(nodes.len());
        for node in nodes {
            self.out.map(7);
            for (name, value) in [("id", &node.id), ("ip", &node.host), ("endpoint", &node.host)] {
                self.out.bulk(name);
                self.out.bulk(value);
            }
            self.out.bulk("port");
            self.out.int(i64::from(node.port));
            self.out.bulk("role");
            self.out.bulk(if node.leads { "master" } else { "replica" });
            self.out.bulk("replication-offset");
            self.out.int(1);
            self.out.bulk("health");
            self.out.bulk("online");
        }
    }
}
