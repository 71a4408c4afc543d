//! `waybill names`: what is answered for `NAME.mesh`, from the config file and from what the ledger said last.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Failure;
use super::table::{Side, Table};
use crate::config::Config;
use crate::router::kept;
use crate::{identity, names};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct NamesArguments {
    #[cfg(feature = "ledger-host")]
    #[command(subcommand)]
    command: Option<super::ledger::named::OfCommunity>,
    /// The router's config file
    #[arg(long, value_name = "FILE", default_value = "/etc/waybill/waybill.toml")]
    config: PathBuf,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub(super) fn list(arguments: &NamesArguments) -> Result<String, Failure> {
    #[cfg(feature = "ledger-host")]
    if let Some(command) = &arguments.command {
        return super::ledger::named::execute(command);
    }
    let config = Config::load(&arguments.config)?;
    let identity = identity::load(&config.node.key_file)?;
    let zone = names::zone(&config, identity.card().mesh_address());
    let what = |name: &str| match name {
        _ if config.node.name.eq_ignore_ascii_case(name) => "this router",
        _ if config.peers.iter().any(|peer| peer.name.eq_ignore_ascii_case(name)) => "neighbour",
        _ => "leaf",
    };
    let (mut table, mut lines) =
        (Table::new(&["name", "what", "address"].map(|title| (title, Side::Left))), Vec::new());
    let mut line = |name: &str, what: &str, addresses: &[Ipv6Addr]| {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        table.row([format!("{name}.mesh"), what.to_owned(), addresses.join(", ")]);
        lines.push(json!({ "name": format!("{name}.mesh"), "what": what, "addresses": addresses }));
    };
    zone.iter().for_each(|(name, addresses)| line(name, what(name), addresses));
    for (name, address) in kept(&config.node.state_dir) {
        if zone.iter().all(|(own, _)| own != name.as_str()) {
            line(name.as_str(), "community", &[address]);
        }
    }
    if arguments.json {
        return Ok(format!("{:#}\n", serde_json::Value::from(lines)));
    }
    Ok(table.render())
}
