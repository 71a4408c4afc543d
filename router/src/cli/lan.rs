//! `waybill lan`: how the machines of a LAN behind this router get addresses of the mesh.
//!
//! A router has a /48 of its own and leads all of it to its kernel, so a LAN is one /64 of that on an interface. To tell the machines
//! there is the business of the system's own router advertisement server, so nothing is changed here: this says what it has to be told.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use clap::Args;
use metering::mesh_prefix;
use node::Prefix;
use serde_json::json;

use super::{Failure, leaf};
use crate::config::{Config, Leaf};
use crate::identity;

#[derive(Debug, Args)]
pub(super) struct LanArguments {
    /// The interface of the LAN
    #[arg(value_name = "INTERFACE", value_parser = interface)]
    interface: String,
    /// Which of the 65,536 subnets of the own /48 it is to be, in hexadecimal; 0 is the router's own, and 1eaf its leaves'
    #[arg(long, value_name = "HEX", default_value = "1", value_parser = subnet)]
    subnet: u16,
    /// The router's config file
    #[arg(long, value_name = "FILE", default_value = "/etc/waybill/waybill.toml")]
    config: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What becomes words of a shell and of another program's config.
fn interface(text: &str) -> Result<String, &'static str> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    if (1..=15).contains(&text.len()) && text.bytes().all(is_good) && !text.starts_with('-') {
        Ok(text.to_owned())
    } else {
        Err("give the name of an interface, such as br-lan")
    }
}

fn subnet(text: &str) -> Result<u16, &'static str> {
    match u16::from_str_radix(text, 16) {
        Ok(0) => Err("that is the router's own; give one from 1 to ffff"),
        Ok(leaf::SUBNET) => Err("that is the leaves'; give another"),
        Ok(subnet) => Ok(subnet),
        Err(_) => Err("give a number from 1 to ffff, in hexadecimal"),
    }
}

pub(super) fn lan(arguments: &LanArguments) -> Result<String, Failure> {
    let LanArguments { interface, subnet, .. } = arguments;
    let config = Config::load(&arguments.config)?;
    let identity = identity::load(&config.node.key_file)?;
    let mut octets = mesh_prefix(&identity.wireguard_key()).0.octets();
    octets[6..8].copy_from_slice(&subnet.to_be_bytes());
    let network = Ipv6Addr::from(octets);
    let prefix = Prefix::new(network, 64).unwrap_or(Prefix::DEFAULT);
    let has_part = |leaf: &&Leaf| leaf.addresses.iter().any(|its| its.covers(prefix) || prefix.covers(*its));
    if let Some(leaf) = config.leaves.iter().find(has_part) {
        let next = "give another with --subnet";
        return Err(Failure::new(format!("the leaf \"{}\" has addresses in subnet {subnet:x}", leaf.name), next));
    }
    octets[15] = 1;
    let address = Ipv6Addr::from(octets);
    let commands = [
        format!("ip -6 address add {address}/64 dev {interface}"),
        "sysctl -w net.ipv6.conf.all.forwarding=1".to_owned(),
    ];
    let radvd = format!(
        "interface {interface} {{\n    AdvSendAdvert on;\n    prefix {network}/64 {{ }};\n    route fd00::/8 {{ }};\n}};\n"
    );
    if arguments.json {
        let object = json!({
            "interface": interface,
            "prefix": format!("{network}/64"),
            "address": address.to_string(),
            "commands": commands,
            "radvd": radvd,
        });
        return Ok(format!("{object:#}\n"));
    }
    let [address, forwarding] = commands;
    Ok(format!(
        "# {network}/64, out of this router's own /48, for the machines at {interface}. This router's address there, and leave to forward:\n\
         {address}\n{forwarding}\n\
         # An uplink that takes its routes from advertisements needs `sysctl -w net.ipv6.conf.UPLINK.accept_ra=2` from then on.\n\
         # For /etc/radvd.conf, or what your system has in its place, which tells the machines:\n{radvd}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_a_shell_or_a_config_would_take_apart_are_refused() {
        for good in ["br-lan", "eth0.2", "wlan1", "a@b"] {
            assert_eq!(interface(good), Ok(good.to_owned()));
        }
        for bad in ["", "-f", "a b", "a;b", "$(x)", "a\nb", "{", "sixteen-letters-"] {
            assert!(interface(bad).is_err(), "{bad}");
        }
        assert_eq!((subnet("1"), subnet("ffff")), (Ok(1), Ok(0xffff)));
        for bad in ["0", "1eaf", "10000", "-1", "g"] {
            assert!(subnet(bad).is_err(), "{bad}");
        }
    }
}
