//! Roles and prices that follow from the ways out of the mesh, and a budget, live.

use crate::lab::{Lab, now, secs, until};
use crate::ledger::{Ledger, TOKEN, base_units};
use crate::line::conserved;
use crate::router::{BY_ROUTES, PAYS, Router, join, settled};
use crate::traffic::{WebServer, ping, reachable};

const FILE: u64 = 20_000_000;

/// A gateway that asks 0.10, two relays that add 0.05 and 0.10 to what that costs them, and a house that pays either.
#[test]
fn a_house_pays_the_cheaper_relay_then_the_other_and_nobody_when_its_budget_is_used() {
    let name = "a_house_pays_the_cheaper_relay_then_the_other_and_nobody_when_its_budget_is_used";
    let Some(mut lab) = Lab::open(name, &["ping", "curl", "python3"]) else { return };
    let ledger = Ledger::create(&lab);
    let mut routers = ["gateway", "cheap", "dear", "house"].map(|name| Router::new(&mut lab, name));
    for (router, price) in routers.iter_mut().zip(["ask = \"0.10\"", "fee = \"0.05\"", "fee = \"0.10\"", "fee = \"0\""])
    {
        router.join_community(&ledger, "0");
        router.options.price = Some(price.to_owned());
        router.options.hop_worth = "0.01";
        router.options.deposit = "1";
        ledger.mint(router, 20);
    }
    routers[0].options.announce.push("::/0".to_owned());
    let [gateway, cheap, dear, house] = &mut routers;
    for relay in [&mut *cheap, &mut *dear] {
        join(&mut lab, relay, gateway, BY_ROUTES);
        join(&mut lab, house, relay, BY_ROUTES);
    }
    routers.iter_mut().for_each(Router::start);
    let [gateway, cheap, dear, house] = &mut routers;

    // Nobody has said who pays whom.
    agreed(cheap, gateway, "0.10");
    agreed(dear, gateway, "0.10");
    agreed(house, cheap, "0.15");
    until("a peer", secs(60), || is_peer(house, dear).and_then(|()| is_peer(dear, house)));
    let web = WebServer::start(&lab, &gateway.host, &gateway.address, FILE);
    reachable(&house.host, &gateway.address, secs(10));
    web.must_fetch_gently(&house.host);
    let paid = settled(house, cheap);
    let passed_on = settled(cheap, gateway);
    // Of the same bytes, but for those that routers count of each other's own traffic. (What a relay's queue drops, the relay
    // has paid for and the house has not.)
    let ratio = paid.amount as f64 / passed_on.amount as f64;
    assert!((1.45..1.55).contains(&ratio), "{paid:?} {passed_on:?}");

    let killed = now();
    cheap.kill();
    agreed(house, dear, "0.20");
    reachable(&house.host, &gateway.address, secs(10));
    let outage = killed.elapsed();
    web.must_fetch(&house.host);
    let other = settled(house, dear);
    assert!(other.amount >= price(FILE, 200_000), "{other:?}");

    // The relay's owner changes the file, and changes it back; nobody starts anything again.
    for (from, to, pays) in [("\"0.10\"", "\"0.11\"", "0.21"), ("\"0.11\"", "\"0.10\"", "0.20")] {
        let before = std::fs::read_to_string(dear.config_file()).expect("a config file");
        let after = before.replace(&format!("fee = {from}"), &format!("fee = {to}"));
        assert_ne!(before, after);
        std::fs::write(dear.config_file(), after).expect("room for a config file");
        let waits = dear.show("reload").expect("it reads the file");
        assert_eq!(waits["at_next_start"].as_array().map(Vec::len), Some(0), "{waits}");
        agreed(house, dear, pays);
    }

    // What today has come to, and a little more.
    house.stop();
    let used = paid.amount + other.amount;
    let budget = used + price(FILE, 200_000) / 2;
    let tokens = format!("{}.{:06}", budget / TOKEN, budget % TOKEN);
    house.options.price = Some(format!("fee = \"0\"\nbudget_day = \"{tokens}\""));
    house.start();
    agreed(house, dear, "0.20");
    reachable(&house.host, &gateway.address, secs(10));
    until("the end of the budget", secs(60), || {
        // It may fail: the budget ends under it.
        let _arrived = web.fetch(&house.host, &["--max-time", "5"]);
        let status = house.show("status")?;
        let warned = status["warnings"].as_array().is_some_and(|all| {
            all.iter().any(|warning| warning.as_str().is_some_and(|text| text.starts_with("the budget is used: ")))
        });
        if warned { Ok(()) } else { Err(format!("{status}")) }
    });
    until("no way that costs", secs(30), || match ping(&house.host, &gateway.address, 1, &["-W", "1"]) {
        Ok(pings) if pings.answered > 0 => Err("it still gets out".to_owned()),
        _ => Ok(()),
    });
    until("peers", secs(90), || is_peer(house, dear).and_then(|()| is_peer(dear, house)));
    let last = dear.held_from(house).expect("a receipt");
    let spent = paid.amount + last.amount;
    assert!(spent >= budget, "{spent} of {budget}");
    // Over it by what is reported at a time, an eighth of a window, and by what was on its way.
    let over = spent - budget;
    assert!(over <= price(2 * FILE, 200_000), "{spent} of {budget}");
    reachable(&house.host, &dear.address, secs(10));
    let unpaid = dear.meter(house).expect("a meter").owed_to_us;
    assert_eq!((unpaid, dear.held_from(house).expect("a receipt")), (0, last), "what passes between peers is free");
    lab.figures(&format!(
        "house paid {} and {} base units for 20 MB each at 0.15 and 0.20; {outage:.1?} from the end of one relay to terms \
         with the other; over its budget by {:.1} MB",
        paid.amount,
        other.amount,
        over as f64 / price(1_000_000, 200_000) as f64,
    ));
    cheap.start();
    conserved(&ledger, &routers);
}

/// Waits until one pays the other so much, by what both say.
fn agreed(payer: &Router, payee: &Router, tokens: &str) {
    let asked: u128 = tokens.replace("0.", "").parse::<u128>().expect("hundredths") * (TOKEN / 100);
    until(&format!("{} to pay {} {tokens}", payer.name, payee.name), secs(90), || {
        for (one, other, role) in [(payer, payee, "provider"), (payee, payer, "subscriber")] {
            let why = one.why(other)?;
            let terms = &why["terms"];
            if why["role"] != role || terms["agreed"] != true || base_units(&terms["price_down"]) != Some(asked) {
                return Err(format!("{}: {why}", one.name));
            }
        }
        Ok(())
    });
}

fn is_peer(one: &Router, other: &Router) -> Result<(), String> {
    let why = one.why(other)?;
    if why["role"] == "peer" && why["terms"]["agreed"] == true { Ok(()) } else { Err(format!("{}: {why}", one.name)) }
}

/// What so many bytes cost at so many base units per GiB.
fn price(bytes: u64, per_gib: u128) -> u128 {
    (u128::from(bytes) * per_gib) >> 30
}

/// A channel ends at its owner's word, with what is signed for the payee and the rest for the payer; without the payee by
/// notice.
#[test]
fn a_channel_ends_by_agreement_and_without_the_payee_by_notice() {
    let name = "a_channel_ends_by_agreement_and_without_the_payee_by_notice";
    let Some(mut lab) = Lab::open(name, &["ping", "curl", "python3"]) else { return };
    let ledger = Ledger::create(&lab);
    let mut pair = ["payer", "payee"].map(|name| Router::new(&mut lab, name));
    for router in &mut pair {
        router.join_community(&ledger, "1");
        ledger.mint(router, 20);
    }
    let [payer, payee] = &mut pair;
    join(&mut lab, payer, payee, PAYS);
    pair.iter_mut().for_each(Router::start);
    let [payer, payee] = &mut pair;
    reachable(&payer.host, &payee.address, secs(30));
    let web = WebServer::start(&lab, &payee.host, &payee.address, FILE);
    web.must_fetch(&payer.host);
    let began = now();
    let answer = payer.close(payee).unwrap_or_else(|error| panic!("{error}"));
    let took = began.elapsed();
    let refunded = base_units(&answer["refunded"]).unwrap_or_else(|| panic!("{answer}"));
    let earned = 5 * TOKEN - refunded;
    assert!((price(FILE, TOKEN)..price(2 * FILE, TOKEN)).contains(&earned), "{answer}");
    assert_eq!(payer.wallet(), (20 * TOKEN - earned, 0));
    assert_eq!(payee.wallet().0, 20 * TOKEN + earned);
    assert_eq!(payee.redeem(), 0, "the ledger has paid it");
    // The next one is opened when something is owed.
    web.must_fetch(&payer.host);
    assert_eq!(settled(payer, payee).nonce, 2);
    payee.redeem();

    payee.kill();
    let answer = payer.close(payee).unwrap_or_else(|error| panic!("{error}"));
    assert!(answer["refunded"].is_null() && answer["notice_until"].as_u64().is_some(), "{answer}");
    lab.figures(&format!("closed by agreement in {took:.1?}"));
    payee.start();
    // The notice runs, and business goes on by another channel.
    reachable(&payer.host, &payee.address, secs(30));
    web.must_fetch(&payer.host);
    assert_eq!(settled(payer, payee).nonce, 3);
    conserved(&ledger, &pair);
}

/// Two that cannot do business carry nothing for each other, and their owners hear why.
#[test]
fn who_asks_too_much_or_takes_itself_for_something_else_is_named_to_the_owner() {
    let name = "who_asks_too_much_or_takes_itself_for_something_else_is_named_to_the_owner";
    let Some(mut lab) = Lab::open(name, &["ping"]) else { return };
    let ledger = Ledger::create(&lab);
    let mut routers = ["house", "dear", "friend"].map(|name| Router::new(&mut lab, name));
    for (router, ask) in routers.iter_mut().zip(["0", "2000000", "1"]) {
        router.join_community(&ledger, ask);
        ledger.mint(router, 20);
    }
    let [house, dear, friend] = &mut routers;
    join(&mut lab, house, dear, PAYS);
    join(&mut lab, house, friend, PAYS);
    let table = &mut friend.options.tables[0];
    *table = table.replace("role = \"subscriber\"", "role = \"peer\"");
    routers.iter_mut().for_each(Router::start);
    let began = now();
    let [house, dear, friend] = &routers;
    for (owner, warning) in [
        (
            house,
            "dear asks 2000000.000000 WAY per GiB, above the limit of 1000000.000000 ([price] max): it carries nothing \
             for us",
        ),
        (
            house,
            "friend takes itself for our peer, and we take ourselves for its subscriber: nothing is carried until the two \
             owners agree on `role`",
        ),
        (
            friend,
            "house takes itself for our subscriber, and we take ourselves for its peer: nothing is carried until the two \
             owners agree on `role`",
        ),
    ] {
        until(warning, secs(60), || owner.warned(warning));
    }
    assert!(dear.show("status").expect("an answer")["warnings"].as_array().is_some_and(Vec::is_empty));
    lab.figures(&format!("owners are told within {:.0?}", began.elapsed()));
}
