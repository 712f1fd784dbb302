//! Caches in clients: CLIENT TRACKING, and who is told of which keys.
//!
//! ```text
//!   TRACKING --> CACHING yes | no --> one call, or all of one transaction: its keys are remembered before it is carried out
//! ```
//!
//! What a script reads is known only where the log carries it out: the keys that it was given stand for that.

use std::collections::HashSet;
use std::sync::Arc;

use loci_index::table::commands::{Keys, Run, is, parse_int};
use loci_wire::resp::Protocol;

use super::commands::{Command, Do, Way};
use super::hub::Tracker;
use super::session::Session;

/// The most prefixes of one client.
const PREFIXES_MAX: usize = 1 << 12;

/// How a client wants to be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tracking {
    broadcast: bool,
    prefixes: Vec<Box<[u8]>>,
    /// Only keys of calls after `CLIENT CACHING YES`.
    opt_in: bool,
    /// All but keys of calls after `CLIENT CACHING NO`.
    opt_out: bool,
    no_loop: bool,
    redirect: Option<u64>,
    /// What was said of the next call, or of the transaction that is being gathered.
    caching: Option<bool>,
}

/// The places of the keys of which a client may keep what a call says.
fn kept_places(command: Command, args: &[&[u8]]) -> Vec<usize> {
    match (command.way, command.spec.run, command.spec.keys) {
        (Way::Door(Do::Memory), ..) if is(args[1], "usage") => vec![2],
        (_, Run::Read(_), _) | (_, Run::Script, Keys::Counted(..)) => command.spec.key_places(args),
        _ => Vec::new(),
    }
}

impl Session {
    /// Whether its own changes are not told to it.
    pub fn wants_no_loop(&self) -> bool {
        self.tracking.as_ref().is_some_and(|tracking| tracking.no_loop)
    }

    /// Says which keys it is changing just now.
    pub fn writing(&self, keys: HashSet<Box<[u8]>>) {
        if let Some(tracker) = &self.tracker
            && self.wants_no_loop()
        {
            tracker.set_writing(keys);
        }
    }

    /// It may keep what this call reads: to be said before it is carried out.
    pub fn remember_reads(&mut self, command: Command, args: &[&[u8]]) {
        let Some(tracking) = &self.tracking else { return };
        let wanted = match (tracking.opt_in, tracking.opt_out) {
            (true, _) => tracking.caching == Some(true),
            (_, true) => tracking.caching != Some(false),
            _ => true,
        };
        if !wanted || tracking.broadcast {
            return;
        }
        let places = kept_places(command, args);
        if !places.is_empty() {
            let keys = places.into_iter().filter_map(|place| args.get(place).copied());
            self.door.hub.reads(self.client.id, keys);
            // Whatever was read before this may be older than what it will be told of.
            self.read_anew();
        }
    }

    /// A call is over: `CLIENT CACHING` counts for one, unless that begins or goes on with a transaction, or is `CLIENT` itself.
    pub fn caching_ends(&mut self, command: Option<Command>) {
        let is_client = command.is_some_and(|command| command.way == Way::Door(Do::Client));
        if let Some(tracking) = &mut self.tracking
            && self.gathered.is_none()
            && !is_client
        {
            tracking.caching = None;
        }
    }

    /// It is told no longer.
    pub fn track_no_more(&mut self) {
        if self.tracking.take().is_some() {
            self.tracker = None;
            self.door.hub.track_no_more(self.client.id);
            let mut facts = self.client.facts();
            (facts.tracking, facts.redirect) = (false, None);
        }
    }

    /// CLIENT TRACKING.
    pub async fn track(&mut self, args: &[&[u8]]) {
        match self.tracking_from(args) {
            Ok(None) => {
                self.track_no_more();
                self.out.ok();
            }
            Ok(Some(tracking)) => {
                let redirect = tracking.redirect.and_then(|id| self.door.clients.get(id));
                let tracker = Arc::new(Tracker::new(self.client.clone(), redirect, tracking.no_loop));
                let prefixes = tracking.broadcast.then_some(&*tracking.prefixes);
                self.door.hub.track(tracker.clone(), prefixes);
                self.tracker = Some(tracker);
                {
                    let mut facts = self.client.facts();
                    (facts.tracking, facts.redirect) = (true, tracking.redirect);
                }
                self.tracking = Some(tracking);
                self.door.hub.heard(None).await;
                self.out.ok();
            }
            Err(error) => self.out.error(error),
        }
    }

    fn tracking_from(&self, args: &[&[u8]]) -> Result<Option<Tracking>, String> {
        let on = match args.get(2) {
            Some(word) if is(word, "on") => true,
            Some(word) if is(word, "off") => false,
            _ => return Err("ERR syntax error".into()),
        };
        let mut wanted = Tracking::default();
        let mut words = args[3..].iter();
        while let Some(word) = words.next() {
            match () {
                () if is(word, "bcast") => wanted.broadcast = true,
                () if is(word, "optin") => wanted.opt_in = true,
                () if is(word, "optout") => wanted.opt_out = true,
                () if is(word, "noloop") => wanted.no_loop = true,
                () if is(word, "prefix") => {
                    let prefix = words.next().ok_or("ERR syntax error")?;
                    if wanted.prefixes.len() >= PREFIXES_MAX {
                        return Err("ERR too many prefixes".into());
                    }
                    wanted.prefixes.push(Box::from(*prefix));
                }
                () if is(word, "redirect") => {
                    let id = words.next().and_then(|id| parse_int(id)).ok_or("ERR syntax error")? as u64;
                    if wanted.redirect.is_some() {
                        return Err("ERR A client can only redirect to a single other client".into());
                    }
                    if self.door.clients.get(id).is_none() {
                        return Err("ERR The client ID you want redirect to does not exist".into());
                    }
                    wanted.redirect = Some(id);
                }
                () => return Err("ERR syntax error".into()),
            }
        }
        if !on {
            return Ok(None);
        }
        if !wanted.broadcast && !wanted.prefixes.is_empty() {
            return Err("ERR PREFIX option requires BCAST mode to be enabled".into());
        }
        if let Some(before) = &self.tracking {
            if before.broadcast != wanted.broadcast {
                return Err(
                    "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it \
                     with a different mode."
                        .into(),
                );
            }
            if (wanted.opt_in || wanted.opt_out) && (before.opt_in, before.opt_out) != (wanted.opt_in, wanted.opt_out) {
                return Err(
                    "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it \
                     with a different mode."
                        .into(),
                );
            }
            wanted.prefixes.extend(before.prefixes.iter().cloned());
        }
        if wanted.broadcast && (wanted.opt_in || wanted.opt_out) {
            return Err("ERR OPTIN and OPTOUT are not compatible with BCAST".into());
        }
        if wanted.opt_in && wanted.opt_out {
            return Err("ERR You can't specify both OPTIN mode and OPTOUT mode".into());
        }
        wanted.prefixes.sort_unstable();
        wanted.prefixes.dedup();
        for (place, prefix) in wanted.prefixes.iter().enumerate() {
            if let Some(other) = wanted.prefixes[place + 1..].iter().find(|other| other.starts_with(prefix)) {
                let [prefix, other] = [prefix, other].map(|prefix| String::from_utf8_lossy(prefix).into_owned());
                return Err(format!(
                    "ERR Prefix '{other}' overlaps with an existing prefix '{prefix}'. Prefixes for a single client must not \
                     overlap."
                ));
            }
        }
        if wanted.broadcast && wanted.prefixes.is_empty() {
            wanted.prefixes.push(Box::default());
        }
        if wanted.redirect.is_none() && self.out.protocol() == Protocol::Two {
            // It could not be told; as with Redis, it is not refused.
            tracing::debug!(client = self.client.id, "a client of protocol 2 wants to hear of changes itself");
        }
        Ok(Some(wanted))
    }

    /// CLIENT CACHING.
    pub fn caching(&mut self, word: &[u8]) {
        match self.set_caching(word) {
            Ok(()) => self.out.ok(),
            Err(error) => self.out.error(error),
        }
    }

    /// The same, without an answer.
    pub fn set_caching(&mut self, word: &[u8]) -> Result<(), &'static str> {
        let tracking = self.tracking.as_mut().ok_or(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        )?;
        match () {
            () if is(word, "yes") && tracking.opt_in => tracking.caching = Some(true),
            () if is(word, "yes") => {
                return Err("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.");
            }
            () if is(word, "no") && tracking.opt_out => tracking.caching = Some(false),
            () if is(word, "no") => {
                return Err("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.");
            }
            () => return Err("ERR syntax error"),
        }
        Ok(())
    }

    /// CLIENT GETREDIR.
    pub fn redirection(&mut self) {
        let id = match &self.tracking {
            None => -1,
            Some(tracking) => tracking.redirect.map_or(0, |id| id as i64),
        };
        self.out.int(id);
    }

    /// CLIENT TRACKINGINFO.
    pub fn tracking_info(&mut self) {
        let tracking = self.tracking.clone();
        let mut flags = Vec::new();
        match &tracking {
            None => flags.push("off"),
            Some(tracking) => {
                flags.push("on");
                for (is, flag) in [
                    (tracking.broadcast, "bcast"),
                    (tracking.opt_in, "optin"),
                    (tracking.opt_out, "optout"),
                    (tracking.caching == Some(true), "caching-yes"),
                    (tracking.caching == Some(false), "caching-no"),
                    (tracking.no_loop, "noloop"),
                    (tracking.redirect.is_some_and(|id| self.door.clients.get(id).is_none()), "broken_redirect"),
                ] {
                    if is {
                        flags.push(flag);
                    }
                }
            }
        }
        self.out.map(3);
        self.out.bulk("flags");
        self.out.set(flags.len());
        flags.iter().for_each(|flag| self.out.bulk(flag));
        self.out.bulk("redirect");
        let redirect = tracking.as_ref().map_or(-1, |tracking| tracking.redirect.map_or(0, |id| id as i64));
        self.out.int(redirect);
        self.out.bulk("prefixes");
        let prefixes = tracking.map(|tracking| tracking.prefixes).unwrap_or_default();
        self.out.array(prefixes.len());
        prefixes.iter().for_each(|prefix| self.out.bulk(prefix));
    }
}
