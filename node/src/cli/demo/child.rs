//! A node in a process of its own, which ends with its owner.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A running node. Dropped, it is killed.
#[derive(Debug)]
pub struct ChildNode {
    child: Child,
    pub address: String,
}

impl ChildNode {
    /// Starts a node on a data directory, at a free port, and waits until it says where it listens.
    pub fn start(data: &Path, log: &Path) -> Result<ChildNode, String> {
        let program = std::env::current_exe().map_err(|error| format!("this program's path: {error}"))?;
        let errors = File::options().create(true).append(true).open(log);
        let errors = errors.map_err(|error| format!("{}: {error}", log.display()))?;
        let mut child = Command::new(&program)
            .arg("serve")
            .arg("--data")
            .arg(data)
            .args(["--listen", "127.0.0.1:0", "--metrics", "off", "--log-level", "warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let output = child.stdout.take();
        // From here on it is killed whatever happens.
        let mut node = ChildNode { child, address: String::new() };
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()).map_while(Result::ok) {
                // Once the address is known nobody listens; reading on keeps the pipe empty.
                let _ = sender.send(line);
            }
        });
        let until = Instant::now() + START_TIMEOUT;
        loop {
            match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(address) = line.strip_prefix("listening on ") {
                        node.address = address.trim().to_owned();
                        return Ok(node);
                    }
                }
                Err(_) => return Err(format!("the node did not start{}", last_lines(log))),
            }
        }
    }

    /// As the power supply would: the process has no chance to do anything.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) {
        let asked = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let until = Instant::now() + STOP_TIMEOUT;
        while asked.is_ok() && Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for ChildNode {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a log ends with, to be said after an error.
pub fn last_lines(log: &Path) -> String {
    let mut text = String::new();
    let path: PathBuf = log.into();
    let read = File::open(&path).and_then(|mut file| file.read_to_string(&mut text));
    let lines: Vec<&str> = text.lines().collect();
    match read {
        Ok(_) if !lines.is_empty() => {
            format!("; its last words:\n  {}", lines[lines.len().saturating_sub(5)..].join("\n  "))
        }
        _ => String::new(),
    }
}
