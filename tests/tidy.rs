//! The repository's own rules, as tests: which package may know which, what a source file may say and how long it may
//! be, and that the documents point at files that are there.
//!
//! A rule that is only written down is forgotten on the first busy day; these are the ones a machine can hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Who may depend on whom among our own packages. What is not here is refused.
const ARROWS: [(&str, &[&str]); 7] = [
    ("loci-wire", &[]),
    ("loci-index", &[]),
    ("loci-raft", &[]),
    ("loci-client", &["loci-wire"]),
    ("loci-node", &["loci-wire", "loci-client", "loci-index", "loci-raft"]),
    // The simulation drives the node's shard, whose parts have no thread, socket or clock of their own; all other tests know
    // the program from outside.
    ("loci-tests", &["loci-wire", "loci-client", "loci-index", "loci-raft", "loci-node"]),
    ("loci-benches", &["loci-wire", "loci-client", "loci-index", "loci-raft"]),
];

/// Which of our packages may depend on a crate that we keep behind one door.
const KEPT_BEHIND: [(&str, &[&str]); 12] = [
    ("raft", &["loci-raft"]),
    ("protobuf", &["loci-raft"]),
    // As an oracle in the tests and a peer in the benches.
    ("hnsw_rs", &["loci-index", "loci-benches"]),
    ("memmap2", &["loci-index"]),
    ("rkyv", &["loci-index"]),
    ("tokio", &["loci-node", "loci-client", "loci-tests"]),
    ("tonic", &["loci-wire", "loci-node", "loci-client", "loci-tests"]),
    ("hyper", &["loci-node"]),
    ("clap", &["loci-node", "loci-benches"]),
    // The tests write files for the node to read.
    ("parquet", &["loci-node", "loci-tests"]),
    ("opentelemetry", &["loci-node"]),
    // The tests play the collector.
    ("opentelemetry-proto", &["loci-tests"]),
];

const UNSAFE_ROOMS: [&str; 8] = [
    "index/src/distance/",
    "index/src/directory.rs",
    "index/src/segment/read.rs",
    "index/src/table/entry.rs",
    "index/src/table/slab.rs",
    // Ask the allocator.
    "index/tests/memory.rs",
    "benches/peers/driver/src/caches.rs",
    // Is the allocator.
    "index/tests/allocations.rs",
];
const LINES_MAX: usize = 900;
const FORBIDDEN_NAMES: [&str; 7] = ["util", "utils", "common", "types", "manager", "handler", "helpers"];

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("tests/ lies in the repository").to_path_buf()
}

/// Every file of the repository with one of these endings: its path from the root, and its bytes.
fn files(endings: &[&str]) -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of the repository can be read") {
            let entry = entry.expect("a folder of the repository can be read");
            let name = entry.file_name().into_string().expect("file names are text");
            let kind = entry.file_type().expect("a file has a type");
            let skipped = name == "target" || (name.starts_with('.') && name != ".ci");
            if kind.is_dir() && !skipped {
                walk(&entry.path(), found);
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    walk(&root, &mut found);
    let named = |path: &PathBuf| path.strip_prefix(&root).expect("below the root").to_str().expect("text").to_string();
    let wanted = |name: &String| endings.iter().any(|ending| name.ends_with(ending));
    let files: BTreeMap<_, _> = found
        .iter()
        .map(named)
        .filter(wanted)
        .map(|name| {
            let bytes = fs::read(root.join(&name)).expect("a file of the repository can be read");
            (name, bytes)
        })
        .collect();
    assert!(!files.is_empty(), "no file ends in {endings:?}: the walk is broken");
    files
}

fn texts(endings: &[&str]) -> BTreeMap<String, String> {
    let text = |(name, bytes)| (name, String::from_utf8(bytes).expect("sources are text"));
    files(endings).into_iter().map(text).collect()
}

/// Runs `says` on every line of every Rust file and fails with all that it complains of.
fn check_lines(endings: &[&str], says: impl Fn(&str, &str) -> Option<String>) {
    let mut complaints = Vec::new();
    for (name, text) in texts(endings) {
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(complaint) = says(&name, line) {
                complaints.push(format!("{name}:{number}: {complaint}"));
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Whether `word` stands in `line` on its own, outside a comment.
fn code_has_word(line: &str, word: &str) -> bool {
    let code = line.split("//").next().unwrap_or(line);
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(inside) && !code[at + word.len()..].starts_with(inside))
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    metadata["packages"].as_array().expect("packages are a list").clone()
}

/// Our packages and everything they name in their manifests, of every kind.
fn dependencies() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for package in packages() {
        let name = package["name"].as_str().expect("a package has a name");
        for dependency in package["dependencies"].as_array().expect("dependencies are a list") {
            found.push((name.to_string(), dependency["name"].as_str().expect("a name").to_string()));
        }
    }
    found
}

#[test]
fn arrows_between_packages_are_the_ones_that_are_drawn() {
    let ours: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    for package in packages() {
        let name = package["name"].as_str().expect("a package has a name");
        assert!(ours.contains_key(name), "package {name} is not in the drawing");
    }
    for (from, to) in dependencies() {
        if to.starts_with("loci-") {
            assert!(ours[from.as_str()].contains(&to.as_str()), "{from} must not know {to}");
        }
    }
}

#[test]
fn crates_kept_behind_a_door_are_named_only_there() {
    for (from, to) in dependencies() {
        if let Some((_, allowed)) = KEPT_BEHIND.iter().find(|(kept, _)| *kept == to) {
            assert!(allowed.contains(&from.as_str()), "{from} must not name the crate {to}; only {allowed:?} may");
        }
    }
}

#[test]
fn nothing_that_ships_names_the_library_that_graphs_are_tested_against() {
    check_lines(&[".rs"], |name, line| {
        let allowed = name == "index/src/graph/tests.rs" || name == "tests/tidy.rs" || name.starts_with("benches/");
        (!allowed && code_has_word(line, "hnsw_rs")).then(|| "hnsw_rs is for tests and benches only".into())
    });
}

#[test]
fn unsafe_stays_in_its_rooms() {
    check_lines(&[".rs"], |name, line| {
        let allowed = UNSAFE_ROOMS.iter().any(|room| name.starts_with(room));
        let lint = ["expect(", "unsafe_code"].concat();
        let found = code_has_word(line, "unsafe") && !line.contains('"') || line.contains(&lint);
        (!allowed && found).then(|| format!("unsafe outside {UNSAFE_ROOMS:?}"))
    });
}

#[test]
fn what_every_member_computes_alike_reads_no_clock_and_no_chance() {
    let rooms = [
        "index/src/store",
        "index/src/command",
        "index/src/buffer",
        "index/src/filter",
        "index/src/attributes",
        "index/src/table",
    ];
    let words = ["SystemTime", "Instant", "HashMap::new", "HashSet::new", "RandomState", "thread_rng", "spawn"];
    for (name, text) in texts(&[".rs"]) {
        let held = rooms.iter().any(|room| name.starts_with(room)) && !name.contains("test");
        // Tests may use whatever shows that it makes no difference.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (number, line) in (1..).zip(code.lines()).filter(|_| held) {
            let found = words.iter().find(|word| code_has_word(line, word));
            assert!(found.is_none(), "{name}:{number}: {found:?}: members would come to different states");
        }
    }
}

#[test]
fn sources_are_ascii() {
    check_lines(&[".rs", ".proto", ".toml", ".ci/run"], |_, line| {
        line.chars().find(|c| !c.is_ascii()).map(|c| format!("{c:?} is not ASCII"))
    });
}

#[test]
fn nothing_is_left_for_later() {
    let markers: Vec<String> =
        [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["todo", "!("], ["unimplemented", "!("], ["dbg", "!("]]
            .iter()
            .map(|halves| halves.concat())
            .collect();
    let ignored = ["#[ig", "nore"].concat();
    check_lines(&[".rs", ".proto", ".toml", ".md", ".ci/run"], |_, line| {
        if let Some(marker) = markers.iter().find(|marker| line.contains(marker.as_str())) {
            return Some(format!("{marker} is left"));
        }
        line.contains(&ignored)
            .then(|| "a test that does not run; let an environment variable make it longer instead".into())
    });
}

#[test]
fn no_room_has_two_subjects() {
    for (name, text) in texts(&[".rs"]) {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{name} has {lines} lines, {LINES_MAX} at most");
    }
}

#[test]
fn every_source_file_begins_with_its_front_page() {
    for (name, text) in texts(&[".rs"]) {
        assert!(text.starts_with("//! "), "{name} does not begin with //!");
    }
}

#[test]
fn modules_are_named_for_what_they_hide() {
    for name in files(&[".rs"]).into_keys() {
        for part in name.trim_end_matches(".rs").split('/') {
            assert!(!FORBIDDEN_NAMES.contains(&part), "{name}: {part} says nothing of what is inside");
        }
    }
}

#[test]
fn no_path_of_one_machine_is_written_down() {
    let paths: Vec<String> = ["/home", "/root", "/Users", "/work"].iter().map(|path| format!("{path}/")).collect();
    check_lines(&[".rs", ".proto", ".toml", ".md", ".ci/run", ".sh", ".py"], |name, line| {
        let found = paths.iter().find(|path| {
            let before = |at: usize| line[..at].chars().next_back();
            // In the middle of a longer path or address it is not the root's.
            line.match_indices(path.as_str())
                .any(|(at, _)| before(at).is_none_or(|c| !(c.is_alphanumeric() || "._-/".contains(c))))
        });
        found.filter(|_| name != "tests/tidy.rs").map(|path| format!("{path} is a path of one machine"))
    });
}

/// The targets of `[text](target)` in a document, code aside.
fn links(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = false;
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            if let Some((target, _)) = line[at + 2..].split_once(')') {
                found.push(target.to_string());
            }
        }
    }
    found
}

/// The anchor that a heading gets: lower case, words joined by hyphens, punctuation gone.
fn anchors(document: &str) -> Vec<String> {
    let heading = |line: &str| line.starts_with('#').then(|| line.trim_start_matches('#').trim().to_lowercase());
    let anchor = |text: String| {
        let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    document.lines().filter_map(heading).map(anchor).collect()
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let root = root();
    for (name, text) in texts(&[".md"]) {
        let folder = root.join(&name).parent().expect("a file lies in a folder").to_path_buf();
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { root.join(&name) } else { folder.join(file) };
            assert!(target.exists(), "{name} links to {link}, which is not there");
            if !anchor.is_empty() && target.extension().is_some_and(|ending| ending == "md") {
                let target = fs::read_to_string(&target).expect("a document can be read");
                assert!(
                    anchors(&target).iter().any(|found| found == anchor),
                    "{name} links to {link}: no such heading"
                );
            }
        }
    }
}

#[test]
fn the_files_a_stranger_looks_for_are_there() {
    for name in ["README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "deny.toml", "Cargo.lock", ".ci/run"] {
        assert!(root().join(name).is_file(), "{name} is missing");
    }
}

#[test]
fn the_rules_themselves_notice() {
    assert!(code_has_word("let x = unsafe { y };", "unsafe"));
    assert!(!code_has_word("// not unsafe at all", "unsafe"));
    assert!(!code_has_word("#![forbid(unsafe_code)]", "unsafe"));
    assert_eq!(links("a [b](c.md#d) and [e](f)\n```\n[g](h)\n```"), ["c.md#d", "f"]);
    assert_eq!(anchors("# The way of a write\n## `loci` runs!"), ["the-way-of-a-write", "loci-runs"]);
}
