//! Holders of a lease, and of the lock that clients of Redis make by `SET NX PX`, who stand still for longer than it lasts
//! while the node that leads is killed: nobody's write is accepted after that of a later holder.
//!
//! ```text
//!   holders: processes of their own   acquire, wait, write as if it were still theirs, release --> any node of three
//!   this test    stop the holder --> kill the leader --> another holds it --> the holder goes on, the node comes back
//! ```
//!
//! Every accepted write stands in one list, with who made it. Each holder notes down what it was answered; what stands in the
//! list must explain all of it.
//!
//! | setting | what |
//! |---|---|
//! | `LOCI_KILLS=N` | how many leaders are killed, 3 unless said otherwise |

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use loci_tests::chance::Chance;
use loci_tests::cluster::{Cluster, Plan};
use loci_tests::process::PATIENCE;
use loci_tests::resp::{Client, text};
use loci_tests::{say, seed, setting};
use loci_wire::resp::Reply;
use rustix::process::{Pid, Signal, kill_process};

const HOLDERS: usize = 3;
/// So long a lease or a lock lasts.
const LASTS: Duration = Duration::from_millis(300);
/// What a process that plays a holder is told.
const TOLD: &str = "LOCI_HOLDER";

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A lease, whose number fences writes.
    Lease,
    /// The lock of clients of Redis: a key with a token of the holder, which a script looks at before it writes.
    Lock,
}

const WRITE: &str =
    "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('rpush',KEYS[2],ARGV[2]) else return 0 end";
const RELEASE: &str = "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end";

/// What became of a write.
enum Fate {
    Done,
    /// It came too late.
    Refused,
    /// Nobody knows.
    Open,
}

/// A holder, in its own process.
struct Holder {
    name: String,
    /// The file that says where the nodes' doors are.
    doors: PathBuf,
    /// What it was answered.
    notes: std::fs::File,
    chance: Chance,
    connection: Option<Client>,
}

impl Holder {
    /// Calls, all sent at once: the last reply. None: the connection broke, or there was none.
    fn last(&mut self, calls: &[Vec<String>]) -> Option<Reply> {
        if self.connection.is_none() {
            let doors = std::fs::read_to_string(&self.doors).expect("the file is there");
            let doors: Vec<&str> = doors.lines().collect();
            self.connection = Client::open(doors[self.chance.index(doors.len())]);
        }
        let Some(connection) = &mut self.connection else {
            self.pause(20);
            return None;
        };
        let mut last = None;
        let whole = connection.send(calls)
            && calls.iter().all(|_| {
                last = connection.reply();
                last.is_some()
            });
        if !whole {
            self.connection = None;
            return None;
        }
        last
    }

    fn line(&mut self, line: &str) -> Option<Reply> {
        self.last(&[words(line)])
    }

    fn pause(&mut self, below_millis: u64) {
        std::thread::sleep(Duration::from_millis(self.chance.below(below_millis)));
    }

    fn note(&mut self, line: &str) {
        // One write for one line: it is there whenever this process is killed.
        self.notes.write_all(format!("{line}\n").as_bytes()).expect("a file can be written");
    }

    /// Acquires; what proves that it did.
    fn acquire(&mut self, kind: Kind, turn: u64) -> Option<String> {
        let millis = LASTS.as_millis();
        match kind {
            Kind::Lease => match self.line(&format!("LEASE.ACQUIRE held {} {millis}", self.name))? {
                Reply::Int(number) => Some(number.to_string()),
                _ => None,
            },
            Kind::Lock => {
                let token = format!("{}.{turn}", self.name);
                let reply = self.line(&format!("SET held {token} NX PX {millis}"))?;
                (text(&reply) == "OK").then_some(token)
            }
        }
    }

    /// Writes on the condition that it still holds it, and, under a lease, that nobody changed what it had read.
    fn write(&mut self, kind: Kind, proof: &str, entry: &str) -> Fate {
        if kind == Kind::Lock {
            let call = ["EVAL", WRITE, "2", "held", "journal", proof, entry].map(String::from).to_vec();
            return match self.last(&[call]) {
                Some(Reply::Int(0)) => Fate::Refused,
                Some(Reply::Int(_)) => Fate::Done,
                _ => Fate::Open,
            };
        }
        let (version, count) = match self.line("VERSION.GET count") {
            Some(Reply::Array(parts)) => match &parts[..] {
                [Reply::Int(version), Reply::Bulk(count)] => {
                    (*version, String::from_utf8_lossy(count).parse::<u64>().expect("a number"))
                }
                [Reply::Int(0), Reply::Null] => (0, 0),
                other => panic!("{other:?}"),
            },
            _ => return Fate::Open,
        };
        if self.chance.percent(20) {
            self.pause(2 * LASTS.as_millis() as u64);
        }
        let calls = [
            "MULTI".to_string(),
            format!("LEASE.FENCE held {proof}"),
            format!("VERSION.IF count {version}"),
            format!("SET count {}", count + 1),
            format!("RPUSH journal {entry}"),
            "EXEC".into(),
        ];
        match self.last(&calls.map(|line| words(&line))) {
            Some(Reply::Array(_)) => Fate::Done,
            Some(Reply::Error(error)) if error.starts_with(b"FENCED") || error.starts_with(b"CONFLICT") => {
                Fate::Refused
            }
            _ => Fate::Open,
        }
    }

    fn release(&mut self, kind: Kind, proof: &str) {
        let call = match kind {
            Kind::Lease => words(&format!("LEASE.RELEASE held {proof}")),
            Kind::Lock => ["EVAL", RELEASE, "1", "held", proof].map(String::from).to_vec(),
        };
        if let Some(Reply::Int(0)) = self.last(&[call]) {
            self.note("late");
        }
    }

    /// Goes on until it is killed.
    fn run(mut self, kind: Kind) -> ! {
        for turn in 0.. {
            let Some(proof) = self.acquire(kind, turn) else {
                self.pause(40);
                continue;
            };
            self.note(&format!("held {proof}"));
            for step in 0..1 + self.chance.below(8) {
                match self.chance.below(6) {
                    // It lets its time pass.
                    0 => self.pause(2 * LASTS.as_millis() as u64),
                    _ => self.pause(30),
                }
                if kind == Kind::Lease && self.chance.percent(30) {
                    // Whatever the answer: a holder that does not look is what fences are for.
                    self.line(&format!("LEASE.RENEW held {proof} {}", LASTS.as_millis()));
                }
                let entry = format!("{proof}:{}:{step}", self.name);
                match self.write(kind, &proof, &entry) {
                    Fate::Done => self.note(&format!("wrote {entry}")),
                    Fate::Refused => {
                        self.note("refused");
                        break;
                    }
                    Fate::Open => {}
                }
            }
            if self.chance.percent(60) {
                self.release(kind, &proof);
            }
        }
        unreachable!("it is killed before")
    }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(String::from).collect()
}

/// Not a test by itself: what a process does that the tests below start.
#[test]
fn a_holder_that_is_started_by_the_tests() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let told: Vec<&str> = told.split(',').collect();
    let [kind, name, seed, doors, notes] = told[..] else { panic!("{told:?}") };
    let notes = std::fs::OpenOptions::new().create(true).append(true).open(notes).expect("a file can be made");
    let chance = Chance::new(seed.parse().expect("a number"));
    let holder = Holder { name: name.into(), doors: doors.into(), notes, chance, connection: None };
    holder.run(if kind == "lease" { Kind::Lease } else { Kind::Lock })
}

/// A holder's process, from outside. Killed with this.
struct Process(Child);

impl Process {
    fn start(kind: Kind, number: usize, chance: &mut Chance, folder: &Path) -> Process {
        let kind = if kind == Kind::Lease { "lease" } else { "lock" };
        let (doors, notes) = (folder.join("doors"), folder.join(format!("notes-{number}")));
        let seed = chance.next_u64();
        let told = format!("{kind},{},{seed},{},{}", name(number), doors.display(), notes.display());
        let mut command = Command::new(std::env::current_exe().expect("a running test has a path"));
        command.args(["a_holder_that_is_started_by_the_tests", "--exact", "--nocapture"]).env(TOLD, told);
        Process(command.stdout(Stdio::null()).spawn().expect("it starts"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id() as i32).expect("not zero"), signal).expect("it runs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn name(number: usize) -> String {
    format!("holder-{number}")
}

/// Writes down where the doors of the nodes that run are.
fn tell_doors(cluster: &Cluster, folder: &Path) {
    let doors: Vec<&str> = cluster.nodes.iter().flatten().filter_map(|node| node.resp.as_deref()).collect();
    let (new, old) = (folder.join("doors-new"), folder.join("doors"));
    std::fs::write(&new, doors.join("\n")).expect("a file can be written");
    std::fs::rename(new, old).expect("a file can be renamed");
}

/// Asks nodes that run until one answers with something else than an error.
fn ask(cluster: &Cluster, line: &str) -> Reply {
    let begun = Instant::now();
    loop {
        for door in cluster.nodes.iter().flatten().filter_map(|node| node.resp.as_deref()) {
            let Some(mut client) = Client::open(door) else { continue };
            if client.send(&[words(line)])
                && let Some(reply) = client.reply()
                && !matches!(reply, Reply::Error(_))
            {
                return reply;
            }
        }
        assert!(begun.elapsed() < PATIENCE, "{line}: nobody answers\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until somebody holds it, not this one; who.
fn wait_holder(cluster: &Cluster, kind: Kind, but: Option<usize>) -> usize {
    let line = if kind == Kind::Lease { "LEASE.GET held" } else { "GET held" };
    let begun = Instant::now();
    loop {
        let held = text(&ask(cluster, line));
        let holder = (0..HOLDERS).find(|number| held.contains(&name(*number)));
        if let Some(holder) = holder.filter(|holder| Some(*holder) != but) {
            return holder;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody holds it: {held}\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What all holders noted down.
#[derive(Default)]
struct Notes {
    wrote: Vec<String>,
    /// Whose each proof was.
    held: BTreeMap<String, usize>,
    refused: usize,
    late: usize,
}

impl Notes {
    /// Whether it says anything that nothing wrong is found: several wrote, and some came too late.
    fn is_enough(&self) -> bool {
        let writers: BTreeSet<&str> = self.wrote.iter().filter_map(|entry| entry.split(':').nth(1)).collect();
        writers.len() > 1 && self.wrote.len() > 10 && self.refused > 0
    }
}

fn notes(folder: &Path) -> Notes {
    let mut notes = Notes::default();
    for number in 0..HOLDERS {
        // Who has noted nothing yet has no file.
        let text = std::fs::read_to_string(folder.join(format!("notes-{number}"))).unwrap_or_default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("wrote", entry)) => notes.wrote.push(entry.into()),
                Some(("held", proof)) => {
                    let other = notes.held.insert(proof.into(), number);
                    assert_eq!(other, None, "{proof} was given twice");
                }
                None if line == "refused" => notes.refused += 1,
                None if line == "late" => notes.late += 1,
                _ => panic!("{line}"),
            }
        }
    }
    notes
}

async fn hold(kind: Kind) {
    let kills = setting("LOCI_KILLS", 3);
    let mut chance = Chance::new(seed());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = ["--resp", "127.0.0.1:0"].map(String::from).to_vec();
    let mut cluster = Cluster::start(Plan { options, ..Plan::default() }).await;
    tell_doors(&cluster, folder.path());
    let holders: Vec<Process> =
        (0..HOLDERS).map(|number| Process::start(kind, number, &mut chance, folder.path())).collect();
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(500 + chance.below(500))).await;
        let leader = cluster.leader().await;
        let holder = wait_holder(&cluster, kind, None);
        holders[holder].signal(Signal::STOP);
        // Before or after the lease has passed, and another has it.
        tokio::time::sleep(Duration::from_millis(chance.below(2 * LASTS.as_millis() as u64))).await;
        cluster.nodes[leader].take().expect("it ran").kill();
        tell_doors(&cluster, folder.path());
        let next = wait_holder(&cluster, kind, Some(holder));
        tokio::time::sleep(Duration::from_millis(chance.below(200))).await;
        holders[holder].signal(Signal::CONT);
        say(&format!("{}: leader {leader} was killed, {} had it, then {}", kill + 1, name(holder), name(next)));
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.start_again(leader).await;
        tell_doors(&cluster, folder.path());
        cluster.wait_voters(3).await;
    }
    // A slow machine needs longer for enough of it.
    let begun = Instant::now();
    while !notes(folder.path()).is_enough() && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    drop(holders);
    let Reply::Array(journal) = ask(&cluster, "LRANGE journal 0 -1") else { panic!("there is a journal") };
    let journal: Vec<String> = journal.iter().map(text).collect();
    let notes = notes(folder.path());
    check(kind, &journal, &notes);
    if kind == Kind::Lease {
        assert_eq!(text(&ask(&cluster, "GET count")), journal.len().to_string(), "all of a write is done, or nothing");
    }
    cluster.same_state().await;
    let Notes { wrote, held, refused, late } = notes;
    say(&format!(
        "{} writes accepted, {} answered, held {} times; {refused} came too late, and {late} releases",
        journal.len(),
        wrote.len(),
        held.len()
    ));
}

/// Whether the list of what was accepted can be, and explains what was answered.
fn check(kind: Kind, journal: &[String], notes: &Notes) {
    let proof = |entry: &String| entry.split(':').next().expect("a proof").to_string();
    let (mut over, mut current) = (BTreeSet::new(), String::new());
    for (at, entry) in journal.iter().enumerate() {
        let proof = proof(entry);
        if proof != current {
            let earlier = std::mem::replace(&mut current, proof.clone());
            if kind == Kind::Lease && !earlier.is_empty() {
                let [earlier, later] = [&earlier, &proof].map(|number| number.parse::<u64>().expect("a number"));
                assert!(earlier < later, "entry {at}, of {entry}, comes after one of {earlier}: {journal:?}");
            }
            over.insert(earlier);
            assert!(!over.contains(&proof), "entry {at}, of {entry}, comes after another's: {journal:?}");
        }
    }
    let all: BTreeSet<&String> = journal.iter().collect();
    assert_eq!(all.len(), journal.len(), "nothing is there twice: {journal:?}");
    for entry in &notes.wrote {
        assert!(all.contains(entry), "{entry} was answered, and is not there");
    }
    for entry in &notes.wrote {
        let holder = notes.held.get(&proof(entry)).map(|holder| name(*holder));
        assert_eq!(holder.as_deref(), entry.split(':').nth(1), "{entry} was written by whom it was given to");
    }
    let Notes { wrote, refused, .. } = notes;
    assert!(notes.is_enough(), "several holders must write, and some too late: {wrote:?}, {refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_held_a_lease_writes_nothing_after_the_next_holder() {
    hold(Kind::Lease).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_held_a_lock_of_redis_writes_nothing_by_its_script_after_the_next_holder() {
    hold(Kind::Lock).await;
}

#[test]
#[should_panic(expected = "comes after")]
fn a_write_that_comes_after_the_next_holders_is_noticed() {
    let journal = ["5:holder-0:0", "9:holder-1:0", "5:holder-0:1"].map(String::from);
    check(Kind::Lease, &journal, &Notes::default());
}
