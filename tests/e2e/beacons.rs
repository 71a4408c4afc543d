//! Routers on one segment that find each other, and somebody there who lies.

use std::fs;
use std::path::Path;

use metering::{Identity, NodeCard, Seed};
use node::beacon::Beacon;
use serde_json::Value;

use crate::lab::{Host, Lab, now, secs, until};
use crate::ledger::Ledger;
use crate::router::{Router, text};
use crate::traffic::{Pings, ping, reachable};

const LIAR: &str = include_str!("beacons.py");
/// Forged beacons a second, and for how long.
const RATE: u32 = 10_000;
const FLOOD_S: u32 = 5;
/// Accounts in whose names somebody else's key is told, two a second.
const LIES: u8 = 60;
/// What the flood may cost a router: part of one processor, and memory.
const CPU_MAX: f64 = 0.5;
const RSS_GROWTH_KIB_MAX: u64 = 8 << 10;

/// What the liar says.
fn lie(liar: &Host, device: &str, mode: &str, file: &Path, more: &[&str]) -> String {
    liar.must(&[&["python3", "-c", LIAR, device, mode, text(file)], more].concat())
}

fn links(router: &Router) -> Result<Vec<Value>, String> {
    Ok(router.show("neighbours")?.as_array().cloned().unwrap_or_default())
}

fn has_lines(router: &Router, count: usize) -> Result<(), String> {
    let links = links(router)?;
    if links.len() == count { Ok(()) } else { Err(format!("{}: {links:?}", router.name)) }
}

/// Whether it carries for so many neighbours.
fn has_links(router: &Router, count: usize) -> Result<(), String> {
    let links = links(router)?;
    let up = links.iter().filter(|line| line["state"] == "up" && line["admitted"] == true).count();
    if up == count { Ok(()) } else { Err(format!("{}: {links:?}", router.name)) }
}

#[test]
fn routers_on_one_segment_find_each_other_and_no_liar_there_is_believed() {
    let test = "routers_on_one_segment_find_each_other_and_no_liar_there_is_believed";
    let Some(mut lab) = Lab::open(test, &["ping", "python3"]) else { return };
    let ledger = Ledger::create(&lab);
    let all = ["r1", "r2", "r3", "r4"].map(|name| Router::new(&mut lab, name));
    ledger.add_members(&all);
    let [r1, r2, r3, r4] = all;
    let (mut routers, mut late) = ([r1, r2, r3], [r4]);
    let liar = lab.host("liar");
    let [a, b, c] = routers.each_ref().map(|router| &router.host);
    let devices = lab.segment(&[a, b, c, &late[0].host, &liar]);
    for (router, device) in routers.iter_mut().chain(&mut late).zip(&devices) {
        router.join_community(&ledger, "0");
        router.options.tables.push("[community]\nmembers_only = true\n".to_owned());
        router.options.tables.push(format!("[discovery]\ninterfaces = [\"{device}\", \"later0\"]\n"));
    }
    let began = now();
    routers.iter_mut().for_each(Router::start);
    let started = began.elapsed();
    for router in &routers {
        until("links to both others", secs(60), || has_links(router, 2));
    }
    let linked = began.elapsed();
    for from in &routers {
        for to in routers.iter().filter(|to| to.name != from.name) {
            reachable(&from.host, &to.address, secs(30));
        }
    }
    let reached = began.elapsed();
    lab.figures(&format!(
        "three routers were started in {:.1} s, had found each other after {:.1} s, and all pings were answered after {:.1} s",
        started.as_secs_f64(),
        linked.as_secs_f64(),
        reached.as_secs_f64()
    ));

    let (device, file) = (&devices[4], lab.dir().join("beacons"));
    let captured: u32 = lie(&liar, device, "capture", &file, &["12"]).trim().parse().expect("a number");
    assert!((3..=18).contains(&captured), "{captured} beacons of three routers in 12 s");
    let accounts = |router: &Router| -> Vec<Value> {
        links(router).expect("an answer").iter().map(|line| line["id"].clone()).collect()
    };
    let before: Vec<Vec<Value>> = routers.iter().map(accounts).collect();
    let used = |routers: &mut [Router; 3]| -> Vec<(f64, u64)> {
        routers.iter_mut().map(|router| (router.process().cpu_s(), router.process().rss_kib())).collect()
    };
    lie(&liar, device, "replay", &file, &[]);
    lie(&liar, device, "forge", &file, &[]);
    let (before_flood, flood_began) = (used(&mut routers), now());
    let (sent, pings) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| lie(&liar, device, "flood", &file, &[&FLOOD_S.to_string(), &RATE.to_string()]));
        let pings = ping(&routers[0].host, &routers[1].address, 10 * FLOOD_S, &[]);
        (flood.join().expect("the flood ends"), pings.expect("ping runs"))
    });
    let took = flood_began.elapsed().as_secs_f64();
    let after_flood = used(&mut routers);

    let mut cost = Vec::new();
    for (before, after) in before_flood.iter().zip(&after_flood) {
        let (cpu, grown) = ((after.0 - before.0) / took, after.1.saturating_sub(before.1));
        cost.push(format!("{:.0} % and +{grown} KiB", 100.0 * cpu));
        assert!(cpu < CPU_MAX, "a router used {cpu:.2} of a processor");
        assert!(grown <= RSS_GROWTH_KIB_MAX, "a router grew by {grown} KiB");
    }
    lab.figures(&format!(
        "{captured} captured beacons replayed, forged, and {} forged ones a second for {FLOOD_S} s: {} of {} pings answered; of \
         one processor, and in memory: {}",
        sent.trim(),
        pings.answered,
        pings.sent,
        cost.join(", ")
    ));
    let Pings { sent, answered } = pings;
    assert!(answered * 20 >= sent * 19, "{answered} of {sent} pings");
    for (router, before) in routers.iter().zip(before) {
        assert_eq!(accounts(router), before, "{} has other links", router.name);
        has_links(router, 2).unwrap_or_else(|error| panic!("{error}"));
        assert!(!router.log().contains("heard no more"), "{} lost a neighbour", router.name);
    }

    // Somebody who has beacons of ever new accounts name the key of a member that is about to come.
    let [late] = &mut late;
    let captured = fs::read_to_string(&file).expect("beacons");
    let line = captured.lines().next().expect("a beacon");
    let one = Beacon::decode(&hex::decode(line).expect("digits")).expect("a beacon");
    let shown = liar.must(&["ip", "-6", "-o", "address", "show", "dev", device, "scope", "link"]);
    let source = shown.split_whitespace().find_map(|word| word.strip_suffix("/64")?.parse().ok()).expect("an address");
    let victim: NodeCard = late.card().parse().expect("a card");
    let lies = (0..LIES).map(|number| {
        let liar = Identity::new(&Seed::from_bytes([number; 32]));
        let card = NodeCard::sign(liar.account(), victim.wireguard(), liar.tls_key());
        let card = NodeCard::decode(&card.encode()).expect("a card");
        hex::encode(Beacon { card, count: 1, source, ..one.clone() }.signed(&liar).encode()) + "\n"
    });
    fs::write(&file, lies.collect::<String>()).expect("room for a file");
    std::thread::scope(|scope| {
        let told = scope.spawn(|| lie(&liar, device, "tell", &file, &["0", "2"]));
        until("a link to the first liar", secs(10), || has_lines(&routers[0], 3));
        let began = now();
        late.start();
        until("links to all", secs(u64::from(LIES) / 2 - 10), || has_links(late, 3));
        lab.figures(&format!(
            "a member whose key a liar's beacons name is in after {:.1} s",
            began.elapsed().as_secs_f64()
        ));
        told.join().expect("the liar ends");
    });
}

#[test]
fn a_neighbour_on_two_cables_is_one_link_that_goes_by_the_one_that_works() {
    let test = "a_neighbour_on_two_cables_is_one_link_that_goes_by_the_one_that_works";
    let Some(mut lab) = Lab::open(test, &["ping", "nft"]) else { return };
    let ledger = Ledger::create(&lab);
    let mut routers = ["r1", "r2"].map(|name| Router::new(&mut lab, name));
    ledger.add_members(&routers);
    let cables = [0, 1].map(|_| lab.link_local_cable(&routers[0].host, &routers[1].host));
    for (index, router) in routers.iter_mut().enumerate() {
        router.join_community(&ledger, "0");
        let [first, second] = cables.each_ref().map(|(a, b)| if index == 0 { a } else { b });
        router.options.tables.push("[community]\nmembers_only = true\n".to_owned());
        router.options.tables.push(format!("[discovery]\ninterfaces = [\"{first}\", \"{second}\"]\n"));
        router.start();
    }
    let [r1, r2] = &routers;
    until("the link", secs(30), || has_links(r1, 1).and_then(|()| has_links(r2, 1)));
    reachable(&r1.host, &r2.address, secs(30));
    let index = |device: &str| r1.host.must(&["cat", &format!("/sys/class/net/{device}/ifindex")]).trim().to_owned();
    let on = [0, 1].map(|cable| format!("%{}]", index(&cables[cable].0)));
    // The ways that answer, the one in use first, and the cable that is in use.
    let ways = |router: &Router| -> Result<Vec<String>, String> {
        let links = links(router)?;
        assert_eq!(links.len(), 1, "{links:?}");
        let answer = |way: &&Value| way["rtt_us"].is_u64();
        let ways = links[0]["ways"].as_array().cloned().unwrap_or_default();
        let ways: Vec<&Value> = ways.iter().filter(answer).collect();
        let first = ways.first().is_some_and(|way| way["in_use"] == true && way["endpoint"] == links[0]["endpoint"]);
        let at = |way: &&Value| way["endpoint"].as_str().unwrap_or_default().to_owned();
        if ways.len() == 2 && first { Ok(ways.iter().map(at).collect()) } else { Err(format!("{links:?}")) }
    };
    until("two ways", secs(30), || ways(r1).and_then(|_| ways(r2)).map(drop));
    let in_use = |ways: &[String]| usize::from(!ways[0].contains(&on[0]));
    let used = in_use(&ways(r1).expect("two ways"));

    // The cable carries nothing any more, and nobody is told.
    let [dead, alive] = [used, 1 - used].map(|cable| &cables[cable]);
    r2.host.must(&["nft", "add table inet cut"]);
    r2.host.must(&["nft", "add chain inet cut enter { type filter hook input priority 0; }"]);
    r2.host.must(&["nft", &format!("add rule inet cut enter iifname {} drop", dead.1)]);
    let cut = now();
    reachable(&r1.host, &r2.address, secs(30));
    let silent = cut.elapsed();
    let goes_by = |cable: usize| {
        let links = links(r1)?;
        let at = links[0]["endpoint"].as_str().unwrap_or_default();
        if at.contains(&on[cable]) { Ok(()) } else { Err(at.to_owned()) }
    };
    until("it says that it goes by the other", secs(5), || goes_by(1 - used));

    // It is mended, and the other one is pulled.
    r2.host.must(&["nft", "delete table inet cut"]);
    until("both ways", secs(30), || ways(r1).and_then(|_| ways(r2)).map(drop));
    r1.host.must(&["ip", "link", "set", &alive.0, "down"]);
    let cut = now();
    reachable(&r1.host, &r2.address, secs(30));
    let pulled = cut.elapsed();
    until("it says so", secs(5), || goes_by(used));
    let [silent, pulled] = [silent, pulled].map(|took| took.as_secs_f64());
    lab.figures(&format!(
        "of two cables, one that lost everything was gone round after {silent:.1} s, and one that was pulled after {pulled:.1} s"
    ));
    assert!(silent < 5.0 && pulled < 5.0, "the other cable was there all the time");
    assert!(!r1.log().contains("link removed"), "it was one link throughout");
}
