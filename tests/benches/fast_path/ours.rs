//! What only Waybill can be asked: what metering costs, and what it costs to know many others.

use crate::contender::Contender;
use crate::lab::{secs, until};
use crate::line::{Line, NAMES, Node, open, router, started};
use crate::load::{Carried, Tcp};
use crate::report::Figures;
use crate::router::{PEERS, join, settled};

/// Routers around a hub.
const NEIGHBOURS: usize = 24;
/// Routes the hub knows, at least.
const ROUTES: usize = 1000;

/// The relay of a line of three.
const RELAY: usize = 1;

/// A figure's title, and the figure.
type Column = (&'static str, fn(&Carried) -> f64);

const COLUMNS: [Column; 3] = [
    ("Gb/s", |carried| carried.received.gbit_per_s),
    ("relay CPU-s/GB", |carried| carried.cpu_s_per_gb([RELAY])),
    ("machine CPU-s/GB", Carried::machine_cpu_s_per_gb),
];

/// The same line, carrying for free and carrying for money.
pub(crate) fn metering(contender: &Contender, seconds: u32, figures: &mut Figures) {
    let free = Line::new(contender, 3).carry(&Tcp::stream(seconds));
    let line = Line::paid(contender, 3);
    let paid = line.carry(&Tcp::stream(seconds));
    for pair in line.nodes.windows(2) {
        let receipt = settled(pair[0].router(), pair[1].router());
        assert!(receipt.amount > 0, "{} paid nothing for what was carried", pair[0].router().name);
    }
    compare(figures, ("free", &free), ("paid", &paid));
}

/// A relay that knows its two neighbours, and one that knows half a town.
pub(crate) fn hub(contender: &Contender, seconds: u32, figures: &mut Figures) {
    let two = Line::new(contender, 3);
    let small = two.carry(&Tcp::stream(seconds));
    figures.add("2 neighbours, relay RSS at most, MiB", two.nodes[RELAY].process.rss_peak_mib());
    drop(two); // so that its routers take no time from the town
    let (line, _others) = town(contender);
    let large = line.carry(&Tcp::stream(seconds));
    figures.add(format!("{NEIGHBOURS} neighbours, relay RSS at most, MiB"), line.nodes[RELAY].process.rss_peak_mib());
    compare(figures, ("2 neighbours", &small), (&format!("{NEIGHBOURS} neighbours"), &large));
}

/// A line of three whose relay has many more neighbours, each of which announces its share of the routes.
fn town(contender: &Contender) -> (Line, Vec<Node>) {
    let mut lab = open();
    let mut hub = router(&mut lab, contender, NAMES[0]);
    let mut around: Vec<_> = NAMES[1..=NEIGHBOURS].iter().map(|name| router(&mut lab, contender, name)).collect();
    let share = ROUTES.div_ceil(NEIGHBOURS - 2);
    for (at, neighbour) in around.iter_mut().enumerate() {
        if at >= 2 {
            neighbour.options.announce = (0..share).map(|number| format!("fd01:{at}:{number}::/48")).collect();
        }
        join(&mut lab, &mut hub, neighbour, PEERS);
    }
    let hub = started(contender, hub);
    let mut around: Vec<Node> = around.into_iter().map(|router| started(contender, router)).collect();
    let others = around.split_off(2);
    let last = around.pop().expect("two of them are left");
    let first = around.pop().expect("one of them is left");
    until(&format!("{ROUTES} routes at the hub"), secs(120), || {
        let answer = hub.router().show("routes")?;
        let selected =
            answer["routes"].as_array().into_iter().flatten().filter(|route| route["selected"] == true).count();
        if selected >= ROUTES { Ok(()) } else { Err(format!("{selected} routes")) }
    });
    (Line::of(lab, vec![first, hub, last]), others)
}

fn compare(figures: &mut Figures, (one, one_carried): (&str, &Carried), (other, other_carried): (&str, &Carried)) {
    for (title, figure) in COLUMNS {
        let (one_value, other_value) = (figure(one_carried), figure(other_carried));
        figures.add(format!("{one}, {title}"), one_value);
        figures.add(format!("{other}, {title}"), other_value);
        figures.add(format!("{other} / {one}, {title}"), other_value / one_value);
    }
}
