//! TCP loads, by iperf3.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::lab::{Background, Lab, secs, until};
use crate::line::Node;

/// TCP streams between two machines.
#[derive(Clone, Copy)]
pub(crate) struct Tcp {
    pub(crate) flows: u32,
    pub(crate) way: Way,
    /// Of each flow; without it, as fast as it goes.
    pub(crate) mbit_per_s: Option<u32>,
    pub(crate) seconds: u32,
}

/// Which way bytes flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the machine that connects.
    There,
    /// To it.
    Back,
    /// Both at once: as many flows again.
    Both,
}

/// What receivers counted.
#[derive(Clone, Copy)]
pub(crate) struct Received {
    pub(crate) gbytes: f64,
    pub(crate) gbit_per_s: f64,
}

/// What a load brought and what it cost.
pub(crate) struct Carried {
    pub(crate) received: Received,
    /// Seconds of processor time of each machine's program.
    pub(crate) nodes_cpu_s: Vec<f64>,
    /// Seconds of processor time of everything there is.
    pub(crate) machine_cpu_s: f64,
}

/// A load that runs beside a measurement.
pub(crate) struct Running {
    client: Background,
    _server: Background,
    tcp: Tcp,
}

impl Way {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::There => "there",
            Self::Back => "back",
            Self::Both => "both ways",
        }
    }
}

impl Tcp {
    /// One stream, as fast as it goes.
    pub(crate) fn stream(seconds: u32) -> Self {
        Self { flows: 1, way: Way::There, mbit_per_s: None, seconds }
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, lab: &Lab, from: &Node, to: &Node) -> Received {
        self.start(lab, from, to).ended()
    }

    /// Starts it.
    pub(crate) fn start(&self, lab: &Lab, from: &Node, to: &Node) -> Running {
        let (server_log, client_log) = (new_log(lab, "iperf3-server"), new_log(lab, "iperf3-client"));
        let server = to.host.start(&server_log, &["iperf3", "-s", "-1", "-B", &to.address, "--forceflush"]);
        until("iperf3 server", secs(10), || match server.log().contains("Server listening") {
            true => Ok(()),
            false => Err(server.log()),
        });
        let (flows, seconds) = (self.flows.to_string(), self.seconds.to_string());
        let mut line = vec!["iperf3", "-J", "-c", &to.address, "-P", &flows, "-t", &seconds];
        match self.way {
            Way::There => {}
            Way::Back => line.push("-R"),
            Way::Both => line.push("--bidir"),
        }
        let rate = self.mbit_per_s.map(|rate| format!("{rate}M"));
        if let Some(rate) = &rate {
            line.extend(["-b", rate]);
        }
        Running { client: from.host.start(&client_log, &line), _server: server, tcp: *self }
    }
}

impl Running {
    pub(crate) fn is_running(&mut self) -> bool {
        self.client.is_running()
    }

    /// Waits for its end. An error of iperf3's is in what it printed.
    pub(crate) fn ended(mut self) -> Received {
        self.client.ended(secs(u64::from(self.tcp.seconds) + 20));
        let said = self.client.log();
        let report: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("iperf3: {error}: {said}"));
        let sum = |way: &str, what: &str| {
            let sum = report["end"][way][what].as_f64();
            sum.filter(|sum| *sum > 0.0).unwrap_or_else(|| panic!("iperf3 has no {way} {what}: {said}"))
        };
        let both = |what| {
            let back = if self.tcp.way == Way::Both { sum("sum_received_bidir_reverse", what) } else { 0.0 };
            sum("sum_received", what) + back
        };
        Received { gbytes: both("bytes") / 1e9, gbit_per_s: both("bits_per_second") / 1e9 }
    }
}

/// A log nothing was written to yet: [`crate::lab::Host::start`] appends.
pub(crate) fn new_log(lab: &Lab, name: &str) -> PathBuf {
    let log = lab.dir().join(name);
    let _ = fs::remove_file(&log);
    log
}

impl Carried {
    /// Seconds of processor time per gigabyte, of the programs on some machines.
    pub(crate) fn cpu_s_per_gb(&self, nodes: impl IntoIterator<Item = usize>) -> f64 {
        nodes.into_iter().map(|at| self.nodes_cpu_s[at]).sum::<f64>() / self.received.gbytes
    }

    /// The same of everything there is, iperf3 and other people's work included.
    pub(crate) fn machine_cpu_s_per_gb(&self) -> f64 {
        self.machine_cpu_s / self.received.gbytes
    }
}
