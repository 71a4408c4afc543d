//! The control core of a node, and a neighbour that sends it anything.
//!
//! Two real nodes meet, agree that one pays the other, and route. Then the payer's end of the link is taken over by a script: any
//! bytes to any control port, whole packets of any bytes, pauses, a link that goes down and up. Nothing but a panic comes out, the
//! answers to each step are few, and the node comes to rest.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use babel::LinkSensing;
use metering::exchange::Event as Settlement;
use metering::watch::Event as Watch;
use metering::{ChannelId, ChannelState, Counts, Limits, Offer, Price, Restored, Side, Tokens, link_local};
use node::datapath::packet::{control_packet, parse_control};
use node::{Access, Config, Deal, Event, LinkId, LinkMeasure, Node, Peer, Policy, Prices, Transmit};

use crate::pair::{DOMAIN, PAYER, PROVIDER, identity, start};

const LINK: LinkId = LinkId(0);
const MTU: usize = 1330;
/// Babel's, of admission, of the exchange, of path MTU, of the watch.
const PORTS: [u16; 5] = [6696, 6697, 6698, 6699, 6700];
/// What is beyond is found with fewer.
const STEPS_MAX: usize = 200;
/// Packets and events that one step may lead to.
const ANSWERS_MAX: usize = 100;
const DEPOSIT: u128 = 1 << 40;

/// A script, and what must hold after each of its steps.
///
/// # Panics
/// If it does not.
pub fn control(bytes: &[u8]) {
    let mut play = Play::met();
    let mut rest = bytes;
    for _ in 0..STEPS_MAX {
        let [kind, length, after @ ..] = rest else { break };
        let (payload, after) = after.split_at(after.len().min(usize::from(*length)));
        match usize::from(*kind) % 8 {
            port @ 0..5 => play.datagram(PORTS[port], payload),
            5 => play.packet(payload),
            // A pause says with its length how long it is, and has no payload.
            6 => play.wait(Duration::from_millis(100) * u32::from(*length)),
            _ => play.interrupt(),
        }
        rest = if *kind % 8 == 6 { rest.get(2..).unwrap_or_default() } else { after };
    }
    play.wait(Duration::from_secs(20));
}

/// What two nodes say to each other when they meet, to the one that is paid, as scripts: to begin from.
#[must_use]
pub fn control_examples() -> Vec<Vec<u8>> {
    let mut play = Play::new();
    play.talk(Duration::from_secs(3));
    let step = |(port, payload): &(u16, Vec<u8>)| {
        let kind = PORTS.iter().position(|known| known == port).and_then(|at| u8::try_from(at).ok())?;
        Some([&[kind, u8::try_from(payload.len()).ok()?], &payload[..]].concat())
    };
    let steps: Vec<Vec<u8>> = play.said.iter().filter_map(step).collect();
    let mut examples = vec![steps.concat()];
    examples.extend(steps);
    examples
}

struct Play {
    now: Instant,
    nodes: [Node; 2],
    /// What was said to the provider.
    said: Vec<(u16, Vec<u8>)>,
    air: VecDeque<(usize, Vec<u8>)>,
}

impl Play {
    fn new() -> Self {
        let now = start();
        let offer = Offer { price_up: Price::new(1 << 20), price_down: Price::new(1 << 20), ..Offer::FREE };
        let sides = [Side::Provider(offer), Side::Subscriber(Limits { max_price: Price::new(1 << 30) })];
        let nodes = [PROVIDER, PAYER].map(|who| {
            let config = Config {
                boot: 1,
                session: 1 << 32 | 7,
                announce: Vec::new(),
                hello_interval: Duration::from_secs(1),
                update_interval: Duration::from_secs(4),
                policy: Policy::default(),
                prices: Prices::default(),
                domain: DOMAIN,
                watch: true,
                open: Vec::new(),
                seed: 1,
            };
            let mut node = Node::new(now, identity(who), config);
            let measure = LinkMeasure { cost: 96, sensing: LinkSensing::Measured, path_mtu: true };
            let (card, deal) = (*identity(1 - who).card(), Deal::Agreed(sides[who]));
            node.handle_link(now, LINK, Peer::Mesh { card, deal, measure, access: Access::Full, proves: false }, MTU);
            node.handle_link_up(now, LINK);
            node
        });
        Self { now, nodes, said: Vec::new(), air: VecDeque::new() }
    }

    fn met() -> Self {
        let mut play = Self::new();
        play.talk(Duration::from_secs(2));
        let admitted = play.nodes.iter().all(|node| node.links().all(|link| link.admitted));
        assert!(admitted, "two honest nodes do not know each other after two seconds");
        play
    }

    /// Both talk, for a while.
    fn talk(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            for who in [PROVIDER, PAYER] {
                self.nodes[who].handle_timeout(self.now);
                self.drain(who);
            }
            while let Some((to, packet)) = self.air.pop_front() {
                if let (PROVIDER, Ok(datagram)) = (to, parse_control(&packet)) {
                    self.said.push((datagram.port, datagram.payload.to_vec()));
                }
                self.nodes[to].handle_control(self.now, LINK, &packet);
                self.drain(to);
            }
            self.now += Duration::from_millis(50);
        }
    }

    fn datagram(&mut self, port: u16, payload: &[u8]) {
        let [us, them] = [PROVIDER, PAYER].map(|who| link_local(&identity(who).card().wireguard()));
        let packet = control_packet(them, us, port, payload);
        self.packet(&packet);
    }

    fn packet(&mut self, packet: &[u8]) {
        self.nodes[PROVIDER].handle_control(self.now, LINK, packet);
        self.drain(PROVIDER);
        self.now += Duration::from_millis(10);
    }

    fn interrupt(&mut self) {
        self.nodes[PROVIDER].handle_link_down(self.now, LINK);
        self.nodes[PROVIDER].handle_link_up(self.now, LINK);
        self.drain(PROVIDER);
    }

    /// Only the clock says something.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.nodes[PROVIDER].poll_timeout().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.nodes[PROVIDER].handle_timeout(self.now);
            self.drain(PROVIDER);
            let next = self.nodes[PROVIDER].poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "a timer that is due again at once");
        }
        self.now = end;
    }

    fn drain(&mut self, who: usize) {
        for answers in 0.. {
            assert!(answers < ANSWERS_MAX, "one step leads to too much");
            if let Some(Transmit { packet, .. }) = self.nodes[who].poll_transmit() {
                self.air.push_back((1 - who, packet));
                self.air.truncate(ANSWERS_MAX);
            } else if let Some(event) = self.nodes[who].poll_event() {
                self.handle_event(who, event);
            } else {
                break;
            }
        }
    }

    /// A shell whose journal and ledger answer at once, and which keeps every other receipt.
    fn handle_event(&mut self, who: usize, event: Event) {
        let (now, node) = (self.now, &mut self.nodes[who]);
        match event {
            Event::Admitted { role, .. } => node.handle_restored(now, LINK, Counts::ZERO, role, restored()),
            Event::Role { role, .. } => node.handle_role_restored(now, LINK, role, restored()),
            Event::Settlement { event, .. } => match event {
                Settlement::Reserve { channel, ceiling } => node.handle_reserved(now, LINK, channel, ceiling),
                Settlement::Hold(receipt) => node.handle_held(now, LINK, &receipt),
                Settlement::NeedChannel { .. } => node.handle_channel(now, LINK, channel(1)),
                Settlement::LookUpChannel(ChannelId { nonce, .. }) => node.handle_channel(now, LINK, channel(nonce)),
                Settlement::CloseOffered(_) => node.handle_close_failed(now, LINK),
                Settlement::TermsAgreed(_) | Settlement::Alarm(_) => {}
            },
            Event::Watch { event: Watch::Keep(receipt), .. } if receipt.amount().get() % 2 == 0 => {
                node.handle_kept(now, LINK, receipt);
            }
            Event::Watch { event: Watch::Keep(receipt), .. } => node.handle_not_kept(LINK, &receipt.channel()),
            Event::Watch { event: Watch::Found(_), .. }
            | Event::Fib(_)
            | Event::Refused { .. }
            | Event::Introduced { .. }
            | Event::Checkpoint { .. }
            | Event::Neighbour { .. } => {}
        }
    }
}

fn restored() -> Restored {
    Restored { channel: Some(channel(1)), ..Restored::default() }
}

fn channel(nonce: u64) -> ChannelState {
    let deposit = Tokens::new(DEPOSIT).expect("below 2^96");
    ChannelState { nonce, deposit, redeemed: Tokens::ZERO, closing: false }
}
