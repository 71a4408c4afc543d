//! What is measured. Each measurement builds its own network, so that any of them can be run alone.

use std::thread;
use std::time::Duration;

use crate::contender::Contender;
use crate::datagrams::{Datagrams, FLOOD};
use crate::line::{Line, Offloads};
use crate::load::{Tcp, Way};
use crate::ours::{hub, metering};
use crate::pings::Pings;
use crate::quic::quic;
use crate::report::Figures;

/// One of the bench's measurements, by the name it is asked for.
pub(crate) struct Measurement {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// Whether it is a question to Waybill alone.
    pub(crate) ours_alone: bool,
    pub(crate) measure: fn(&Contender, u32, &mut Figures),
}

pub(crate) const MEASUREMENTS: [Measurement; 9] = [
    Measurement {
        name: "relay",
        what: "A-B-C, one TCP stream; trains cross the cables whole",
        ours_alone: false,
        measure: |contender, seconds, figures| relay(contender, seconds, figures, Offloads::On),
    },
    Measurement {
        name: "relay-split",
        what: "the same; the kernel cuts all trains into packets",
        ours_alone: false,
        measure: |contender, seconds, figures| relay(contender, seconds, figures, Offloads::Off),
    },
    Measurement {
        name: "end-to-end",
        what: "A-B, TCP: 1, 4 and 64 flows, there, back and both ways at once",
        ours_alone: false,
        measure: end_to_end,
    },
    Measurement {
        name: "udp",
        what: "A-B, the most packets a second of which 0.5 % are lost at most",
        ours_alone: false,
        measure: udp,
    },
    Measurement {
        name: "latency",
        what: "round trips over one and two hops: idle, beside 100 Mbit/s, beside a stream as fast as it goes",
        ours_alone: false,
        measure: latency,
    },
    Measurement { name: "chain", what: "2, 3 and 4 relays, one TCP stream", ours_alone: false, measure: chain },
    Measurement {
        name: "metering",
        what: "A-B-C, one TCP stream: carried for free against paid for",
        ours_alone: true,
        measure: metering,
    },
    Measurement {
        name: "quic",
        what: "A-B over a QUIC link, one TCP stream, against quinn's own stream and datagrams, and a WireGuard link",
        ours_alone: true,
        measure: quic,
    },
    Measurement {
        name: "hub",
        what: "A-B-C, one TCP stream: B with 24 neighbours and 1,000 routes against two neighbours",
        ours_alone: true,
        measure: hub,
    },
];

/// How many flows a household, a busy one and a street have.
const FLOWS: [u32; 3] = [1, 4, 64];
/// The loss that counts as none.
const LOSS_MAX: f64 = 0.005;
/// Each halves the ratio between a rate known to pass and one known not to: 2 % of the rate are left at the end.
const SEARCH_STEPS: u32 = 6;
/// Seconds of one step, which a tail of loss needs to show.
const STEP_S: f64 = 1.5;
/// From the start of a load until round trips are taken beside it.
const WARMED_UP_AFTER: Duration = Duration::from_millis(500);

fn relay(contender: &Contender, seconds: u32, figures: &mut Figures, offloads: Offloads) {
    let line = Line::new(contender, 3);
    if offloads == Offloads::Off {
        line.remove_offloads();
    }
    let relay = line.nodes[1].process;
    let idle_mib = relay.rss_mib();
    let carried = line.carry(&Tcp::stream(seconds));
    figures.add("Gb/s", carried.received.gbit_per_s);
    figures.add("relay CPU-s/GB", carried.cpu_s_per_gb(line.relays()));
    figures.add("machine CPU-s/GB", carried.machine_cpu_s_per_gb());
    figures.add("relay RSS idle, MiB", idle_mib);
    figures.add("relay RSS at most, MiB", relay.rss_peak_mib());
}

fn end_to_end(contender: &Contender, seconds: u32, figures: &mut Figures) {
    let line = Line::new(contender, 2);
    let (first, last) = (0, 1);
    for flows in FLOWS {
        for way in [Way::There, Way::Back, Way::Both] {
            let carried = line.carry(&Tcp { flows, way, ..Tcp::stream(seconds) });
            let title = format!("{flows} flow{} {}", if flows == 1 { "" } else { "s" }, way.text());
            figures.add(format!("{title}, Gb/s"), carried.received.gbit_per_s);
            let ends = match way {
                Way::There => [("sender", first), ("receiver", last)],
                Way::Back => [("sender", last), ("receiver", first)],
                Way::Both => [("first", first), ("last", last)],
            };
            for (end, node) in ends {
                figures.add(format!("{title}, {end} CPU-s/GB"), carried.cpu_s_per_gb([node]));
            }
            figures.add(format!("{title}, machine CPU-s/GB"), carried.machine_cpu_s_per_gb());
        }
    }
    figures.add("sender RSS at most, MiB", line.first().process.rss_peak_mib());
}

fn udp(contender: &Contender, _: u32, figures: &mut Figures) {
    let line = Line::new(contender, 2);
    for packet_len in [1280, 128] {
        let datagrams = Datagrams::new(line.first(), line.last(), packet_len);
        figures.add(format!("{packet_len}-byte packets, thousands/s"), highest_rate(&datagrams) / 1000.0);
    }
}

/// Looks for the highest rate of which next to nothing is lost, and returns how many packets a second then arrived. Where
/// not even a flood is lost, that is what the sender can do.
fn highest_rate(datagrams: &Datagrams) -> f64 {
    let flood = datagrams.send(FLOOD, STEP_S);
    if flood.loss() <= LOSS_MAX {
        return flood.arrived_per_s();
    }
    let (mut passes, mut fails) = (flood.arrived_per_s() / 4.0, flood.sent_per_s());
    let mut best = 0.0;
    for _ in 0..SEARCH_STEPS {
        let rate = (passes * fails).sqrt();
        // Twice, because other work on the machine may take the processor away from a rate that passes.
        match (0..2).map(|_| datagrams.send(rate, STEP_S)).find(|delivery| delivery.loss() <= LOSS_MAX) {
            Some(delivery) => (passes, best) = (rate, delivery.arrived_per_s()),
            None => fails = rate,
        }
    }
    assert!(best > 0.0, "{LOSS_MAX} are lost even at {passes} packets a second");
    best
}

fn latency(contender: &Contender, seconds: u32, figures: &mut Figures) {
    let line = Line::new(contender, 3);
    let load = Tcp::stream(seconds + 3);
    let loads = [
        ("idle", None),
        ("beside 100 Mbit/s", Some(Tcp { mbit_per_s: Some(100), ..load })),
        ("beside a full stream", Some(load)),
    ];
    for (beside, load) in loads {
        let load = load.map(|load| load.start(&line.lab, line.first(), line.last()));
        thread::sleep(WARMED_UP_AFTER);
        let pings = [1, 2].map(|hops| (hops, Pings::start(&line.lab, line.first(), &line.nodes[hops], seconds)));
        for (hops, pings) in pings {
            let round_trips = pings.ended();
            for percent in [50, 99] {
                let title = format!("{hops} hop{}, {beside}, p{percent}, us", if hops == 1 { "" } else { "s" });
                figures.add(title, round_trips.percentile(percent));
            }
        }
        if let Some(mut load) = load {
            assert!(load.is_running(), "the load ended before the pings beside it");
            load.ended();
        }
    }
}

fn chain(contender: &Contender, seconds: u32, figures: &mut Figures) {
    for relays in [2, 3, 4] {
        let line = Line::new(contender, relays + 2);
        let carried = line.carry(&Tcp::stream(seconds));
        figures.add(format!("{relays} relays, Gb/s"), carried.received.gbit_per_s);
        let each = carried.cpu_s_per_gb(line.relays()) / relays as f64;
        figures.add(format!("{relays} relays, each CPU-s/GB"), each);
        figures.add(format!("{relays} relays, machine CPU-s/GB"), carried.machine_cpu_s_per_gb());
    }
}
