//! Runs what fuzzing has found, and what other daemons really send, through the fuzz targets; then mutates all of it for
//! a while, by a fixed seed and by that of `SIM_SEED`. `tests/fuzz/run` does the same with coverage to guide it.

use std::fs;
use std::path::{Path, PathBuf};

use sim::fuzz::{
    babel_state, babel_tlv, beacon, beacon_examples, control, control_examples, exchange, ledger_entry, ledger_json,
    ledger_note, ledger_paper, ledger_rules, metering_wire, names, names_examples, session, session_examples,
};

/// Mutated inputs per seed and target: a few seconds. Plays cost more than packets, and those with signatures most.
const MUTANTS: usize = 200_000;
const PLAYS: usize = MUTANTS / 50;
const SIGNED_PLAYS: usize = MUTANTS / 1000;
const LEDGER_PLAYS: usize = MUTANTS / 2000;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Lines of hexadecimal digits.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(here().join("fuzz/corpus").join(name)).expect("a corpus");
    text.lines().filter(|line| !line.starts_with('#')).map(unhex).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()).expect("hex")).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Packets of babeld and BIRD, file by file: the fourth column of the captures.
fn captured() -> Vec<Vec<Vec<u8>>> {
    let folder = here().join("../router/babel/tests/fixtures");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("fixtures").map(|file| file.expect("a file").path()).collect();
    files.sort();
    assert!(files.len() > 10, "{files:?}");
    let packets = |file: &PathBuf| {
        let text = fs::read_to_string(file).expect("a fixture");
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(' ').nth(3).map(unhex))
            .collect()
    };
    files.iter().map(packets).collect()
}

/// A conversation as `babel_state` reads it: each packet is a step, half a second after the one before.
fn as_steps(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut steps = Vec::new();
    for packet in packets {
        if let Some(length) = packet.get(4..).and_then(|body| u8::try_from(body.len()).ok()) {
            steps.extend([0, 70, 8, 6, length]);
            steps.extend(&packet[4..]);
        }
    }
    steps
}

fn seeds() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let captured = captured();
    let mut packets = corpus("babel_tlv.txt");
    packets.extend(captured.iter().flatten().cloned());
    let mut plays = corpus("babel_state.txt");
    plays.extend(captured.iter().map(|file| as_steps(file)));
    (packets, plays)
}

/// One of the inputs with a few bytes changed, and perhaps joined with the end of another.
fn mutant(rng: &mut fastrand::Rng, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = inputs[rng.usize(0..inputs.len())].clone();
    if rng.u8(0..4) == 0 {
        let other = &inputs[rng.usize(0..inputs.len())];
        bytes.truncate(rng.usize(0..=bytes.len()));
        bytes.extend(&other[rng.usize(0..=other.len())..]);
    }
    for _ in 0..rng.usize(1..8) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.usize(0..bytes.len());
        match rng.u8(0..5) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes[at] ^= 1 << rng.u8(0..8),
            2 => bytes[at] = [0, 1, 2, 3, 4, 8, 128, 255][rng.usize(0..8)],
            3 => {
                bytes.remove(at);
            }
            _ => bytes.insert(at, rng.u8(..)),
        }
    }
    bytes
}

/// One by the fixed seed, and one by that of `SIM_SEED`, if it says one.
fn rngs() -> impl Iterator<Item = fastrand::Rng> {
    let fresh = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    [Some(1), fresh].into_iter().flatten().map(|seed| {
        println!("seed {seed}");
        fastrand::Rng::with_seed(seed)
    })
}

#[test]
fn what_others_send_and_what_fuzzing_found_harms_nobody() {
    let (packets, plays) = seeds();
    packets.iter().for_each(|bytes| babel_tlv(bytes));
    plays.iter().for_each(|bytes| babel_state(bytes));
}

#[test]
fn mutants_of_it_harm_nobody_either() {
    let (packets, plays) = seeds();
    for mut rng in rngs() {
        for _ in 0..MUTANTS {
            babel_tlv(&mutant(&mut rng, &packets));
        }
        for _ in 0..PLAYS {
            babel_state(&mutant(&mut rng, &plays));
        }
    }
}

#[test]
fn neither_does_what_fuzzing_found_of_the_exchange() {
    corpus("metering_wire.txt").iter().for_each(|bytes| metering_wire(bytes));
    corpus("exchange.txt").iter().for_each(|bytes| exchange(bytes));
}

#[test]
fn nor_do_mutants_of_that() {
    let (messages, plays) = (corpus("metering_wire.txt"), corpus("exchange.txt"));
    for mut rng in rngs() {
        for _ in 0..MUTANTS {
            metering_wire(&mutant(&mut rng, &messages));
        }
        for _ in 0..SIGNED_PLAYS {
            exchange(&mutant(&mut rng, &plays));
        }
    }
}

/// Beacons, which anybody on the wire can send.
#[test]
fn whoever_sends_beacons_harms_nobody() {
    let mut sent = beacon_examples();
    sent.extend(corpus("beacon.txt"));
    sent.iter().for_each(|bytes| beacon(bytes));
    for mut rng in rngs() {
        for _ in 0..PLAYS {
            beacon(&mutant(&mut rng, &sent));
        }
    }
}

/// Questions for names, which anybody in the mesh can ask.
#[test]
fn whoever_asks_for_names_gets_one_short_answer() {
    let mut asked = names_examples();
    asked.extend(corpus("names.txt"));
    asked.iter().for_each(|bytes| names(bytes));
    for mut rng in rngs() {
        for _ in 0..MUTANTS {
            names(&mutant(&mut rng, &asked));
        }
    }
}

/// What a gateway and a household say to each other inside a session, either of which may mean harm.
#[test]
fn neither_end_of_a_session_harms_the_other() {
    let mut said = session_examples();
    said.extend(corpus("session.txt"));
    said.iter().for_each(|bytes| session(bytes));
    for mut rng in rngs() {
        for _ in 0..MUTANTS {
            session(&mutant(&mut rng, &said));
        }
    }
}

/// The whole control core of a node, and a neighbour that sends it anything.
#[test]
fn a_node_bears_what_a_neighbour_says_and_mutants_of_it() {
    let mut said = control_examples();
    assert!(said.len() > 10, "two nodes that meet have more to say than {} things", said.len());
    said.extend(corpus("control.txt"));
    said.iter().for_each(|bytes| control(bytes));
    for mut rng in rngs() {
        for _ in 0..PLAYS {
            control(&mutant(&mut rng, &said));
        }
    }
}

/// A ledger's log, its papers, its notes, what it is asked, and its rules.
#[test]
fn a_ledger_bears_what_it_reads_and_mutants_of_it() {
    let plays = corpus("ledger_rules.txt");
    let mut entries = corpus("ledger_entry.txt");
    for log in plays.iter().map(|play| ledger_rules(play)) {
        entries.extend(log);
    }
    assert!(entries.len() > 80, "the plays leave {} entries: they do nothing", entries.len());
    type Target = fn(&[u8]);
    let readers: [(Target, Vec<Vec<u8>>); 4] = [
        (ledger_entry, entries),
        (ledger_json, corpus("ledger_json.txt")),
        (ledger_note, corpus("ledger_note.txt")),
        (ledger_paper, corpus("ledger_paper.txt")),
    ];
    readers.iter().for_each(|(target, inputs)| inputs.iter().for_each(|bytes| target(bytes)));
    for mut rng in rngs() {
        for (target, inputs) in &readers {
            (0..PLAYS).for_each(|_| target(&mutant(&mut rng, inputs)));
        }
        for _ in 0..LEDGER_PLAYS {
            ledger_rules(&mutant(&mut rng, &plays));
        }
    }
}
