//! CLUSTER: which node leads which slots.
//!
//! In the cluster mode as it is: each shard's slots belong to the node that leads it. A node that leads something is told as a master
//! of that and nothing else, because clients know a node as a master or as a replica; one that leads nothing is a replica of
//! all. Slots that nobody leads just now stay with who led them last. A node that has just started and has not heard yet who leads
//! has no map: it waits a moment, and says so then, because clients take a map with holes for good. Without that mode every node
//! answers for every key, and clients need not know: one shard that owns all slots is told, with the node that leads the first.

use std::ops::RangeInclusive;
use std::time::Instant;

use loci_index::table::Keyspace;
use loci_index::table::commands::{is, parse_int};
use loci_raft::MemberId;

use super::places::Place;
use super::session::Session;
use super::slots::{Address, LEADER_LOOK, LEADER_WAIT};
use crate::cluster::book;
use crate::doors::looks::{Look, bulks_of};
use crate::router::{SLOTS, slot, slots_of};

/// A member as clients of a cluster know one.
#[derive(Debug)]
struct Node {
    member: MemberId,
    id: String,
    host: String,
    port: u16,
    is_me: bool,
    /// What it leads.
    slots: Vec<RangeInclusive<u16>>,
    /// Nobody can connect to it.
    failed: bool,
}

impl Node {
    fn leads(&self) -> bool {
        !self.slots.is_empty()
    }

    /// As CLUSTER NODES tells of it; if it leads nothing, as a replica of that master.
    fn line(&self, master: &str) -> String {
        let Node { id, host, port, is_me, slots, .. } = self;
        let me = if *is_me { "myself," } else { "" };
        let (failed, link) = if self.failed { (",fail", "disconnected") } else { ("", "connected") };
        let (part, of) = if self.leads() || master == "-" { ("master", "-") } else { ("slave", master) };
        let slots: String = slots.iter().map(|slots| format!(" {}-{}", slots.start(), slots.end())).collect();
        format!("{id} {host}:{port}@{port} {me}{part}{failed} {of} 0 0 1 {link}{slots}")
    }
}

/// Neighbouring slots, and who leads them or did last.
type Leads = Vec<(RangeInclusive<u16>, Option<MemberId>)>;

/// What clients are told: all slots, each led by one of the nodes.
struct Map {
    leads: Leads,
    nodes: Vec<Node>,
}

impl Session {
    /// CLUSTER.
    pub async fn cluster(&mut self, args: &[&[u8]]) {
        let (what, rest) = (args[1], &args[2..]);
        match rest {
            [] if is(what, "info") => self.cluster_info(),
            [] if is(what, "myid") => {
                let id = format!("{}00000000", self.door.status.node());
                self.out.bulk(id);
            }
            [] if is(what, "myshardid") => {
                let id = self.door.cluster.identity().cluster.to_string();
                self.out.bulk(format!("{id:0<40}"));
            }
            [key] if is(what, "keyslot") => self.out.int(i64::from(slot(key))),
            [number] if is(what, "countkeysinslot") => {
                if let Some(keys) = self.keys_in(number, usize::MAX).await {
                    self.out.int(keys.len() as i64);
                }
            }
            [number, count] if is(what, "getkeysinslot") => {
                let Some(count) = parse_int(count).and_then(|count| usize::try_from(count).ok()) else {
                    return self.out.error("ERR Invalid number of keys");
                };
                if let Some(keys) = self.keys_in(number, count).await {
                    self.out.array(keys.len());
                    keys.iter().for_each(|key| self.out.bulk(key));
                }
            }
            [] if is(what, "slots") || is(what, "shards") => match self.whole_map().await {
                Some(map) if is(what, "slots") => self.slots(&map),
                Some(map) => self.shards(&map),
                None => self.out.error("CLUSTERDOWN this node has not heard yet who leads all slots"),
            },
            [] if is(what, "nodes") => {
                let nodes = self.nodes(&self.leads());
                let master = nodes.iter().find(|node| node.leads()).map_or("-", |node| &node.id);
                let text: String = nodes.iter().map(|node| node.line(master) + "\n").collect();
                self.out.verbatim(*b"txt", text);
            }
            [id] if is(what, "replicas") || is(what, "slaves") => {
                let nodes = self.nodes(&self.leads());
                let Some(master) = nodes.iter().find(|node| is(id, &node.id)) else {
                    let id = String::from_utf8_lossy(&id[..id.len().min(128)]).into_owned();
                    return self.out.error(format!("ERR Unknown node {id}"));
                };
                if !master.leads() {
                    return self.out.error("ERR The specified node is not a master");
                }
                let replicas: Vec<_> = nodes.iter().filter(|node| !node.leads()).collect();
                self.out.array(replicas.len());
                replicas.iter().for_each(|node| self.out.bulk(node.line(&master.id)));
            }
            [] if is(what, "links") => self.out.array(0),
            [epoch] if is(what, "reset") || is(what, "set-config-epoch") && parse_int(epoch).is_some() => {
                self.out.error("ERR the nodes find their members themselves: see `loci cluster`");
            }
            [] if is(what, "help") => self.help(
                "CLUSTER",
                &[
                    "COUNTKEYSINSLOT <slot>",
                    "GETKEYSINSLOT <slot> <count>",
                    "INFO",
                    "KEYSLOT <key>",
                    "LINKS",
                    "MYID",
                    "MYSHARDID",
                    "NODES",
                    "REPLICAS <node-id>",
                    "SHARDS",
                    "SLOTS",
                ],
            ),
            _ => self.no_part("CLUSTER", what),
        }
    }

    fn cluster_info(&mut self) {
        let nodes = self.nodes(&self.leads());
        let is_cluster = self.door.databases.is_cluster();
        let (known, size) = (nodes.len(), nodes.iter().filter(|node| node.leads()).count());
        let served = self.served();
        let (enabled, state) = (i32::from(is_cluster), if served == usize::from(SLOTS) { "ok" } else { "fail" });
        let text = format!(
            "cluster_enabled:{enabled}\r\ncluster_state:{state}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{served}\r\n\
             cluster_slots_pfail:0\r\ncluster_slots_fail:{}\r\ncluster_known_nodes:{known}\r\ncluster_size:{size}\r\n\
             cluster_current_epoch:1\r\ncluster_my_epoch:1\r\n\
             cluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
             total_cluster_links_buffer_limit_exceeded:0\r\n",
            usize::from(SLOTS) - served
        );
        self.out.verbatim(*b"txt", text);
    }

    /// How many slots are led just now.
    fn served(&self) -> usize {
        let Ok(homes) = self.door.homes() else { return 0 };
        let shards = homes.shards();
        let led =
            |part: &usize| !self.door.databases.is_cluster() || shards[*part].leader(&self.door.cluster).is_some();
        (0..shards.len()).filter(led).map(|part| slots_of(part, shards.len()).count()).sum()
    }

    /// Who leads which slots, neighbours together; where nobody does just now who did before, as a Redis Cluster says it: clients
    /// take a map with holes for broken. None: nobody yet.
    fn leads(&self) -> Leads {
        let door = &*self.door;
        let Ok(homes) = door.homes() else { return Vec::new() };
        let shards = homes.shards();
        if !door.databases.is_cluster() {
            // Whoever has no leader is answered by this node as well as it can.
            let leader = shards.first().and_then(|home| home.leader(&door.cluster)).unwrap_or(door.cluster.me());
            return vec![(0..=SLOTS - 1, Some(leader))];
        }
        let mut leads: Leads = Vec::new();
        for (part, home) in shards.iter().enumerate() {
            let (slots, leader) = (slots_of(part, shards.len()), home.last_leader(&door.cluster));
            match leads.last_mut() {
                Some((before, same)) if *same == leader => *before = *before.start()..=*slots.end(),
                _ => leads.push((slots, leader)),
            }
        }
        leads
    }

    /// Who leads which slots, and the members, once this node has heard of somebody for all slots.
    async fn whole_map(&mut self) -> Option<Map> {
        // The requests that came together wait together, no longer than one alone.
        let until = *self.waits_until.get_or_insert_with(|| Instant::now() + LEADER_WAIT);
        loop {
            let leads = self.leads();
            let nodes = self.nodes(&leads);
            let told = leads.iter().filter(|(_, leader)| nodes.iter().any(|node| Some(node.member) == *leader));
            if told.map(|(slots, _)| slots.len()).sum::<usize>() == usize::from(SLOTS) {
                return Some(Map { leads, nodes });
            }
            if Instant::now() >= until {
                return None;
            }
            tokio::time::sleep(LEADER_LOOK).await;
        }
    }

    /// The members, those that lead first.
    fn nodes(&self, leads: &Leads) -> Vec<Node> {
        let door = &*self.door;
        let me = door.cluster.me();
        let slots_led_by = |member: MemberId| {
            leads.iter().filter(|(_, leader)| *leader == Some(member)).map(|(slots, _)| slots.clone()).collect()
        };
        let failed = door.failed.load();
        let lines = book::read(&door.cluster.catalog().newest());
        let mut nodes: Vec<Node> = lines
            .into_iter()
            .filter(|(_, line)| !line.removed)
            .map(|(member, line)| {
                let Address { host, port } = door.address_in(&line);
                let port = if member == me { door.port() } else { port };
                let id = format!("{}00000000", line.node);
                let failed = failed.contains(&member);
                Node { member, id, host, port, is_me: member == me, slots: slots_led_by(member), failed }
            })
            .collect();
        if !nodes.iter().any(|node| node.is_me) {
            nodes.push(Node {
                member: me,
                id: format!("{}00000000", door.status.node()),
                host: self.client.local.ip().to_string(),
                port: door.port(),
                is_me: true,
                slots: slots_led_by(me),
                failed: false,
            });
        }
        nodes.sort_by_key(|node| (!node.leads(), node.member));
        nodes
    }

    fn slots(&mut self, Map { leads, nodes }: &Map) {
        let master = |leader: &Option<MemberId>| nodes.iter().find(|node| Some(node.member) == *leader);
        let served: Vec<_> = leads.iter().filter_map(|(slots, leader)| Some((slots, master(leader)?))).collect();
        let replicas: Vec<&Node> = nodes.iter().filter(|node| !node.leads() && !node.failed).collect();
        self.out.array(served.len());
        for (slots, master) in served {
            self.out.array(3 + replicas.len());
            self.out.int(i64::from(*slots.start()));
            self.out.int(i64::from(*slots.end()));
            for node in [master].into_iter().chain(replicas.iter().copied()) {
                self.out.array(4);
                self.out.bulk(&node.host);
                self.out.int(i64::from(node.port));
                self.out.bulk(&node.id);
                self.out.array(0);
            }
        }
    }

    fn shards(&mut self, Map { nodes, .. }: &Map) {
        let (masters, replicas): (Vec<&Node>, Vec<&Node>) = nodes.iter().partition(|node| node.leads());
        self.out.array(masters.len());
        for master in masters {
            self.out.map(2);
            self.out.bulk("slots");
            self.out.array(2 * master.slots.len());
            for end in master.slots.iter().flat_map(|slots| [slots.start(), slots.end()]) {
                self.out.int(i64::from(*end));
            }
            self.out.bulk("nodes");
            self.out.array(1 + replicas.len());
            for node in [master].into_iter().chain(replicas.iter().copied()) {
                self.out.map(7);
                for (name, value) in [("id", &node.id), ("ip", &node.host), ("endpoint", &node.host)] {
                    self.out.bulk(name);
                    self.out.bulk(value);
                }
                self.out.bulk("port");
                self.out.int(i64::from(node.port));
                self.out.bulk("role");
                self.out.bulk(if node.leads() { "master" } else { "replica" });
                self.out.bulk("replication-offset");
                self.out.int(1);
                self.out.bulk("health");
                self.out.bulk(if node.failed { "fail" } else { "online" });
            }
        }
    }

    /// Keys of a slot, so many at most. None: an error was written.
    async fn keys_in(&mut self, number: &[u8], count: usize) -> Option<Vec<Box<[u8]>>> {
        let wanted = parse_int(number).and_then(|number| u16::try_from(number).ok()).filter(|slot| *slot < SLOTS);
        let Some(wanted) = wanted else {
            self.out.error("ERR Invalid or out of range slot");
            return None;
        };
        let place = match self.door.homes_at(self.level()).await {
            Ok(homes) if homes.shards().len() == 1 && !self.door.databases.is_cluster() => Place::default(),
            Ok(homes) => Place::of_slot(&homes, wanted),
            Err(error) => {
                self.out.error(error);
                return None;
            }
        };
        let (before, database) = (self.place.clone(), self.database);
        self.go_to(place);
        let reading = self.look().await.cloned();
        let far = match &reading {
            Some(reading) if reading.is_away() => self.ask_one(Look::KeysOfSlot(wanted, count)).await,
            _ => None,
        };
        // In a transaction what follows is about its own keys again.
        self.go_to(before);
        let mut reading = reading?;
        if reading.is_away() {
            let far = far?;
            let Some(keys) = bulks_of(&mut far.items()) else {
                self.damaged_reply();
                return None;
            };
            return Some(keys.into_iter().flatten().map(Box::from).collect());
        }
        let (now, mut found) = (reading.moment().now, Vec::new());
        for part in 0..Keyspace::PARTS {
            if found.len() >= count {
                break;
            }
            reading.read(database, |keyspace| {
                let keys = keyspace.keys_of_part(part, now).filter(|key| slot(key) == wanted);
                let left = count - found.len();
                found.extend(keys.take(left).map(Box::<[u8]>::from));
            });
            tokio::task::coop::consume_budget().await;
        }
        Some(found)
    }
}
