//! How the two sides of gateway sessions look to people.

use std::time::Duration;

use super::table::Side::{Left, Right};
use super::table::harmless;
use super::table::{Table, facts, round_trip, span};
use crate::control::{ClientSessions, GatewayState, InternetState, ServerSessions};

pub(super) fn gateway(state: &GatewayState) -> String {
    let servers: Vec<String> = state.dns.iter().map(ToString::to_string).collect();
    let or = |text: Option<String>, without: &str| text.unwrap_or_else(|| without.to_owned());
    let open = if state.open { "open" } else { "closed at present" };
    let mut text = facts(&[
        ("gateway", or(state.mesh_address.map(|address| address.to_string()), "starting")),
        ("hours", format!("{}, {open}", or(state.hours.clone(), "always"))),
        ("left", or(state.left_bytes.map(size), "as much as clients like")),
        ("addresses", format!("of {}", state.pool)),
        ("name server", if servers.is_empty() { "none: set dns in [gateway]".to_owned() } else { servers.join(", ") }),
        ("contact", or(state.contact.clone(), "none: set contact in [gateway]")),
        (
            "clients",
            format!("{} of {} at most, {} turned away", state.clients.len(), state.clients_max, state.turned_away),
        ),
        ("not carried", not_carried(state)),
        ("flows", format!("{} packets refused of clients with too many", state.flows_over)),
        ("rules", format!("put back {} times after another program took them away", state.rules_put_back)),
    ]);
    if state.clients.is_empty() {
        return text;
    }
    let mut table = Table::new(&[
        ("CLIENT", Left),
        ("IPV4", Left),
        ("FOR", Right),
        ("HEARD", Right),
        ("SENT", Right),
        ("RECEIVED", Right),
        ("LEFT", Right),
        ("STATE", Left),
    ]);
    for client in &state.clients {
        table.row([
            client.mesh_address.to_string(),
            client.ipv4.to_string(),
            span(Duration::from_secs(client.since_s)),
            format!("{} ago", span(Duration::from_secs(client.heard_s))),
            size(client.sent_bytes),
            size(client.received_bytes),
            client.left_bytes.map_or_else(|| "-".to_owned(), size),
            match (&client.refused, client.spoofed_packets, client.forbidden_packets) {
                (Some(why), ..) => why.clone(),
                (None, 0, 0) => "served".to_owned(),
                (None, spoofed, forbidden) => {
                    format!("served; {spoofed} packets spoofed, {forbidden} to private places")
                }
            },
        ]);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}

/// A line of `waybill status`.
pub(super) fn clients_of(sessions: &ServerSessions) -> String {
    let ServerSessions { clients, clients_max, served, open, refuse } = sessions;
    let closed = if *open { "" } else { "; closed at this hour" };
    let refuse = if refuse.is_empty() { String::new() } else { format!("; {} not carried", refuse.join(", ")) };
    format!("{clients} of {clients_max} clients, {served} served{closed}{refuse}")
}

fn not_carried(state: &GatewayState) -> String {
    if state.refuse.is_empty() {
        return "nothing: all that is on the Internet is carried".to_owned();
    }
    format!("{}; {} packets refused for that", state.refuse.join(", "), state.not_carried)
}

/// The same for the other side.
pub(super) fn way_out(sessions: &ClientSessions) -> String {
    let ClientSessions { in_use, since_s, ready, gateways, refused } = sessions;
    let refused: String = refused.iter().map(|why| format!("; {}", harmless(why))).collect();
    let since = since_s.map_or_else(String::new, |since| format!(" for {}", span(Duration::from_secs(since))));
    match in_use {
        Some(name) => format!("by {}{since}, {ready} of {gateways} gateways ready", harmless(name)),
        None => format!("none{since}: nothing leaves; {ready} of {gateways} gateways ready{refused}"),
    }
}

pub(super) fn internet(state: &InternetState) -> String {
    let servers: Vec<String> = state.dns.iter().map(ToString::to_string).collect();
    let addresses = [state.ipv4.map(|address| address.to_string()), state.ipv6.map(|address| address.to_string())];
    let in_use = state.gateways.iter().find(|gateway| gateway.in_use);
    let refuse = in_use.map(|gateway| gateway.refuse.join(", ")).filter(|refuse| !refuse.is_empty());
    let mut text = facts(&[
        ("gateway", state.in_use.clone().unwrap_or_else(|| "none".to_owned())),
        ("why", state.why.clone()),
        ("since", state.since_s.map_or_else(|| "-".to_owned(), |since| span(Duration::from_secs(since)))),
        ("addresses", addresses.into_iter().flatten().collect::<Vec<_>>().join(", ")),
        ("name servers", format!("{} (in {})", servers.join(", "), state.resolv_conf)),
        ("not carried", refuse.map_or_else(|| "nothing that it told of".to_owned(), |refuse| harmless(&refuse))),
    ]);
    let mut table = Table::new(&[
        ("GATEWAY", Left),
        ("STATE", Left),
        ("RTT", Right),
        ("LOST", Right),
        ("SENT", Right),
        ("RECEIVED", Right),
        ("LEFT", Right),
        ("HOURS", Left),
        ("CONTACT", Left),
    ]);
    for gateway in &state.gateways {
        let standing = match (&gateway.refused, gateway.answers, gateway.in_use) {
            (Some(why), ..) => why.clone(),
            (None, false, _) => "no answer".to_owned(),
            (None, true, true) => "in use".to_owned(),
            (None, true, false) => "ready".to_owned(),
        };
        let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.row([
            gateway.name.clone(),
            standing,
            dash(gateway.rtt_us.map(round_trip)),
            format!("{} %", gateway.loss_percent),
            size(gateway.sent_bytes),
            size(gateway.received_bytes),
            dash(gateway.left_bytes.map(size)),
            dash(gateway.hours.clone()),
            dash(gateway.contact.clone()),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}

/// Bytes in the largest unit that leaves a whole number: "12.3 MiB".
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_said_in_a_line() {
        let mut server = ServerSessions { clients: 3, clients_max: 256, served: 2, open: true, refuse: vec![] };
        assert_eq!(clients_of(&server), "3 of 256 clients, 2 served");
        server.refuse = vec!["tcp/25".to_owned(), "192.0.2.1".to_owned()];
        assert_eq!(clients_of(&server), "3 of 256 clients, 2 served; tcp/25, 192.0.2.1 not carried");
        (server.open, server.refuse) = (false, vec![]);
        assert_eq!(clients_of(&server), "3 of 256 clients, 2 served; closed at this hour");
        let mut client = ClientSessions {
            in_use: Some("roof".to_owned()),
            since_s: Some(90),
            ready: 1,
            gateways: 2,
            refused: vec![],
        };
        assert!(way_out(&client).starts_with("by roof for ") && way_out(&client).ends_with(", 1 of 2 gateways ready"));
        (client.in_use, client.since_s) = (None, None);
        assert_eq!(way_out(&client), "none: nothing leaves; 1 of 2 gateways ready");
        client.refused = vec!["roof: it has no address left".to_owned()];
        assert_eq!(way_out(&client), "none: nothing leaves; 1 of 2 gateways ready; roof: it has no address left");
    }

    #[test]
    fn bytes_are_said_in_the_largest_unit() {
        assert_eq!(
            [0, 1023, 1024, 1_572_864, u64::MAX].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "17179869183.9 GiB"]
        );
    }
}
