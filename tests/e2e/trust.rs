//! Credit, live: who does not pay, and who dies again and again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::lab::{Host, Lab, now, secs, until};
use crate::ledger::{Ledger, TOKEN, base_units};
use crate::line::conserved;
use crate::router::{PAYS, PEERS, Router, join, settled};
use crate::traffic::{WebServer, reachable};

/// Bytes a second, as `metering::credit` has it.
const LIFELINE: u64 = metering::credit::LIFELINE.get();

/// What is downloaded again and again, bytes.
const FILE: u64 = 20_000_000;

/// A relay between a server and two households: one pays, the other has no token.
#[test]
fn whoever_cannot_pay_has_a_lifeline_and_whoever_pays_does_not_notice() {
    let tools = ["ping", "curl", "python3"];
    let name = "whoever_cannot_pay_has_a_lifeline_and_whoever_pays_does_not_notice";
    let Some(mut lab) = Lab::open(name, &tools) else { return };
    let ledger = Ledger::create(&lab);
    let mut routers = ["server", "relay", "payer", "broke"].map(|name| Router::new(&mut lab, name));
    for (router, tokens) in routers.iter_mut().zip([10, 10, 40, 0]) {
        router.join_community(&ledger, "1");
        if tokens > 0 {
            ledger.mint(router, tokens);
        }
    }
    let [server, relay, payer, broke] = &mut routers;
    join(&mut lab, server, relay, PEERS);
    join(&mut lab, payer, relay, PAYS);
    join(&mut lab, broke, relay, PAYS);
    routers.iter_mut().for_each(Router::start);
    let [server, relay, payer, broke] = &routers;
    reachable(&payer.host, &server.address, secs(30));
    reachable(&broke.host, &server.address, secs(30));
    let web = WebServer::start(&lab, &server.host, &server.address, 100_000_000);
    // The first download opens the channel and makes the payer known.
    web.must_fetch(&payer.host);
    let alone = web.must_fetch(&payer.host);

    let wanting = AtomicBool::new(true);
    let (beside, carried, took, restored) = thread::scope(|scope| {
        let _ends = Ends(&wanting);
        let download = scope.spawn(|| while_wanted(&wanting, &broke.host, &web));
        let sent = || relay.meter(broke).expect("a meter").sent;
        until("the window to fill", secs(30), || {
            let before = relay.drops("unpaid");
            if before > 0 { Ok(()) } else { Err("nothing was refused yet".to_owned()) }
        });
        // Two ticks after its window is full it is at the lifeline's rate.
        thread::sleep(secs(10));
        let (began, before) = (now(), sent());
        let beside = web.must_fetch(&payer.host);
        thread::sleep(secs(10).saturating_sub(began.elapsed()));
        let (carried, took) = (sent() - before, began.elapsed());

        // Somebody gives it tokens: it locks some, and is carried for again.
        ledger.mint(broke, 8);
        until("a channel", secs(20), || if broke.wallet().1 > 0 { Ok(()) } else { Err("nothing locked".to_owned()) });
        let (locked, before) = (now(), sent());
        until("packets", secs(20), || match sent() - before {
            more if more > 2 << 20 => Ok(()),
            more => Err(format!("{more} bytes since it has a channel")),
        });
        let restored = locked.elapsed();
        wanting.store(false, Ordering::Relaxed);
        download.join().expect("curl's thread ends");
        (beside, carried, took, restored)
    });
    // What is left is less than is locked at a time: its owner hears of it long before it is used up.
    let status = broke.show("status").unwrap_or_else(|error| panic!("{error}"));
    let warnings = status["warnings"].as_array().into_iter().flatten().filter_map(|warning| warning.as_str());
    let low = warnings.filter(|warning| warning.starts_with("tokens run low: ")).count();
    assert!(low > 0, "{status}");
    ledger.mint(broke, 12);
    let rate = carried as f64 / took.as_secs_f64();
    lab.figures(&format!(
        "unpaid: {rate:.0} bytes a second of {LIFELINE}; the payer's 100 MB took {alone:.1?} alone, {beside:.1?} beside; \
         2 MiB carried {restored:.1?} after tokens were locked"
    ));
    // Both directions share the lifeline; this is one.
    assert!(rate > 0.0 && rate <= LIFELINE as f64 * 1.1, "{rate}");
    assert!(beside < alone * 2, "{alone:?} alone, {beside:?} beside");
    assert!(restored <= secs(6), "{restored:?}");
    let [_, relay, payer, broke] = &routers;
    settled(payer, relay);
    settled(broke, relay);
    conserved(&ledger, &routers);
}

/// Two running routers with tokens, of whom one pays the other.
fn payer_and_provider(lab: &mut Lab, ledger: &Ledger) -> [Router; 2] {
    let mut pair = ["payer", "provider"].map(|name| Router::new(lab, name));
    for router in &mut pair {
        router.join_community(ledger, "1");
        router.options.deposit = "10";
        ledger.mint(router, 20);
    }
    let [payer, provider] = &mut pair;
    join(lab, payer, provider, PAYS);
    pair.iter_mut().for_each(Router::start);
    pair
}

/// Ends the downloads however a test ends: a thread that goes on would keep it from failing.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Downloads again and again, whatever becomes of it.
fn while_wanted(wanted: &AtomicBool, host: &Host, web: &WebServer) {
    while wanted.load(Ordering::Relaxed) {
        // It may fail: that is what is tried.
        let _arrived = web.fetch(host, &["--max-time", "4"]);
        thread::sleep(Duration::from_millis(100));
    }
}

/// The provider loses power when a household that does not pay has used its window up.
#[test]
fn a_provider_that_is_restarted_remembers_who_has_not_paid() {
    let tools = ["ping", "curl", "python3"];
    let name = "a_provider_that_is_restarted_remembers_who_has_not_paid";
    let Some(mut lab) = Lab::open(name, &tools) else { return };
    let ledger = Ledger::create(&lab);
    let mut pair = ["broke", "provider"].map(|name| Router::new(&mut lab, name));
    for router in &mut pair {
        router.join_community(&ledger, "1000");
    }
    let [broke, provider] = &mut pair;
    join(&mut lab, broke, provider, PAYS);
    pair.iter_mut().for_each(Router::start);
    let [broke, provider] = &mut pair;
    reachable(&broke.host, &provider.address, secs(30));
    let web = WebServer::start(&lab, &provider.host, &provider.address, FILE);
    let host = broke.host.clone();
    let debt = |provider: &Router| -> u128 {
        let why = provider.why(broke).expect("an answer");
        let arrears = base_units(&why["arrears"]).unwrap_or_else(|| panic!("{why}"));
        arrears + provider.meter(broke).expect("a meter").owed_to_us
    };
    let wanting = AtomicBool::new(true);
    let debts = thread::scope(|scope| {
        let _ends = Ends(&wanting);
        let download = scope.spawn(|| while_wanted(&wanting, &host, &web));
        let mut debts = Vec::new();
        for _ in 0..3 {
            until("the window to fill", secs(30), || match provider.drops("unpaid") {
                0 => Err(format!("nothing was refused yet; {} is owed", debt(provider))),
                _ => Ok(()),
            });
            // It is written within two seconds after it has grown.
            thread::sleep(secs(4));
            let before = debt(provider);
            provider.kill();
            provider.start();
            until("what was remembered", secs(30), || {
                let why = provider.why(broke)?;
                if why["terms"].is_null() { Err(why.to_string()) } else { Ok(()) }
            });
            let after = debt(provider);
            debts.push((before, after));
        }
        wanting.store(false, Ordering::Relaxed);
        download.join().expect("curl's thread ends");
        debts
    });
    lab.figures(&format!("owed before and after three power cuts of the provider, base units: {debts:?}"));
    for (before, after) in &debts {
        assert!(*after * 2 > *before, "{debts:?}");
    }
    assert!(debts.is_sorted_by_key(|(_, after)| *after), "{debts:?}");
}

/// Either side is killed every two seconds under a download. `CRASH_LOOP_S` says for how long; half a minute without it.
#[test]
fn neighbours_that_die_every_two_seconds_go_on_and_lose_little() {
    let tools = ["ping", "curl", "python3"];
    let name = "neighbours_that_die_every_two_seconds_go_on_and_lose_little";
    let Some(mut lab) = Lab::open(name, &tools) else { return };
    let seconds: u64 = std::env::var("CRASH_LOOP_S").map_or(30, |text| text.parse().expect("CRASH_LOOP_S is a number"));
    let ledger = Ledger::create(&lab);
    let mut pair = payer_and_provider(&mut lab, &ledger);
    let [payer, provider] = &mut pair;
    reachable(&payer.host, &provider.address, secs(30));
    let web = WebServer::start(&lab, &provider.host, &provider.address, FILE);
    web.must_fetch(&payer.host);
    let before = settled(payer, provider);

    // What came in by the cable outlives the routers.
    let arrived = |host: &Host| -> u64 {
        let counters = host.must(&["sh", "-c", "cat /sys/class/net/*/statistics/rx_bytes"]);
        counters.lines().map(|count| count.trim().parse::<u64>().expect("a count")).max().unwrap_or(0)
    };
    let host = payer.host.clone();
    let arrived_before = arrived(&host);
    let wanting = AtomicBool::new(true);
    let (mut lives, mut idle, mut unpaid) = (0_u64, 0_u64, 0);
    thread::scope(|scope| {
        let _ends = Ends(&wanting);
        let download = scope.spawn(|| while_wanted(&wanting, &host, &web));
        let began = now();
        while began.elapsed() < secs(seconds) {
            let (life, before) = (now(), arrived(&host));
            thread::sleep(secs(2).saturating_sub(life.elapsed()));
            idle += u64::from(arrived(&host) - before < 100_000);
            unpaid += provider.drops("unpaid");
            let victim = if lives % 2 == 0 { &mut *payer } else { &mut *provider };
            victim.kill();
            victim.start();
            lives += 1;
        }
        wanting.store(false, Ordering::Relaxed);
        download.join().expect("curl's thread ends");
    });
    let carried = arrived(&host) - arrived_before;
    // It goes on as if nothing had been.
    let ended = now();
    reachable(&payer.host, &provider.address, secs(10));
    web.must_fetch(&payer.host);
    let after = settled(payer, provider);
    let signed = after.amount - before.amount - price(FILE);
    let worth = price(carried);
    lab.figures(&format!(
        "{lives} deaths in {seconds} s: {} MB came, {:.1} % of it was signed for, {unpaid} packets refused, {idle} lives \
         idle; whole again {:.1?} after",
        carried / 1_000_000,
        signed as f64 * 100.0 / worth as f64,
        ended.elapsed(),
    ));
    assert_eq!(after.nonce, before.nonce, "another channel");
    assert!(carried > lives * 1_000_000, "{carried} bytes in {lives} lives");
    assert!(idle * 3 < lives, "in {idle} of {lives} lives the survivor was not heard of in time");
    assert!(signed * 2 > worth, "{signed} of {worth} was signed for");
    conserved(&ledger, &pair);
}

/// What so many bytes cost, in base units, at one token per GiB.
fn price(bytes: u64) -> u128 {
    (u128::from(bytes) * TOKEN) >> 30
}

/// A cable is pulled under a paid download, for seconds and for half a minute: the same business goes on, and nothing is refused.
#[test]
fn a_paid_link_that_is_cut_and_heals_loses_nothing_and_is_not_slowed() {
    let tools = ["ping", "curl", "python3"];
    let name = "a_paid_link_that_is_cut_and_heals_loses_nothing_and_is_not_slowed";
    let Some(mut lab) = Lab::open(name, &tools) else { return };
    let ledger = Ledger::create(&lab);
    let pair = payer_and_provider(&mut lab, &ledger);
    let [payer, provider] = &pair;
    reachable(&payer.host, &provider.address, secs(30));
    let web = WebServer::start(&lab, &provider.host, &provider.address, FILE);
    // The first download makes the payer known.
    web.must_fetch(&payer.host);
    let before = settled(payer, provider);
    let meter = || payer.meter(provider).expect("a meter");
    let (counted, refused) = (meter(), provider.drops("unpaid"));
    let cable = |state| payer.host.must(&["ip", "link", "set", "cable1a", state]);
    let wanting = AtomicBool::new(true);
    let back: Vec<Duration> = thread::scope(|scope| {
        let _ends = Ends(&wanting);
        let download = scope.spawn(|| while_wanted(&wanting, &payer.host, &web));
        let back = [3, 30].map(|seconds| {
            let began = meter().received;
            until("a download", secs(30), || match meter().received - began {
                more if more > 10_000_000 => Ok(()),
                more => Err(format!("{more} bytes")),
            });
            cable("down");
            thread::sleep(secs(seconds));
            cable("up");
            let (healed, began) = (now(), meter().received);
            until("the download again", secs(30), || match meter().received - began {
                more if more > 1_000_000 => Ok(()),
                more => Err(format!("{more} bytes")),
            });
            healed.elapsed()
        });
        wanting.store(false, Ordering::Relaxed);
        download.join().expect("curl's thread ends");
        back.to_vec()
    });
    reachable(&payer.host, &provider.address, secs(10));
    let after = settled(payer, provider);
    let received = meter().received - counted.received;
    let sent = meter().sent - counted.sent;
    let signed = after.amount - before.amount;
    lab.figures(&format!(
        "carried again {:.1?} and {:.1?} after cuts of 3 and 30 s; {} MB came, {:.2} % of all that passed was signed for",
        back[0],
        back[1],
        received / 1_000_000,
        signed as f64 * 100.0 / price(received + sent) as f64,
    ));
    assert_eq!(after.nonce, before.nonce, "another channel");
    assert_eq!(provider.drops("unpaid"), refused, "an honest payer was refused");
    // What was sent into the cut cable arrived nowhere, and nobody pays for it.
    assert!(signed >= price(received), "{signed} of {}", price(received));
    assert!(signed <= price(received + sent) + 1, "{signed} of {}", price(received + sent));
    conserved(&ledger, &pair);
}
