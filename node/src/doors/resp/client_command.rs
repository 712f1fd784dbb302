//! CLIENT: what connections say of themselves, and of each other.

use std::time::{Duration, Instant};

use loci_index::table::commands::{is, parse_int};

use super::client::{Client, Unblock};
use super::server::{WRONG_NAME, client_name};
use super::session::{Replies, Session};

/// The longest pause there is.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

const PARTS: [&str; 20] = [
    "CACHING (YES|NO)",
    "GETNAME",
    "GETREDIR",
    "ID",
    "INFO",
    "KILL <ip:port>",
    "KILL <option> <value> [<option> <value> [...]]",
    "LIST [options ...]",
    "NO-EVICT (ON|OFF)",
    "NO-TOUCH (ON|OFF)",
    "PAUSE <timeout> [WRITE|ALL]",
    "REPLY (ON|OFF|SKIP)",
    "SETINFO <option> <value>",
    "SETNAME <name>",
    "TRACKING (ON|OFF) [REDIRECT <id>] [BCAST] [PREFIX <prefix> [...]]",
    "         [OPTIN] [OPTOUT] [NOLOOP]",
    "TRACKINGINFO",
    "UNBLOCK <clientid> [TIMEOUT|ERROR]",
    "UNPAUSE",
    "",
];

/// Which clients are meant.
#[derive(Default)]
struct Chosen<'a> {
    ids: Option<Vec<u64>>,
    address: Option<&'a [u8]>,
    local: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    max_age: Option<u64>,
    skip_me: bool,
}

impl Chosen<'_> {
    fn has(&self, client: &Client, me: u64) -> bool {
        let subscribed = client.facts().subscriptions.iter().sum::<usize>() > 0;
        let kind = if subscribed { "pubsub" } else { "normal" };
        self.ids.as_ref().is_none_or(|ids| ids.contains(&client.id))
            && self.address.is_none_or(|address| client.address.to_string().as_bytes() == address)
            && self.local.is_none_or(|address| client.local.to_string().as_bytes() == address)
            && self.kind.is_none_or(|wanted| is(wanted, kind))
            && self.user.is_none_or(|user| client.facts().user.as_bytes() == user)
            && self.max_age.is_none_or(|age| client.since.elapsed().as_secs() >= age)
            && !(self.skip_me && client.id == me)
    }
}

fn ids(words: &[&[u8]]) -> Option<Vec<u64>> {
    let ids = words.iter().map(|id| parse_int(id).filter(|id| *id > 0).map(|id| id as u64));
    ids.collect::<Option<Vec<u64>>>().filter(|ids| !ids.is_empty())
}

impl Session {
    /// CLIENT.
    pub async fn client_command(&mut self, args: &[&[u8]]) {
        let (what, rest) = (args[1], &args[2..]);
        match rest {
            [] if is(what, "id") => self.out.int(self.client.id as i64),
            [] if is(what, "getname") => {
                let name = self.client.facts().name.clone();
                self.out.bulk_or_null((!name.is_empty()).then_some(name));
            }
            [name] if is(what, "setname") => match client_name(name) {
                Some(name) => {
                    self.client.facts().name = name;
                    self.out.ok();
                }
                None => self.out.error(WRONG_NAME),
            },
            [option, value] if is(what, "setinfo") => self.set_info(option, value),
            [] if is(what, "info") => {
                self.tell(0, 0);
                let line = self.client.line();
                self.out.verbatim(*b"txt", format!("{line}\n"));
            }
            _ if is(what, "list") => self.list(rest),
            _ if is(what, "kill") && !rest.is_empty() => self.kill(rest),
            [word] if is(what, "reply") => match () {
                () if is(word, "on") => {
                    self.replies = Replies::On;
                    self.out.ok();
                }
                () if is(word, "off") => self.replies = Replies::Off,
                () if is(word, "skip") => {
                    if self.replies == Replies::On {
                        self.replies = Replies::SkipNext;
                    }
                }
                () => self.out.error("ERR syntax error"),
            },
            [word] if is(what, "no-evict") || is(what, "no-touch") => {
                let on = match () {
                    () if is(word, "on") => true,
                    () if is(word, "off") => false,
                    () => return self.out.error("ERR syntax error"),
                };
                let mut facts = self.client.facts();
                *(if is(what, "no-evict") { &mut facts.no_evict } else { &mut facts.no_touch }) = on;
                drop(facts);
                self.out.ok();
            }
            [id] if is(what, "unblock") => self.unblock(id, Unblock::Timeout),
            [id, how] if is(what, "unblock") && is(how, "timeout") => self.unblock(id, Unblock::Timeout),
            [id, how] if is(what, "unblock") && is(how, "error") => self.unblock(id, Unblock::Error),
            [_, _] if is(what, "unblock") => {
                self.out.error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
            }
            [millis, mode @ ..] if is(what, "pause") => self.pause(millis, mode),
            [] if is(what, "unpause") => {
                self.door.unpause();
                self.out.ok();
            }
            [_, ..] if is(what, "tracking") => self.track(args).await,
            [] if is(what, "trackinginfo") => self.tracking_info(),
            [word] if is(what, "caching") => self.caching(word),
            [] if is(what, "getredir") => self.redirection(),
            [] if is(what, "help") => self.help("CLIENT", &PARTS[..PARTS.len() - 1]),
            _ => self.no_part("CLIENT", what),
        }
    }

    fn set_info(&mut self, option: &[u8], value: &[u8]) {
        let Ok(value) = std::str::from_utf8(value) else { return self.out.error("ERR value is not valid") };
        if value.len() > 512 || value.chars().any(|c| !('!'..='~').contains(&c)) {
            let option = String::from_utf8_lossy(option).to_lowercase();
            return self.out.error(format!("ERR {option} cannot contain spaces, newlines or special characters."));
        }
        let mut facts = self.client.facts();
        match () {
            () if is(option, "lib-name") => facts.library = value.into(),
            () if is(option, "lib-ver") => facts.library_version = value.into(),
            () => {
                drop(facts);
                let option = String::from_utf8_lossy(&option[..option.len().min(128)]).into_owned();
                return self.out.error(format!("ERR Unrecognized option '{option}'"));
            }
        }
        drop(facts);
        self.out.ok();
    }

    fn list(&mut self, rest: &[&[u8]]) {
        let chosen = match rest {
            [] => Chosen::default(),
            [word, kind] if is(word, "type") => {
                if !["normal", "master", "replica", "slave", "pubsub"].iter().any(|known| is(kind, known)) {
                    let kind = String::from_utf8_lossy(kind).into_owned();
                    return self.out.error(format!("ERR Unknown client type '{kind}'"));
                }
                Chosen { kind: Some(*kind), ..Chosen::default() }
            }
            [word, all @ ..] if is(word, "id") => match ids(all) {
                Some(ids) => Chosen { ids: Some(ids), ..Chosen::default() },
                None => return self.out.error("ERR Invalid client ID"),
            },
            _ => return self.out.error("ERR syntax error"),
        };
        self.tell(0, 0);
        let (all, me) = (self.door.clients.all(), self.client.id);
        let lines = all.iter().filter(|client| chosen.has(client, me)).map(|client| client.line() + "\n");
        self.out.verbatim(*b"txt", lines.collect::<String>());
    }

    fn kill(&mut self, rest: &[&[u8]]) {
        let mut chosen = Chosen { skip_me: true, ..Chosen::default() };
        let old = rest.len() == 1;
        if old {
            (chosen.address, chosen.skip_me) = (Some(rest[0]), false);
        } else {
            if !rest.len().is_multiple_of(2) {
                return self.out.error("ERR syntax error");
            }
            for pair in rest.chunks_exact(2) {
                let value = pair[1];
                match pair[0] {
                    word if is(word, "id") => match ids(&[value]) {
                        Some(ids) => chosen.ids = Some(ids),
                        None => return self.out.error("ERR client-id should be greater than 0"),
                    },
                    word if is(word, "addr") => chosen.address = Some(value),
                    word if is(word, "laddr") => chosen.local = Some(value),
                    word if is(word, "type") => {
                        if !["normal", "master", "replica", "slave", "pubsub"].iter().any(|known| is(value, known)) {
                            let kind = String::from_utf8_lossy(value).into_owned();
                            return self.out.error(format!("ERR Unknown client type '{kind}'"));
                        }
                        chosen.kind = Some(value);
                    }
                    word if is(word, "user") => {
                        let known = std::str::from_utf8(value).is_ok_and(|name| self.door.users.get(name).is_some());
                        if !known {
                            let name = String::from_utf8_lossy(value).into_owned();
                            return self.out.error(format!("ERR No such user '{name}'"));
                        }
                        chosen.user = Some(value);
                    }
                    word if is(word, "maxage") => match parse_int(value).filter(|age| *age > 0) {
                        Some(age) => chosen.max_age = Some(age as u64),
                        None => return self.out.error("ERR maxage is not an integer or out of range"),
                    },
                    word if is(word, "skipme") => match value {
                        value if is(value, "yes") => chosen.skip_me = true,
                        value if is(value, "no") => chosen.skip_me = false,
                        _ => return self.out.error("ERR syntax error"),
                    },
                    _ => return self.out.error("ERR syntax error"),
                }
            }
        }
        let (mut killed, me) = (0, self.client.id);
        for client in self.door.clients.all().iter().filter(|client| chosen.has(client, me)) {
            killed += 1;
            if client.id == me {
                self.closing = true;
            } else {
                client.kill();
            }
        }
        match (old, killed) {
            (true, 0) => self.out.error("ERR No such client"),
            (true, _) => self.out.ok(),
            (false, killed) => self.out.int(killed),
        }
    }

    fn unblock(&mut self, id: &[u8], how: Unblock) {
        let Some(id) = parse_int(id) else {
            return self.out.error("ERR value is not an integer or out of range");
        };
        let unblocked = self.door.clients.get(id as u64).is_some_and(|client| client.unblock(how));
        self.out.int(i64::from(unblocked));
    }

    fn pause(&mut self, millis: &[u8], mode: &[&[u8]]) {
        let Some(millis) = parse_int(millis) else {
            return self.out.error("ERR timeout is not an integer or out of range");
        };
        if millis < 0 {
            return self.out.error("ERR timeout is negative");
        }
        let writes_only = match mode {
            [] => false,
            [word] if is(word, "all") => false,
            [word] if is(word, "write") => true,
            _ => return self.out.error("ERR CLIENT PAUSE mode must be WRITE or ALL"),
        };
        let pause = Duration::from_millis(millis as u64).min(PAUSE_MAX);
        self.door.pause(Instant::now() + pause, writes_only);
        self.out.ok();
    }
}
