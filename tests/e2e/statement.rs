//! The month's statement, from the program's own mouth.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::lab::{Lab, said, secs, until};
use crate::router::{PEERS, Router, join, joined, text};
use crate::traffic::{WebServer, reachable};

/// Two households at a relay, without prices: counted, and nothing signed.
#[test]
fn a_month_without_prices_is_counted_and_its_cost_is_shared_to_the_last_cent() {
    let tools = ["ping", "curl", "python3"];
    let name = "a_month_without_prices_is_counted_and_its_cost_is_shared_to_the_last_cent";
    let Some(mut lab) = Lab::open(name, &tools) else { return };
    let mut routers = ["relay", "barn", "mill"].map(|name| Router::new(&mut lab, name));
    let [relay, barn, mill] = &mut routers;
    join(&mut lab, barn, relay, PEERS);
    join(&mut lab, mill, relay, PEERS);
    routers.iter_mut().for_each(Router::start);
    let [relay, barn, mill] = &mut routers;
    joined(relay, barn);
    joined(relay, mill);
    reachable(&barn.host, &mill.address, secs(30));
    // A neighbour that carries for both: what barn downloads from mill was carried for mill and for barn.
    let web = WebServer::start(&lab, &mill.host, &mill.address, 20_000_000);
    web.must_fetch(&barn.host);
    web.must_fetch(&relay.host);
    let cost = ["--cost", "100.01", "--currency", "EUR", "--equal-share", "40"];
    // A segment's counts are as of the neighbour's latest report.
    let answer = until("both counts", secs(20), || {
        let answer = statement(relay, &[&cost[..], &["--json"]].concat())?;
        let value: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        let households = value["households"].as_array().into_iter().flatten();
        let counted = households.filter(|household| {
            let [sent, there, received] = ["sent_bytes", "reported_received_bytes", "received_bytes"]
                .map(|name| household[name].as_u64().unwrap_or(0));
            received > 20_000 && sent > 20_000 && sent.abs_diff(there) < 20_000 && household["earned"] == "0"
        });
        if counted.count() == 2 { Ok(value) } else { Err(answer) }
    });
    let month = answer["month"].as_str().expect("a month").to_owned();
    let part =
        |share: &Value| -> u64 { share["in_all"].as_str().and_then(|text| text.parse().ok()).expect("an amount") };
    let shares = answer["cost"]["shares"].as_array().expect("shares");
    assert_eq!(shares.iter().map(part).sum::<u64>(), 10_001, "{answer}");
    // Mill sent its file twice, barn received it once.
    assert_eq!((&shares[0]["neighbour"], &shares[1]["neighbour"]), (&"barn".into(), &"mill".into()));
    assert!(part(&shares[1]) > part(&shares[0]), "{answer}");

    // The same after a restart, from the journal.
    relay.stop();
    relay.start();
    let [csv, page] = ["csv", "html"].map(|kind| lab.dir().join(format!("statement.{kind}")));
    let files = ["--month", &month, "--csv", text(&csv), "--page", text(&page)];
    let table = statement(relay, &[&cost[..], &files].concat()).expect("a table");
    assert!(table.contains("The month cost 100.01 EUR: 40.00 shared equally, 60.01 by bytes carried."), "{table}");
    let csv = fs::read_to_string(csv).expect("a table");
    let in_cents: u64 = csv
        .lines()
        .skip(1)
        .map(|line| line.rsplit(',').next().expect("a cell").replace('.', ""))
        .map(|cents| cents.parse::<u64>().unwrap_or_else(|_| panic!("{csv}")))
        .sum();
    assert_eq!((csv.lines().count(), in_cents), (3, 10_001), "{csv}");
    let html = fs::read_to_string(page).expect("a page");
    assert!(html.contains("<th scope=\"row\">barn</th>") && html.contains("100.01 EUR"), "{html}");

    let empty = statement(relay, &["--month", "2001-01"]).expect("a statement of nothing");
    assert!(empty.contains("Nothing was counted in this month."), "{empty}");
    let refused = statement(relay, &["--cost", "5"]).expect_err("no currency");
    assert!(refused.contains("--currency EUR"), "{refused}");
    lab.figures(&format!(
        "100.01 EUR of {month} shared by two households: {} and {} cents",
        part(&shares[0]),
        part(&shares[1])
    ));
}

/// What `waybill statement` prints.
fn statement(router: &Router, more: &[&str]) -> Result<String, String> {
    let socket = router.control_socket();
    let mut line = vec![text(&router.waybill), "statement", "--socket", text(&socket)];
    line.extend(more);
    said(&line, &Command::new(line[0]).args(&line[1..]).output().map_err(|error| error.to_string())?)
}
