//! Subscriptions. A message goes through the log, and every node hands it to its own subscribers: see [`hub`](super::hub).

use loci_index::table::commands::is;

use super::hub::Kind;
use super::session::{SUBSCRIPTIONS_MAX, Session};

const KINDS: [Kind; 3] = [Kind::Channel, Kind::Pattern, Kind::Sharded];

fn place(kind: Kind) -> usize {
    KINDS.iter().position(|known| *known == kind).unwrap_or(0)
}

impl Session {
    /// What replies count: sharded channels apart from all others.
    fn counted(&self, kind: Kind) -> usize {
        match kind {
            Kind::Sharded => self.subscriptions[2].len(),
            _ => self.subscriptions[0].len() + self.subscriptions[1].len(),
        }
    }

    fn tell_subscriptions(&self) {
        self.client.facts().subscriptions = [0, 1, 2].map(|place| self.subscriptions[place].len());
    }

    /// SUBSCRIBE and its like.
    pub fn subscribe(&mut self, kind: Kind, names: &[&[u8]]) {
        let word = match kind {
            Kind::Channel => "subscribe",
            Kind::Pattern => "psubscribe",
            Kind::Sharded => "ssubscribe",
        };
        // Whoever only listens has the door hear of what happens as well. Where it cannot yet, the next who asks does.
        let _ = self.door.homes();
        for name in names {
            if self.subscribed() >= SUBSCRIPTIONS_MAX {
                return self.out.error("ERR too many subscriptions");
            }
            if self.subscriptions[place(kind)].insert(Box::from(*name)) {
                self.door.hub.subscribe(kind, name, &self.client);
            }
            self.out.push(3);
            self.out.bulk(word);
            self.out.bulk(name);
            let count = self.counted(kind);
            self.out.int(count as i64);
        }
        self.tell_subscriptions();
    }

    /// UNSUBSCRIBE and its like; without names from all.
    pub fn unsubscribe(&mut self, kind: Kind, names: &[&[u8]]) {
        let word = match kind {
            Kind::Channel => "unsubscribe",
            Kind::Pattern => "punsubscribe",
            Kind::Sharded => "sunsubscribe",
        };
        let all: Vec<Box<[u8]>>;
        let names: Vec<&[u8]> = if names.is_empty() {
            all = self.subscriptions[place(kind)].iter().cloned().collect();
            all.iter().map(|name| &**name).collect()
        } else {
            names.to_vec()
        };
        if names.is_empty() {
            self.out.push(3);
            self.out.bulk(word);
            self.out.null();
            let count = self.counted(kind);
            self.out.int(count as i64);
        }
        for name in names {
            if self.subscriptions[place(kind)].remove(name) {
                self.door.hub.unsubscribe(kind, name, &self.client);
            }
            self.out.push(3);
            self.out.bulk(word);
            self.out.bulk(name);
            let count = self.counted(kind);
            self.out.int(count as i64);
        }
        self.tell_subscriptions();
    }

    /// From everything, without a word.
    pub fn unsubscribe_all(&mut self) {
        for kind in KINDS {
            for name in std::mem::take(&mut self.subscriptions[place(kind)]) {
                self.door.hub.unsubscribe(kind, &name, &self.client);
            }
        }
        self.tell_subscriptions();
    }

    /// PUBSUB.
    pub fn pubsub(&mut self, args: &[&[u8]]) {
        let hub = &self.door.hub;
        let what = args[1];
        match () {
            () if (is(what, "channels") || is(what, "shardchannels")) && args.len() <= 3 => {
                let channels = hub.channels(args.get(2).copied(), is(what, "shardchannels"));
                self.out.array(channels.len());
                channels.iter().for_each(|channel| self.out.bulk(channel));
            }
            () if is(what, "numsub") || is(what, "shardnumsub") => {
                let counts: Vec<usize> =
                    args[2..].iter().map(|channel| hub.subscribers(channel, is(what, "shardnumsub"))).collect();
                self.out.array(2 * counts.len());
                for (channel, count) in args[2..].iter().zip(counts) {
                    self.out.bulk(channel);
                    self.out.int(count as i64);
                }
            }
            () if is(what, "numpat") && args.len() == 2 => {
                let patterns = hub.counts()[1];
                self.out.int(patterns as i64);
            }
            () if is(what, "help") && args.len() == 2 => {
                self.help(
                    "PUBSUB",
                    &[
                        "CHANNELS [<pattern>]",
                        "NUMPAT",
                        "NUMSUB [<channel> ...]",
                        "SHARDCHANNELS [<pattern>]",
                        "SHARDNUMSUB [<shardchannel> ...]",
                    ],
                );
            }
            () => self.no_part("PUBSUB", what),
        }
    }
}
