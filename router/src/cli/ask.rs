//! The commands that ask a running router, and how its answers look.

use std::collections::BTreeMap;
use std::time::Duration;

use metering::Tokens;
use serde::Serialize;

use super::table::Side::{Left, Right};
use super::table::{Table, amount, facts, harmless, money, round_trip, short_id, span};
use super::{Ask, Failure, internet};
use crate::control::{
    self, Closed, Direction, KeptBy, LinkState, MembershipState, Meters, Neighbour, ReceiptLine, Receipts,
    RedeemedReceipts, Reloaded, Request, Response, Routes, Status, Unit, Wallet, Why,
};
use crate::router::moment;

/// Asks, and renders the answer for a person or a program.
pub(super) fn ask(arguments: &Ask, request: &Request) -> Result<String, Failure> {
    let response = control::ask(&arguments.socket, request)?;
    Ok(if arguments.json { as_json(&response) } else { as_text(&response) })
}

/// The answer's value alone; what it answers, the caller knows.
fn as_json(response: &Response) -> String {
    fn pretty(value: &impl Serialize) -> String {
        let mut text = serde_json::to_string_pretty(value).expect("an answer came as JSON and has string keys only");
        text.push('\n');
        text
    }
    match response {
        Response::Status(status) => pretty(status),
        Response::Neighbours(neighbours) => pretty(neighbours),
        Response::Routes(routes) => pretty(routes),
        Response::Meters(meters) => pretty(meters),
        Response::Why(why) => pretty(why),
        Response::Statement(statement) => pretty(statement),
        Response::Receipts(receipts) => pretty(receipts),
        Response::Redeemed(redeemed) => pretty(redeemed),
        Response::Closed(closed) => pretty(closed),
        Response::Wallet(wallet) => pretty(wallet),
        Response::Gateway(gateway) => pretty(gateway),
        Response::Internet(internet) => pretty(internet),
        Response::Reloaded(reloaded) => pretty(reloaded),
        Response::Done => "{}\n".to_owned(),
        Response::Failed(refusal) => pretty(refusal),
    }
}

fn as_text(response: &Response) -> String {
    match response {
        Response::Status(answer) => status(answer),
        Response::Neighbours(answer) => neighbours(answer),
        Response::Routes(answer) => routes(answer),
        Response::Meters(answer) => meters(answer),
        Response::Why(answer) => why(answer),
        Response::Receipts(answer) => receipts(answer),
        Response::Redeemed(answer) => redeemed(answer),
        Response::Closed(answer) => closed(answer),
        Response::Wallet(answer) => wallet(answer),
        Response::Gateway(answer) => internet::gateway(answer),
        Response::Internet(answer) => internet::internet(answer),
        Response::Reloaded(answer) => reloaded(answer),
        // `waybill statement` adds what each household bears, and renders that.
        Response::Statement(_) | Response::Done => String::new(),
        Response::Failed(refusal) => harmless(&refusal.cause),
    }
}

fn status(status: &Status) -> String {
    let ledger = match status.ledger_reachable {
        Some(true) => "reachable",
        Some(false) => "unreachable; receipts are kept until it is back",
        None => "none: this router carries for free",
    };
    let mut list = vec![
        ("name", status.name.clone()),
        ("account", status.id.to_string()),
        ("mesh address", status.mesh_address.to_string()),
        ("prefix", status.prefix.clone()),
        ("running", format!("waybill {}, for {}", status.version, span(Duration::from_secs(status.uptime_s)))),
        ("links", format!("{} of {} up", status.links_up, status.links)),
        ("routes", status.routes.to_string()),
        ("ledger", ledger.to_owned()),
    ];
    if let Some(membership) = &status.membership {
        list.push(("member", said_of(membership)));
    }
    list.extend(status.gateway.as_ref().map(|gateway| ("gateway", internet::clients_of(gateway))));
    list.extend(status.internet.as_ref().map(|sessions| ("internet", internet::way_out(sessions))));
    if let Some(found) = &status.ledger_distrusted {
        list.push(("NOT TRUSTED", harmless(found)));
    }
    if status.ledger_reachable.is_some() {
        list.push(("owed by us", money(status.owed_by_us, &status.unit)));
        list.push(("owed to us", money(status.owed_to_us, &status.unit)));
        list.push(("at risk", format!("{} at most", money(status.value_at_risk, &status.unit))));
    }
    list.push(("dropped", drops(&status.drops)));
    let mut text = facts(&list);
    for warning in &status.warnings {
        text.push_str(&format!("warning: {}\n", harmless(warning)));
    }
    text
}

fn reloaded(reloaded: &Reloaded) -> String {
    let mut text = "the file is read again and in effect".to_owned();
    if !reloaded.at_next_start.is_empty() {
        text.push_str(&format!(", but for what has changed in {}\n  ", reloaded.at_next_start.join(", ")));
        text.push_str("that takes effect at the next start: stop the router, and start it again");
    }
    text + "\n"
}

fn drops(drops: &BTreeMap<String, u64>) -> String {
    let packets = drops.values().fold(0, |sum: u64, packets| sum.saturating_add(*packets));
    let reasons: Vec<String> = drops.iter().map(|(reason, packets)| format!("{packets} {reason}")).collect();
    match packets {
        0 => "no packet".to_owned(),
        1 => format!("1 packet: {}", reasons.join(", ")),
        _ => format!("{packets} packets: {}", reasons.join(", ")),
    }
}

fn said_of(membership: &MembershipState) -> String {
    let MembershipState { member, until, waits } = membership;
    match (member, until, waits) {
        (true, Some(until), _) => format!("until {}", moment(*until)),
        (true, None, _) => "yes".to_owned(),
        (false, _, Some(waits)) => format!("no: {}", harmless(waits)),
        (false, Some(until), None) => format!("no: it ended at {}, or was taken back", moment(*until)),
        (false, None, None) => "not yet".to_owned(),
    }
}

fn neighbours(neighbours: &[Neighbour]) -> String {
    if neighbours.is_empty() {
        return "There are no neighbours yet.\n  \
                Add a [[peer]] with its card to the config file, then reload the router (SIGHUP).\n"
            .to_owned();
    }
    let mut table = Table::new(&[
        ("NAME", Left),
        ("ACCOUNT", Left),
        ("LINK", Left),
        ("STATE", Left),
        ("ROLE", Left),
        ("COST", Right),
        ("RTT", Right),
        ("HEARD", Right),
        ("ENDPOINT", Left),
    ]);
    for neighbour in neighbours {
        let state = match (neighbour.state, neighbour.admitted) {
            (LinkState::Up, true) if neighbour.visitor => "up, no member",
            (LinkState::Up, true) => "up",
            (LinkState::Up, false) => "up, not admitted",
            (LinkState::Connecting, _) => "connecting",
            (LinkState::Down, _) => "down",
        };
        table.row([
            neighbour.name.clone(),
            or_dash(Some(neighbour.id).filter(|id| id.0 != [0; 20]).map(short_id)),
            match (neighbour.link.as_str(), neighbour.carrier.as_str()) {
                ("auto", "quic") => "quic (auto)".to_owned(),
                (_, carrier) => carrier.to_owned(),
            },
            state.to_owned(),
            neighbour.role.clone(),
            or_dash(neighbour.cost.map(|cost| cost.to_string())),
            or_dash(neighbour.rtt_us.map(round_trip)),
            neighbour
                .last_heard_s
                .map_or_else(|| "never".to_owned(), |seconds| format!("{} ago", span(Duration::from_secs(seconds)))),
            or_dash(neighbour.endpoint.clone()),
        ]);
        let mut row: [String; 9] = Default::default();
        for way in neighbour.ways.iter().filter(|way| !way.in_use) {
            row[2] = "or by".to_owned();
            row[6] = or_dash(way.rtt_us.map(round_trip));
            row[7] = format!("{} % lost", way.lost_per_mille.div_ceil(10));
            row[8].clone_from(&way.endpoint);
            table.row(row.clone());
        }
    }
    table.render()
}

fn routes(answer: &Routes) -> String {
    if answer.routes.is_empty() {
        return "There are no routes yet.\n  See whether a link is up with `waybill neighbours`.\n".to_owned();
    }
    let price =
        if answer.unit.symbol.is_empty() { "PRICE".to_owned() } else { format!("{} PER GiB", answer.unit.symbol) };
    let mut table =
        Table::new(&[("", Left), ("PREFIX", Left), ("VIA", Left), ("METRIC", Right), (&price, Right), ("FROM", Left)]);
    for route in &answer.routes {
        let per_gib = |price: u64| Tokens::new(price.into()).unwrap_or(Tokens::MAX);
        table.row([
            if route.selected { ">" } else { "" }.to_owned(),
            route.prefix.clone(),
            route.via.clone().unwrap_or_else(|| "this router".to_owned()),
            if route.metric == u16::MAX { "unreachable".to_owned() } else { route.metric.to_string() },
            match route.price {
                None => "unknown".to_owned(),
                Some(0) => "free".to_owned(),
                Some(price) => amount(per_gib(price), &answer.unit),
            },
            route.router_id.clone(),
        ]);
    }
    format!("{}\n> packets take this route\n", table.render())
}

fn meters(answer: &Meters) -> String {
    if answer.meters.is_empty() {
        return "Nothing was metered yet.\n  See whether a link is up with `waybill neighbours`.\n".to_owned();
    }
    let mut table = Table::new(&[
        ("NEIGHBOUR", Left),
        ("ROLE", Left),
        ("SENT", Right),
        ("RECEIVED", Right),
        ("THEY SENT", Right),
        ("THEY RECEIVED", Right),
        ("OWED BY US", Right),
        ("OWED TO US", Right),
        ("SIGNED", Right),
    ]);
    for meter in &answer.meters {
        table.row([
            meter.neighbour.clone(),
            meter.role.clone(),
            meter.sent_bytes.to_string(),
            meter.received_bytes.to_string(),
            or_dash(meter.reported_sent_bytes.map(|bytes| bytes.to_string())),
            or_dash(meter.reported_received_bytes.map(|bytes| bytes.to_string())),
            amount(meter.owed_by_us, &answer.unit),
            amount(meter.owed_to_us, &answer.unit),
            amount(meter.signed, &answer.unit),
        ]);
    }
    let mut text = table.render();
    text.push('\n');
    if !answer.unit.symbol.is_empty() {
        text.push_str(&format!("Amounts are in {}. ", answer.unit.symbol));
    }
    text.push_str("Bytes are billed bytes; THEY columns are what the neighbour reports.\n");
    for meter in answer.meters.iter().filter(|meter| !meter.sentence.is_empty()) {
        text.push_str(&format!("{}: {}\n", harmless(&meter.neighbour), harmless(&meter.sentence)));
    }
    text
}

fn why(answer: &Why) -> String {
    let name = harmless(&answer.neighbour);
    let per_gib = |price: u64| amount(Tokens::new(price.into()).unwrap_or(Tokens::MAX), &answer.unit);
    let symbol = &answer.unit.symbol;
    let mut text = match (&answer.terms, answer.role.as_str()) {
        (None, _) => format!("Nothing is agreed on with {name} yet.\n"),
        (Some(terms), _) if terms.price_up.max(terms.price_down) == 0 => {
            format!("{name} is your {}: nobody pays, both count.\n", answer.role)
        }
        (Some(terms), role) => {
            let pays = if role == "provider" { format!("You pay {name}") } else { format!("{name} pays you") };
            let agreed = if terms.agreed { "" } else { " (not agreed on yet)" };
            format!(
                "{name} is your {role}. {pays} {} {symbol} per GiB sent and {} {symbol} per GiB \
                 received, for what arrived by both sides' counts{agreed}.\n",
                per_gib(terms.price_up),
                per_gib(terms.price_down),
            )
        }
    };
    if answer.arrears > Tokens::ZERO {
        text.push_str(&format!(
            "{name} left {} unpaid when agreements ended; that shortens its credit until it is worked off.\n",
            money(answer.arrears, &answer.unit)
        ));
    }
    text.push_str(&format!("{}\n\n", harmless(&answer.sentence)));
    if answer.days.is_empty() {
        text.push_str("Nothing was counted in these days.\n");
        return text;
    }
    let mut table = Table::new(&[
        ("DAY", Left),
        ("SENT", Right),
        ("THEY RECEIVED", Right),
        ("LOST", Right),
        ("THEY SENT", Right),
        ("RECEIVED", Right),
        ("LOST", Right),
        ("EARNED", Right),
        ("SPENT", Right),
        ("WRITTEN OFF", Right),
    ]);
    for day in &answer.days {
        table.row([
            day.day.clone(),
            day.sent_bytes.to_string(),
            day.reported_received_bytes.to_string(),
            lost(day.sent_bytes, day.reported_received_bytes),
            day.reported_sent_bytes.to_string(),
            day.received_bytes.to_string(),
            lost(day.reported_sent_bytes, day.received_bytes),
            amount(day.earned, &answer.unit),
            amount(day.spent, &answer.unit),
            amount(day.written_off, &answer.unit),
        ]);
    }
    text.push_str(&table.render());
    for day in answer.days.iter().filter(|day| day.paid_late > Tokens::ZERO) {
        let paid = money(day.paid_late, &answer.unit);
        text.push_str(&format!(
            "\nOn {} {name} paid {paid} late, of what earlier days show as written off: those lines stay as they were.",
            harmless(&day.day)
        ));
    }
    text.push_str(if answer.days.iter().any(|day| day.paid_late > Tokens::ZERO) { "\n" } else { "" });
    text.push_str(
        "\nBytes are billed bytes, counted while terms were agreed on; THEY columns are what the neighbour reports.",
    );
    if !symbol.is_empty() {
        text.push_str(&format!(" Amounts are in {symbol}."));
    }
    text.push('\n');
    text
}

/// The share of what was sent that did not arrive, as far as counts that are read at different moments can say.
fn lost(sent: metering::Bytes, arrived: metering::Bytes) -> String {
    let missing = u128::from(sent.saturating_sub(arrived).get());
    match (missing * 1000).checked_div(u128::from(sent.get())) {
        None => "-".to_owned(),
        Some(tenths) => format!("{}.{} %", tenths / 10, tenths % 10),
    }
}

fn receipts(answer: &Receipts) -> String {
    let kept = kept_for_others(answer);
    if answer.receipts.is_empty() && kept.is_empty() {
        return "There are no receipts yet.\n  \
                They come with paid traffic: see [price] and [ledger] in the config file, and `waybill meters`.\n"
            .to_owned();
    }
    let symbol = &answer.unit.symbol;
    let mut table = Table::new(&[
        ("NEIGHBOUR", Left),
        ("DIRECTION", Left),
        ("CHANNEL", Right),
        (&format!("SIGNED {symbol}"), Right),
        ("ON DISK", Right),
        ("REDEEMED", Right),
        ("KEPT BY", Left),
    ]);
    for receipt in &answer.receipts {
        table.row([
            receipt.neighbour.clone(),
            direction(receipt.direction).to_owned(),
            receipt.channel.nonce.to_string(),
            signed(receipt, &answer.unit),
            amount(receipt.durable, &answer.unit),
            amount(receipt.redeemed, &answer.unit),
            kept_by(receipt, &answer.unit),
        ]);
    }
    let own = if answer.receipts.is_empty() { String::new() } else { table.render() };
    [own, kept].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

/// What is signed. Of what we signed ourselves before a restart only the ceiling is on disk, until the payee says how much it was.
fn signed(receipt: &ReceiptLine, unit: &Unit) -> String {
    if receipt.direction == Direction::WePay && receipt.amount == Tokens::ZERO && receipt.durable > Tokens::ZERO {
        return format!("at most {}", amount(receipt.durable, unit));
    }
    amount(receipt.amount, unit)
}

/// Who keeps a copy, and over how much; that it is over the newest goes without saying.
fn kept_by(receipt: &ReceiptLine, unit: &Unit) -> String {
    if receipt.direction == Direction::WePay {
        return "-".to_owned();
    }
    let of = |kept: &KeptBy| {
        let stale = kept.amount < receipt.durable;
        if stale { format!("{} ({})", kept.neighbour, amount(kept.amount, unit)) } else { kept.neighbour.clone() }
    };
    let all: Vec<String> = receipt.kept_by.iter().map(of).collect();
    if all.is_empty() { "nobody yet".to_owned() } else { all.join(", ") }
}

fn kept_for_others(answer: &Receipts) -> String {
    if answer.keeping.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("KEPT FOR", Left),
        ("SIGNED BY", Left),
        ("CHANNEL", Right),
        (&format!("SIGNED {}", answer.unit.symbol), Right),
        ("ON DISK", Left),
    ]);
    for kept in &answer.keeping {
        table.row([
            kept.payee.clone(),
            kept.payer.clone(),
            kept.channel.nonce.to_string(),
            amount(kept.amount, &answer.unit),
            if kept.durable { "yes" } else { "soon" }.to_owned(),
        ]);
    }
    table.render()
}

fn redeemed(answer: &RedeemedReceipts) -> String {
    if answer.redeemed.is_empty() {
        return "There was nothing to redeem.\n  See `waybill receipts` for what is held.\n".to_owned();
    }
    let mut table =
        Table::new(&[("NEIGHBOUR", Left), ("CHANNEL", Right), (&format!("PAID {}", answer.unit.symbol), Right)]);
    for receipt in &answer.redeemed {
        table.row([receipt.neighbour.clone(), receipt.channel.nonce.to_string(), amount(receipt.paid, &answer.unit)]);
    }
    table.render()
}

fn closed(answer: &Closed) -> String {
    let (to, nonce) = (harmless(&answer.neighbour), answer.channel.nonce);
    match (answer.refunded, answer.notice_until) {
        (Some(refunded), _) => format!(
            "The channel {nonce} to {to} has ended: {} came back.\n  The next one is opened when something is owed again.\n",
            money(refunded, &answer.unit)
        ),
        (None, Some(until)) => format!(
            "{to} does not answer, so notice was given on channel {nonce}.\n  What is left comes back by itself after {} UTC.\n",
            moment(until)
        ),
        (None, None) => format!("The channel {nonce} to {to} is ending.\n"),
    }
}

fn wallet(wallet: &Wallet) -> String {
    let mut text = facts(&[
        ("community", wallet.community.clone()),
        ("account", wallet.account.to_string()),
        ("balance", money(wallet.balance, &wallet.unit)),
        ("locked", format!("{} in channels to providers", money(wallet.locked_in_channels, &wallet.unit))),
        ("earned", format!("{} not redeemed yet", money(wallet.earned_unredeemed, &wallet.unit))),
    ]);
    if wallet.channels.is_empty() {
        return text;
    }
    let mut table = Table::new(&[
        ("NEIGHBOUR", Left),
        ("DIRECTION", Left),
        ("CHANNEL", Right),
        (&format!("DEPOSIT {}", wallet.unit.symbol), Right),
        ("REDEEMED", Right),
        ("STATE", Left),
    ]);
    for channel in &wallet.channels {
        table.row([
            channel.neighbour.clone(),
            direction(channel.direction).to_owned(),
            channel.channel.nonce.to_string(),
            amount(channel.deposit, &wallet.unit),
            amount(channel.redeemed, &wallet.unit),
            if channel.exit_time_s.is_some() { "closing" } else { "open" }.to_owned(),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::WePay => "we pay",
        Direction::WeArePaid => "we are paid",
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests;
