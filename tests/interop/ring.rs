//! A ring of six in which no two neighbours run the same daemon.

use std::time::Duration;

use crate::lab::{Lab, now, secs, until};
use crate::machine::{Kind, Machine, Network, Pace, Who};
use crate::pulse::{Pulse, outage};

pub(crate) const MIXED: [Kind; 6] = [Kind::Ours, Kind::Babeld, Kind::Ours, Kind::Bird, Kind::Ours, Kind::Babeld];
const TOOLS: &[&str] = &["babeld", "bird", "birdc", "nft", "ping"];

/// Places in the ring, and the cable from each to the next.
pub(crate) const BABELD: usize = 1;
pub(crate) const OURS: usize = 2;
pub(crate) const BIRD: usize = 3;

fn mixed(lab: &mut Lab) -> (Network, Duration) {
    let mut ring = Network::new(lab, &MIXED);
    ring.close_ring(lab, Pace::Brisk);
    ring.start();
    let met = ring.all_know_all(secs(60));
    (ring, met)
}

#[test]
fn a_mixed_ring_reaches_everything_and_heals_whoever_is_at_the_cut() {
    let Some(mut lab) = Lab::open("a_mixed_ring_reaches_everything_and_heals_whoever_is_at_the_cut", TOOLS) else {
        return;
    };
    let (ring, met) = mixed(&mut lab);
    ring.all_reach_all(secs(20));
    lab.figures(&format!("all know all after {:.1} s", met.as_secs_f64()));
    // Each cut is between ours and another: babeld first, then BIRD.
    for cable in [0, 2] {
        let figures = cut_and_mend(&lab, &ring, cable, Who::Both, "silent cut", |cut| match cut {
            true => ring.cut_silently(cable),
            false => ring.mend(cable),
        });
        lab.figures(&figures);
    }
    for cable in [1, 3] {
        let figures = cut_and_mend(&lab, &ring, cable, Who::Ours, "interface down", |cut| {
            ring.set_end(cable, 0, if cut { "down" } else { "up" });
        });
        lab.figures(&figures);
    }
}

/// babeld, asked for a newer seqno while a request of its own is under way, passes the second one on after up to 65 s.
pub(crate) const HEALED_WITHIN: Duration = Duration::from_secs(100);

/// Takes a cable away and brings it back, waits until it is used again, and says what was seen.
pub(crate) fn cut_and_mend(
    lab: &Lab,
    ring: &Network,
    cable: usize,
    returns: Who,
    how: &str,
    set: impl Fn(bool),
) -> String {
    let count = ring.machines.len();
    ring.used_by(Who::Both, cable, secs(90));
    let names = ring.cables[cable].ends.each_ref().map(|(place, _)| &ring.machines[*place].name);
    let [(a, _), (b, _)] = &ring.cables[cable].ends;
    let pairs = [(*a, *b), ((a + count - 1) % count, *b), (*a, (b + 1) % count)];
    let pulses = pairs.map(|(from, to)| Pulse::start(lab, &ring.machines[from], &ring.machines[to]));
    set(true);
    let noticed = noticed(ring, cable, secs(40));
    let healed = outage(&pulses, HEALED_WITHIN);
    set(false);
    let back = ring.used_by(returns, cable, secs(90));
    let at_return = outage(&pulses, secs(30));
    assert_eq!(at_return, healed, "a second, longer outage when the link came back");
    let each = |times: [Option<Duration>; 2]| {
        let time =
            |time: Option<Duration>| time.map_or("later".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()));
        format!("{} {}, {} {}", names[0], time(times[0]), names[1], time(times[1]))
    };
    format!(
        "{how}, {}-{}: noticed by {}; longest outage {:.1} s; short path again: {}",
        names[0],
        names[1],
        each(noticed),
        healed.as_secs_f64(),
        each(back),
    )
}

/// Waits until the daemons at both ends know of a cut, and says after how long.
fn noticed(ring: &Network, cable: usize, patience: Duration) -> [Option<Duration>; 2] {
    let began = now();
    let mut seen = [None; 2];
    until("notice of the cut", patience, || {
        for (seen, (place, interface)) in seen.iter_mut().zip(&ring.cables[cable].ends) {
            let has = ring.machines[*place].has_neighbour_on(interface)?;
            *seen = seen.or_else(|| (!has).then(|| began.elapsed()));
        }
        if seen.iter().all(Option::is_some) { Ok(()) } else { Err(format!("noticed so far: {seen:?}")) }
    });
    seen
}

#[test]
fn what_one_daemon_withdraws_is_gone_at_the_others() {
    let Some(mut lab) = Lab::open("what_one_daemon_withdraws_is_gone_at_the_others", TOOLS) else { return };
    let (mut ring, _) = mixed(&mut lab);
    for place in [BABELD, OURS, BIRD] {
        ring.machines[place].withdraw();
        // When an address goes, babeld 1.12.1 retracts ::/0 and not the address, so that its route has to expire.
        let patience = if ring.machines[place].kind == Kind::Babeld { secs(40) } else { secs(15) };
        let gone = gone_everywhere(&ring, place, patience);
        ring.machines[place].announce();
        let back = ring.all_know_all(secs(30));
        lab.figures(&format!(
            "{} withdraws: gone after {gone}; back after {:.1} s",
            ring.machines[place].name,
            back.as_secs_f64()
        ));
    }
    for place in [OURS, BABELD, BIRD] {
        ring.machines[place].end();
        let gone = gone_everywhere(&ring, place, secs(30));
        lab.figures(&format!("{} ends: gone after {gone}", ring.machines[place].name));
        ring.machines[place].start();
        ring.all_know_all(secs(60));
    }
}

/// Waits until no other daemon and no other kernel has a route to a machine's prefix, and says after how long that was so
/// at ours and everywhere.
pub(crate) fn gone_everywhere(ring: &Network, place: usize, patience: Duration) -> String {
    let began = now();
    let gone = &ring.machines[place];
    let others = || ring.machines.iter().filter(|other| other.address != gone.address);
    let mut gone_at_ours = None;
    until(&format!("retraction of {}", gone.name), patience, || {
        others().filter(|other| other.kind == Kind::Ours).try_for_each(|other| has_forgotten(other, gone))?;
        let at_ours = *gone_at_ours.get_or_insert_with(|| began.elapsed());
        others().try_for_each(|other| has_forgotten(other, gone))?;
        Ok(format!("{:.1} s at ours, {:.1} s everywhere", at_ours.as_secs_f64(), began.elapsed().as_secs_f64()))
    })
}

fn has_forgotten(other: &Machine, gone: &Machine) -> Result<(), String> {
    if let Some(route) = other.routes()?.get(&gone.home()) {
        return Err(format!("{} has {route:?}", other.name));
    }
    match other.way_to(&gone.address) {
        Ok(way) => Err(format!("the kernel of {} sends by {way}", other.name)),
        Err(_) => Ok(()),
    }
}

#[test]
fn whoever_loses_power_is_back_soon_after_its_start() {
    let Some(mut lab) = Lab::open("whoever_loses_power_is_back_soon_after_its_start", TOOLS) else { return };
    let (mut ring, _) = mixed(&mut lab);
    for place in [OURS, BABELD, BIRD] {
        let (before, after) = (&ring.machines[place - 1], &ring.machines[place + 1]);
        until(&format!("ways through {}", ring.machines[place].name), secs(90), || {
            ring.sends_by(place - 1, 0, after).and(ring.sends_by(place, 1, before))
        });
        let pulses = [Pulse::start(&lab, before, after)];
        ring.machines[place].kill();
        let away = outage(&pulses, HEALED_WITHIN);
        let gone = gone_everywhere(&ring, place, secs(60));
        ring.machines[place].start();
        let back = ring.all_know_all(secs(60));
        ring.all_reach_all(secs(20));
        lab.figures(&format!(
            "{} loses power: {:.1} s of outage between its neighbours, gone after {gone} from there; all know all {:.1} s \
             after its start",
            ring.machines[place].name,
            away.as_secs_f64(),
            back.as_secs_f64(),
        ));
    }
}
