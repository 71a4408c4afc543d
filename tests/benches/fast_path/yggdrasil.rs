//! yggdrasil: a mesh in which the ends encrypt and a relay passes on what it cannot read, over TCP.
//!
//! Its packets of up to 65,535 bytes are 46 times as long as those of the others, so that it has far less to do for a byte.

use serde_json::{Value, json};

use crate::contender::Contender;
use crate::lab::{Background, Host, Lab, here};
use crate::line::{Daemon, Node};
use crate::router::{text, write_private};

const PORT: u16 = 9001;

/// A running node.
pub(crate) struct Yggdrasil(Background);

impl Yggdrasil {
    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }
}

/// Builds a line in which each machine connects to the one on its left. All else is as yggdrasil comes.
pub(crate) fn line(lab: &mut Lab, contender: &Contender, machines: usize) -> Vec<Node> {
    let hosts: Vec<Host> = (0..machines).map(|at| lab.host(&format!("y{at}"))).collect();
    let lefts: Vec<String> = hosts.windows(2).map(|pair| lab.cable(&pair[0], &pair[1]).0).collect();
    let peer = |at: usize| at.checked_sub(1).map(|left| format!("tcp://{}:{PORT}", lefts[left]));
    let node = |(at, host): (usize, Host)| start(lab, host, contender, &format!("y{at}"), peer(at));
    hosts.into_iter().enumerate().map(node).collect()
}

fn start(lab: &Lab, host: Host, contender: &Contender, name: &str, peer: Option<String>) -> Node {
    let program = text(&contender.program);
    let made = here(&[program, "-genconf", "-json"]);
    let mut config: Value = serde_json::from_str(&made).expect("yggdrasil -genconf -json prints JSON");
    config["Peers"] = json!(peer.into_iter().collect::<Vec<String>>());
    config["Listen"] = json!([format!("tcp://0.0.0.0:{PORT}")]);
    config["AdminListen"] = json!("none");
    config["MulticastInterfaces"] = json!([]);
    let file = lab.dir().join(format!("{name}.conf"));
    write_private(&file, config.to_string().as_bytes(), 0o600);
    let address = here(&[program, "-useconffile", text(&file), "-address"]);
    let log = lab.dir().join(format!("{name}.log"));
    let running = host.start(&log, &[program, "-useconffile", text(&file)]);
    Node::new(contender, host, address, Daemon::Yggdrasil(Yggdrasil(running)))
}
