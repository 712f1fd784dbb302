//! The program as a process of its own: started on a data directory, asked whether it is ready, stopped, killed.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::api::Api;

/// How long anything may take that takes moments, on a slow and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where the program is. Builds it first, with the profile of the running test, unless `LOCI_BIN` names one.
pub fn program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os("LOCI_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    });
    &PROGRAM
}

/// Cargo tells a test where a program is only if both are in one package. The test itself lies in
/// `TARGET/PROFILE/deps/`, so the program belongs into `TARGET/PROFILE/`.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let profile = test.parent().and_then(Path::parent).expect("a test lies in TARGET/PROFILE/deps");
    let target = profile.parent().expect("a profile lies in a target directory");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    cargo.args(["build", "--quiet", "--package", "loci-node", "--bin", "loci"]).arg("--target-dir").arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let status = cargo.current_dir(manifest).status().expect("cargo runs");
    assert!(status.success(), "building the program: {status}");
    profile.join("loci")
}

/// The program with these arguments, in as much memory as it can ever need: what asks for more is killed.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 8000000; exec \"$@\"", "loci"]).arg(program()).args(arguments);
    command
}

/// A running node.
pub struct Node {
    child: Child,
    /// Where it listens: `IP:PORT`.
    pub address: String,
    /// Where clients of Redis connect, if anywhere: `IP:PORT`.
    pub resp: Option<String>,
    /// What it wrote to standard error so far.
    log: PathBuf,
}

/// How to start a node.
#[derive(Default, Clone)]
pub struct Start {
    /// Further options.
    pub options: Vec<String>,
    /// A control group that it joins before it does anything: the file that takes process ids.
    pub group: Option<PathBuf>,
    /// The program of another version.
    pub program: Option<PathBuf>,
}

/// It ended before it listened.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// What it wrote to standard error.
    pub log: String,
}

fn log_file() -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("loci-test-{}-{number}.log", std::process::id()))
}

impl Start {
    /// With these options added.
    pub fn with(mut self, options: &[&str]) -> Start {
        self.options.extend(options.iter().map(|option| option.to_string()));
        self
    }

    /// In this control group.
    pub fn within(mut self, group: &Path) -> Start {
        self.group = Some(group.join("cgroup.procs"));
        self
    }

    /// Starts a node and kills it so long after, wherever it then is on its way up.
    pub fn killed_after(self, data: &Path, after: Duration) {
        let mut child = self.command(data).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        std::thread::sleep(after);
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    fn command(self, data: &Path) -> Command {
        let program = self.program.as_deref().unwrap_or_else(|| program());
        let mut command = match &self.group {
            None => Command::new(program),
            Some(group) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(group).arg(program);
                shell
            }
        };
        command.arg("serve").arg("--data").arg(data);
        // What is given comes last and wins over what is usual here.
        let usual = [("--listen", "127.0.0.1:0"), ("--metrics", "off"), ("--log-file-mib", "4")];
        for (option, value) in usual {
            if !self.options.iter().any(|given| given == option) {
                command.args([option, value]);
            }
        }
        command.args(&self.options).stdin(Stdio::null());
        command
    }

    /// Starts a node on a data directory and waits until it listens.
    pub fn listen(self, data: &Path) -> Result<Node, Ended> {
        let log = log_file();
        let stderr = File::create(&log).expect("a temporary file can be made");
        let mut command = self.command(data);
        let child = command.stdout(Stdio::piped()).stderr(stderr).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{}: {error}", program().display()));
        let mut stdout = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut resp = None;
        let address = loop {
            let mut line = String::new();
            let read = stdout.read_line(&mut line).expect("standard output can be read");
            if let Some(address) = line.trim_end().strip_prefix("listening on ") {
                break Some(address.to_owned());
            }
            if let Some(address) = line.trim_end().strip_prefix("redis clients on ") {
                resp = Some(address.to_owned());
            }
            if read == 0 {
                break None;
            }
        };
        let Some(address) = address else {
            let status = child.wait().expect("a child can be waited for");
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            // Read, and no longer needed.
            let _ = std::fs::remove_file(&log);
            return Err(Ended { status, log: text });
        };
        // Whatever else it prints goes nowhere, but must not fill the pipe.
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        Ok(Node { child, address, resp, log })
    }

    /// Starts a node that must come up, and waits until it is ready.
    pub async fn ready(self, data: &Path) -> Node {
        let mut node = self.listen(data).unwrap_or_else(|ended| panic!("the node did not start: {ended:?}"));
        node.wait_ready().await;
        node
    }
}

impl Node {
    /// Starts a node that must come up, and waits until it is ready.
    pub async fn start(data: &Path) -> Node {
        Start::default().ready(data).await
    }

    /// Starts a node that must refuse to, and says what it wrote.
    pub fn refused(data: &Path, options: &[&str]) -> Ended {
        match Start::default().with(options).listen(data) {
            Err(ended) => {
                assert!(!ended.status.success(), "it ended as if all were well: {ended:?}");
                ended
            }
            Ok(node) => panic!("the node started on {}: {}", data.display(), node.log()),
        }
    }

    /// Waits until its health service says that it serves.
    pub async fn wait_ready(&mut self) {
        let begin = Instant::now();
        loop {
            if crate::api::serving(&self.address).await {
                return;
            }
            let ended = self.child.try_wait().expect("a child can be asked");
            assert!(ended.is_none(), "the node ended before it was ready: {ended:?}\n{}", self.log());
            assert!(begin.elapsed() < PATIENCE, "the node is not ready after {PATIENCE:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Connects to it.
    pub async fn api(&self) -> Api {
        Api::connect(&self.address).await
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last line it wrote that has text.
    pub fn last_line(&self) -> String {
        self.log().lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The bytes of memory that only it has (resident, not backed by a file).
    pub fn memory_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(path).expect("a running process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon is there");
        let kib = line.trim().trim_end_matches("kB").trim();
        kib.parse::<u64>().expect("a number") * 1024
    }

    /// As kill -9 does: no handler runs, nothing is flushed. Does not wait for its end.
    pub fn send_kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Kills it and waits for its end.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("a child can be waited for");
    }

    /// Asks it to stop, as an operating system does.
    pub fn send_terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// It stands still until it is told to go on.
    pub fn send_stop(&self) {
        self.signal(Signal::STOP);
    }

    /// It goes on.
    pub fn send_go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// As ctrl-c does.
    pub fn send_interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Asks it to stop and waits until it has.
    pub fn terminate(mut self) -> ExitStatus {
        self.send_terminate();
        self.wait_end().unwrap_or_else(|| panic!("the node does not stop\n{}", self.log()))
    }

    /// Whether it has ended, and how.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Waits until it ends by itself. `None`: it runs on.
    pub fn wait_end(&mut self) -> Option<ExitStatus> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id() as i32).expect("a process id is not zero");
        // It may be gone already.
        let _ = kill_process(id, signal);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Whatever became of the test, no process and no file outlives it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.log);
    }
}
