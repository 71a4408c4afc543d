//! The lab: machines made of network namespaces, cables between them, and programs that run on them.
//!
//! Everything a [`Lab`] makes carries this process's id in its name and goes when the lab is dropped, however the test
//! ends. Programs die with the test, even if the test is killed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// One test at a time.
static TURN: Mutex<()> = Mutex::new(());

/// How many of a log's last lines are printed when a test fails.
const LOG_LINES_SHOWN: usize = 60;

/// What every lab needs: the package names are those of `tests/run`.
const TOOLS: &[&str] = &["ip", "setpriv", "timeout"];

/// A place to build a network in. Declare it first in a test, so that it is taken down last.
pub(crate) struct Lab {
    test: &'static str,
    hosts: Vec<Host>,
    cables: u8,
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// A machine with a network stack of its own.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    namespace: String,
}

/// A program that runs beside the test until it is dropped.
pub(crate) struct Background {
    what: String,
    child: Child,
    log: PathBuf,
}

impl Lab {
    /// Waits for the test's turn. `None` where a lab cannot be built or one of the tools is missing; that is printed.
    pub(crate) fn open(test: &'static str, tools: &[&str]) -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = what_is_missing(tools) {
            say(&format!("skipped: {test}: {why}"));
            return None;
        }
        remove_what_killed_tests_left();
        let dir = tempfile::Builder::new().prefix("waybill-e2e-").tempdir().expect("a temporary directory");
        Some(Self { test, hosts: Vec::new(), cables: 0, dir, _turn: turn })
    }

    /// The program under test.
    ///
    /// # Panics
    /// Without one.
    pub(crate) fn waybill(&self) -> PathBuf {
        waybill()
    }

    /// A directory that goes with the lab.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Adds a machine.
    pub(crate) fn host(&mut self, name: &str) -> Host {
        let host = Host { namespace: namespace(name) };
        here(&["ip", "netns", "add", &host.namespace]);
        self.hosts.push(host.clone());
        here(&["ip", "-n", &host.namespace, "link", "set", "lo", "up"]);
        host
    }

    /// Joins two machines by a cable of their own, and returns the IPv4 addresses of its ends.
    pub(crate) fn cable(&mut self, a: &Host, b: &Host) -> (String, String) {
        let number = self.cables + 1;
        let (in_a, in_b) = self.loose_cable(a, b);
        let ends = (format!("10.0.{number}.1"), format!("10.0.{number}.2"));
        for (host, device, address) in [(a, &in_a, &ends.0), (b, &in_b, &ends.1)] {
            // The kernel's own link-local chatter would only blur what the tests look at.
            host.must(&["sh", "-c", &format!("echo 1 > /proc/sys/net/ipv6/conf/{device}/disable_ipv6")]);
            here(&["ip", "-n", &host.namespace, "address", "add", &format!("{address}/24"), "dev", device]);
            here(&["ip", "-n", &host.namespace, "link", "set", device, "up"]);
        }
        ends
    }

    /// Joins two machines by a cable with link-local addresses and no others, and returns the names of its ends.
    pub(crate) fn link_local_cable(&mut self, a: &Host, b: &Host) -> (String, String) {
        let (in_a, in_b) = self.loose_cable(a, b);
        for (host, device) in [(a, &in_a), (b, &in_b)] {
            // Nobody else is on the cable who could have the address already.
            host.must(&["sh", "-c", &format!("echo 0 > /proc/sys/net/ipv6/conf/{device}/accept_dad")]);
            here(&["ip", "-n", &host.namespace, "link", "set", device, "up"]);
        }
        (in_a, in_b)
    }

    /// A machine that is nothing but a switch, and a cable from each host to it: link-local addresses and no others. Returns the
    /// names of the hosts' ends.
    pub(crate) fn segment(&mut self, hosts: &[&Host]) -> Vec<String> {
        let switch = self.host("switch");
        switch.must(&["ip", "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0"]);
        switch.must(&["ip", "link", "set", "bridge", "up"]);
        let mut ends = Vec::new();
        for host in hosts {
            let (in_host, in_switch) = self.link_local_cable(host, &switch);
            switch.must(&["ip", "link", "set", &in_switch, "master", "bridge"]);
            ends.push(in_host);
        }
        ends
    }

    /// A cable whose ends are not up yet.
    fn loose_cable(&mut self, a: &Host, b: &Host) -> (String, String) {
        self.cables += 1;
        let ends = (format!("cable{}a", self.cables), format!("cable{}b", self.cables));
        let (in_a, in_b) = (["name", &ends.0, "netns", &a.namespace], ["name", &ends.1, "netns", &b.namespace]);
        here(&[&["ip", "link", "add"][..], &in_a, &["type", "veth", "peer"], &in_b].concat());
        ends
    }

    /// Prints what a test measured.
    pub(crate) fn figures(&self, figures: &str) {
        say(&format!("{}: {figures}", self.test));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = output(&["ip", "netns", "delete", &host.namespace]);
        }
        if thread::panicking() {
            self.dir.disable_cleanup(true);
            say(&format!("{} failed; logs and files are in {}", self.test, self.dir.path().display()));
        }
    }
}

impl Host {
    /// A command on this machine.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// A command on this machine that is ended when it takes too long.
    pub(crate) fn bounded(&self, patience: Duration, program: &str) -> Command {
        let mut command = self.command("timeout");
        command.args(["-k", "1", &patience.as_secs().to_string(), program]);
        command
    }

    /// Runs a program, 60 seconds at most, and returns what it printed.
    pub(crate) fn run(&self, line: &[&str]) -> Result<String, String> {
        let (program, arguments) = line.split_first().expect("a program");
        let output = self.bounded(Duration::from_secs(60), program).args(arguments).output();
        said(line, &output.map_err(|error| format!("{line:?}: {error}"))?)
    }

    /// Runs a program that has to succeed.
    pub(crate) fn must(&self, line: &[&str]) -> String {
        self.run(line).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts a program that runs beside the test; what it prints goes to the log.
    pub(crate) fn start(&self, log: &Path, line: &[&str]) -> Background {
        let file = File::options().create(true).append(true).open(log).expect("a log file");
        let mut command = self.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(line);
        command.stdout(file.try_clone().expect("a second handle")).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let what = Path::new(line[0]).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Background { what, child, log: log.to_owned() }
    }

    /// What this machine's stack looks like: links, addresses, routes and rules.
    pub(crate) fn stack(&self) -> String {
        let parts = ["link", "address", "-4 route show table all", "-6 route show table all", "-6 rule"];
        let show = |part: &&str| self.must(&["ip"].into_iter().chain(part.split(' ')).collect::<Vec<&str>>());
        parts.iter().map(show).collect::<Vec<String>>().join("\n")
    }
}

impl Background {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it printed so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        here(&["sh", "-c", &format!("kill -{name} {}", self.pid())]);
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self, patience: Duration) -> ExitStatus {
        let child = &mut self.child;
        until(&format!("the end of {}", self.what), patience, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Seconds of a processor that it has used, the system's for it included.
    pub(crate) fn cpu_s(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the process lives");
        // Behind the name, which may hold anything: the state is the third field, the times are the 14th and 15th.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).expect("a number");
        // A tick is a hundredth of a second, whatever the kernel's own are (USER_HZ).
        (ticks(11) + ticks(12)) / 100.0
    }

    /// Kilobytes of memory it holds.
    pub(crate) fn rss_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
            say(&format!("-- {} ({}), its last lines:\n  {shown}", self.what, self.log.display()));
        }
    }
}

/// Waits until `look` finds something, and returns that.
///
/// # Panics
/// When the patience is over, with what was seen last.
pub(crate) fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let began = now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(state) if began.elapsed() > patience => panic!("no {what} in {patience:?}; last seen: {state}"),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where these tests read the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Prints past the test harness, which hides what passing tests print.
pub(crate) fn say(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes()); // at once, so that lines do not mix
}

/// Runs a program on the machine the tests run on; it has to succeed.
pub(crate) fn here(line: &[&str]) -> String {
    said(line, &output(line)).unwrap_or_else(|error| panic!("{error}"))
}

fn output(line: &[&str]) -> Output {
    let (program, arguments) = line.split_first().expect("a program");
    Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

/// What a program printed, or all about its failure.
pub(crate) fn said(line: &[&str], output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{}: {}\n{}\n{}", line.join(" "), output.status, text(&output.stdout), text(&output.stderr)))
}

fn namespace(name: &str) -> String {
    format!("waybill-{}-{name}", std::process::id())
}

/// Network namespaces of test processes that were killed.
fn remove_what_killed_tests_left() {
    let Ok(listed) = said(&["ip", "netns"], &output(&["ip", "netns", "list"])) else { return };
    for name in listed.lines().filter_map(|line| line.split(' ').next()) {
        let owner = name.strip_prefix("waybill-").and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|owner| owner.parse::<u32>().ok()) else { continue };
        if !Path::new(&format!("/proc/{owner}")).exists() {
            let _ = output(&["ip", "netns", "delete", name]);
        }
    }
}

fn what_is_missing(tools: &[&str]) -> Option<String> {
    if fs::metadata("/proc/self").map_or(1, |process| process.uid()) != 0 {
        return Some("needs root".to_owned());
    }
    if let Some(tool) = TOOLS.iter().chain(tools).find(|tool| !is_on_the_path(tool)) {
        return Some(format!("there is no {tool}"));
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    let probe = namespace("probe");
    let made = output(&["ip", "netns", "add", &probe]);
    let _ = output(&["ip", "netns", "delete", &probe]);
    let refused = || String::from_utf8_lossy(&made.stderr).trim().to_owned();
    (!made.status.success()).then(|| format!("no network namespaces here: {}", refused()))
}

fn is_on_the_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).is_file())
}

fn waybill() -> PathBuf {
    if let Some(path) = std::env::var_os("WAYBILL") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "WAYBILL names {}, and there is no such file", path.display());
        return fs::canonicalize(path).expect("a file has an absolute path");
    }
    let test = std::env::current_exe().expect("a running program has a path");
    // TARGET/PROFILE/deps/e2e-HASH
    let target = test.ancestors().nth(3).expect("cargo puts tests three levels deep");
    let candidates = [target.join("release/waybill"), target.join("debug/waybill")];
    let found = candidates.into_iter().find(|path| path.is_file());
    found.expect("no program to test: build it first: cargo build --release")
}
