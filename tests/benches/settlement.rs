//! What settlement costs: its bytes beside those carried, its time on a processor with 32 busy neighbours, and its signatures.
//!
//! Virtual time and real signatures, on the pairs of `sim::pair`. `cargo bench -p sim --bench settlement`; with
//! `-- --signatures 100` it makes and checks so many and nothing else, for a counter of instructions to watch.

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use metering::{Bytes, ChannelId, Offer, Price, Receipt, Tokens, billed_length};
use sim::pair::{DOMAIN, PAYER, POLL, PROVIDER, Pair, identity};

/// Of the first budget: 10 Mb/s, for ten minutes.
const RATE: u64 = 10_000_000 / 8;
const CARRIED_FOR: Duration = Duration::from_secs(600);

/// Of the second: neighbours that are all busy at that rate.
const NEIGHBOURS: u64 = 32;
const BUSY_FOR: Duration = Duration::from_secs(60);

/// Headers of IPv6 and UDP.
const HEADERS: usize = 40 + 8;

const SIGNATURES: u32 = 2000;

/// How many ticks of `/proc/self/stat` Linux shows in a second, on every machine it runs on.
const TICKS_EACH_SECOND: f64 = 100.0;

const OFFER: Offer = Offer {
    price_up: Price::new(20_000_000),
    price_down: Price::new(20_000_000),
    window: Bytes::from_mebibytes(64),
    loss_allowance_ppm: Offer::DEFAULT_LOSS_ALLOWANCE_PPM,
};

/// A router's processor: MIPS 1004Kc, one instruction at a time, 32 bits.
const MIPS_MHZ: f64 = 880.0;
/// A product of two field elements takes 100 multiplications in ten limbs of 26 bits, and 25 in five of 52; and each sum as
/// many more instructions.
const MORE_INSTRUCTIONS: f64 = 100.0 / 25.0;
/// It waits for memory and for its multiplier; taken from nowhere but caution.
const CYCLES_PER_INSTRUCTION: f64 = 1.5;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let only = words.iter().position(|word| word == "--signatures").and_then(|at| words.get(at + 1)?.parse().ok());
    if let Some(count) = only {
        signatures(count);
        return;
    }
    bytes();
    busy();
    let [sign_us, verify_us] = signatures(SIGNATURES);
    println!("a receipt: {sign_us:.0} us to sign, {verify_us:.0} us to verify");
    println!(
        "estimate for a MIPS 1004Kc at {MIPS_MHZ} MHz: instructions of one verification on this machine, counted apart, x \
         {MORE_INSTRUCTIONS} for 32 bits x {CYCLES_PER_INSTRUCTION} cycles each / {MIPS_MHZ} MHz: {:.1} ms for each million",
        MORE_INSTRUCTIONS * CYCLES_PER_INSTRUCTION * 1000.0 / MIPS_MHZ
    );
}

/// A download at the budget's rate: what the exchange sends in both directions, beside what is carried.
fn bytes() {
    let mut pair = pair(0);
    let (mut messages, mut on_the_wire, mut billed) = (0_u64, 0, 0);
    let began = pair.now;
    while pair.now < began + CARRIED_FOR {
        carry(&mut pair);
        for (_, message) in pair.heard.drain(..) {
            messages += 1;
            on_the_wire += message.len() as u64 + HEADERS as u64;
            billed += billed_length(message.len() + HEADERS).get();
        }
    }
    let carried = pair.carried()[2];
    let percent = |bytes: u64| bytes as f64 * 100.0 / carried as f64;
    println!(
        "{carried} bytes carried in {CARRIED_FOR:?}; {messages} messages, {on_the_wire} bytes with IPv6 and UDP, {billed} as \
         WireGuard carries them: {:.4} % and {:.4} %",
        percent(on_the_wire),
        percent(billed)
    );
}

/// Both sides of all pairs, with the simulation around them: each side alone takes less.
fn busy() {
    let mut pairs: Vec<Pair> = (0..NEIGHBOURS).map(pair).collect();
    let before = pairs.iter().map(receipts).fold([0, 0], |sum, more| [sum[0] + more[0], sum[1] + more[1]]);
    let began = cpu_s();
    for pair in &mut pairs {
        let until = pair.now + BUSY_FOR;
        while pair.now < until {
            carry(pair);
        }
    }
    let took = cpu_s() - began;
    let after = pairs.iter().map(receipts).fold([0, 0], |sum, more| [sum[0] + more[0], sum[1] + more[1]]);
    let seconds = BUSY_FOR.as_secs_f64();
    println!(
        "{NEIGHBOURS} neighbours at 10 Mb/s each, {BUSY_FOR:?}: {:.1} receipts a second signed, {:.1} verified; provider, payer \
         and simulation together {took:.2} s of CPU, {:.2} % of a core",
        (after[0] - before[0]) as f64 / seconds,
        (after[1] - before[1]) as f64 / seconds,
        took * 100.0 / seconds
    );
}

/// Signs and verifies so many receipts; microseconds for each.
fn signatures(count: u32) -> [f64; 2] {
    let channel = ChannelId { payer: identity(PAYER).node_id(), payee: identity(PROVIDER).node_id(), nonce: 1 };
    let amounts = (1..=count).filter_map(|amount| Tokens::new(amount.into()));
    let began = clock();
    let sign = |amount| Receipt::sign(identity(PAYER).account(), &DOMAIN, channel, amount, [7; 32]);
    let receipts: Vec<Receipt> = amounts.map(sign).collect();
    let signed = clock();
    for receipt in &receipts {
        assert!(black_box(receipt.into_unverified()).verify(&DOMAIN).is_ok());
    }
    let each = |took: Duration| took.as_secs_f64() * 1e6 / f64::from(count);
    [each(signed - began), each(signed.elapsed())]
}

fn pair(seed: u64) -> Pair {
    let mut pair = Pair::new(seed, OFFER, OFFER.price_down, Tokens::new(1 << 60));
    pair.wait(Duration::from_secs(2));
    pair.heard.clear();
    pair
}

/// One reading's worth of a download.
fn carry(pair: &mut Pair) {
    pair.carry(PROVIDER, RATE * POLL.as_millis() as u64 / 1000, false);
    pair.wait(POLL);
}

/// Signed by the payer, and verified by the provider.
fn receipts(pair: &Pair) -> [u64; 2] {
    let signed = pair.snapshot(PAYER).map_or(0, |payer| payer.receipts_signed);
    [signed, pair.snapshot(PROVIDER).map_or(0, |provider| provider.receipts_verified)]
}

/// What this process has used of its processors.
fn cpu_s() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, behind_the_name) = stat.rsplit_once(')').expect("the name is in brackets");
    let ticks = |at: usize| behind_the_name.split_whitespace().nth(at).and_then(|ticks| ticks.parse::<f64>().ok());
    // utime and stime, the 14th and 15th fields; the third comes first here.
    (ticks(11).expect("utime") + ticks(12).expect("stime")) / TICKS_EACH_SECOND
}

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn clock() -> Instant {
    Instant::now()
}
