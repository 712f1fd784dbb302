//! SLOWLOG and LATENCY: what took long, as tools ask for it.

use loci_index::table::commands::{is, parse_int};

use super::commands;
use super::session::Session;
use super::slow::Samples;

/// What SLOWLOG GET gives where it is not asked for a number.
const USUAL: usize = 10;
/// Of LATENCY GRAPH.
const GRAPH_WIDTH: usize = 80;

impl Session {
    /// SLOWLOG.
    pub fn slow_log(&mut self, args: &[&[u8]]) {
        let (what, rest) = (args[1], &args[2..]);
        match rest {
            [] | [_] if is(what, "get") => {
                let count = match rest.first().map(|count| parse_int(count)) {
                    None => USUAL,
                    Some(Some(-1)) => usize::MAX,
                    Some(Some(count)) if count >= 0 => count as usize,
                    Some(_) => return self.out.error("ERR count should be greater than or equal to -1"),
                };
                let entries = self.door.slow.entries(count);
                self.out.array(entries.len());
                for entry in entries {
                    self.out.array(6);
                    for number in [entry.id, entry.at, entry.micros] {
                        self.out.int(number as i64);
                    }
                    self.out.array(entry.args.len());
                    entry.args.iter().for_each(|arg| self.out.bulk(arg));
                    self.out.bulk(entry.address.to_string());
                    self.out.bulk(entry.name);
                }
            }
            [] if is(what, "len") => {
                let count = self.door.slow.len();
                self.out.int(count as i64);
            }
            [] if is(what, "reset") => {
                self.door.slow.clear();
                self.out.ok();
            }
            [] if is(what, "help") => self.help("SLOWLOG", &["GET [<count>]", "LEN", "RESET"]),
            _ => self.no_part("SLOWLOG", what),
        }
    }

    /// LATENCY.
    pub fn latency(&mut self, args: &[&[u8]]) {
        let (what, rest) = (args[1], &args[2..]);
        match rest {
            [] if is(what, "latest") => {
                let samples = self.door.slow.samples();
                self.out.array(samples.len());
                for (event, samples) in samples {
                    let (at, millis) = samples.all.back().copied().unwrap_or_default();
                    self.out.array(4);
                    self.out.bulk(event);
                    [at, millis, samples.worst].iter().for_each(|number| self.out.int(*number as i64));
                }
            }
            [event] if is(what, "history") => {
                let samples = self.samples_of(event);
                self.out.array(samples.all.len());
                for (at, millis) in samples.all {
                    self.out.array(2);
                    self.out.int(at as i64);
                    self.out.int(millis as i64);
                }
            }
            events if is(what, "reset") => {
                let count = self.door.slow.forget(events);
                self.out.int(count as i64);
            }
            names if is(what, "histogram") => self.histogram(names),
            [] if is(what, "doctor") => {
                let samples = self.door.slow.samples();
                let text = match (samples.is_empty(), &*self.door.settings.get("latency-monitor-threshold")) {
                    (_, "0") => {
                        "I'm sorry, Dave, I can't do that. Latency monitoring is disabled in this instance. You may use \
                         \"CONFIG SET latency-monitor-threshold <milliseconds>.\" in order to enable it.\n"
                            .to_owned()
                    }
                    (true, _) => "No latency spike was seen since the samples were reset.\n".to_owned(),
                    (false, _) => {
                        let lines = samples.iter().map(|(event, samples)| {
                            format!("{event}: {} spikes, the worst of {} ms\n", samples.all.len(), samples.worst)
                        });
                        format!("{}See SLOWLOG GET for the commands.\n", lines.collect::<String>())
                    }
                };
                self.out.verbatim(*b"txt", text);
            }
            [event] if is(what, "graph") => {
                let samples = self.samples_of(event);
                let event = String::from_utf8_lossy(event).into_owned();
                match samples.all.is_empty() {
                    true => self.out.error(format!("ERR No samples available for event '{event}'")),
                    false => self.out.verbatim(*b"txt", graph(&event, &samples)),
                }
            }
            [] if is(what, "help") => {
                self.help(
                    "LATENCY",
                    &[
                        "DOCTOR",
                        "GRAPH <event>",
                        "HISTOGRAM [COMMAND ...]",
                        "HISTORY <event>",
                        "LATEST",
                        "RESET [<event> ...]",
                    ],
                );
            }
            _ => self.no_part("LATENCY", what),
        }
    }

    fn samples_of(&self, event: &[u8]) -> Samples {
        let all = self.door.slow.samples();
        all.into_iter().find(|(known, _)| is(event, known)).map(|(_, samples)| samples).unwrap_or_default()
    }

    /// How long commands took: of those that are named, or of all.
    fn histogram(&mut self, names: &[&[u8]]) {
        let door = self.door.clone();
        let used = door.stats.used();
        let wanted: Vec<_> = match names {
            [] => used,
            names => {
                let named: Vec<_> = names.iter().filter_map(|name| commands::find(name)).collect();
                let is_named = |name: &str| named.iter().any(|command| command.spec.name == name);
                used.into_iter().filter(|(name, _)| is_named(name)).collect()
            }
        };
        let all: Vec<_> = wanted.into_iter().map(|(name, stat)| (name, stat.histogram())).collect();
        let all: Vec<_> = all.into_iter().filter(|(_, histogram)| !histogram.is_empty()).collect();
        self.out.map(all.len());
        for (name, histogram) in all {
            self.out.bulk(name);
            self.out.map(2);
            self.out.bulk("calls");
            self.out.int(histogram.last().map_or(0, |(_, sum)| *sum) as i64);
            self.out.bulk("histogram_usec");
            self.out.map(histogram.len());
            for (micros, sum) in histogram {
                self.out.int(micros as i64);
                self.out.int(sum as i64);
            }
        }
    }
}

/// A bar for each sample, the newest last.
fn graph(event: &str, samples: &Samples) -> String {
    let shown: Vec<u64> = samples.all.iter().rev().take(GRAPH_WIDTH).map(|(_, millis)| *millis).rev().collect();
    let (high, low) = (shown.iter().max().copied().unwrap_or(0), shown.iter().min().copied().unwrap_or(0));
    let bars = b"_.-`";
    let place = |millis: u64| ((millis - low) * 3 / (high - low).max(1)) as usize;
    let line: String = shown.iter().map(|millis| char::from(bars[place(*millis)])).collect();
    format!("{event} - high {high} ms, low {low} ms (all time high {} ms)\n{}\n{line}\n", samples.worst, "-".repeat(80))
}
