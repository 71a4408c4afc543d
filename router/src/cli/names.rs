//! `waybill names`: what is answered for `NAME.mesh`, from the config file.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Failure;
use super::table::{Side, Table};
use crate::config::Config;
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
    for (name, addresses) in zone.iter() {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        table.row([format!("{name}.mesh"), what(name).to_owned(), addresses.join(", ")]);
        lines.push(json!({ "name": format!("{name}.mesh"), "what": what(name), "addresses": addresses }));
    }
    if arguments.json {
        return Ok(format!("{:#}\n", serde_json::Value::from(lines)));
    }
    Ok(table.render())
}
