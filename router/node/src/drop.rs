//! Why a packet was not carried. Dropping is not an error: it is counted, by reason, and the counts are shown.

use portable_atomic::{AtomicU64, Ordering};

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// The reason a packet was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[$doc])* $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The reason's name in tables and metrics.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its header says, or no IP packet at all.
    Malformed = "malformed",
    /// IPv4 or another version: inside the mesh there is IPv6 only (DESIGN section 3). IPv4 passes between the own side and a
    /// leaf that is led to the Internet, and nowhere else.
    NotIpv6 = "not-ipv6",
    /// The source is a multicast, unspecified, loopback or link-local address.
    SourceNotRoutable = "source-not-routable",
    /// A link carried a packet whose source is one of our own addresses.
    SourceSpoofed = "source-spoofed",
    /// A leaf used a source outside the prefixes it was given, or not its IPv4 address.
    SourceNotAllowed = "source-not-allowed",
    /// Our own side used a source outside the prefixes this node announces.
    SourceNotOurs = "source-not-ours",
    /// The destination is a multicast, unspecified or loopback address, or a link-local one of another link.
    DestinationNotRoutable = "destination-not-routable",
    /// A datagram of one of our own links, on its way into the mesh: a link's own packets must not be led over links.
    LinkInMesh = "link-in-mesh",
    /// No route (answered by ICMPv6 Destination Unreachable, code 0).
    NoRoute = "no-route",
    /// The hop limit ran out (answered by ICMPv6 Time Exceeded).
    HopLimit = "hop-limit",
    /// Larger than the next link's MTU (answered by ICMPv6 Packet Too Big).
    TooBig = "too-big",
    /// The neighbour has not shown a valid NodeCard on this link.
    NotAdmitted = "not-admitted",
    /// To or from a neighbour that is no member, and not the ledger (answered by ICMPv6 Destination Unreachable, code 1).
    NotAMember = "not-a-member",
    /// The window of this neighbour is used up; a receipt opens it again.
    Unpaid = "unpaid",
    /// The same, or a neighbour who is not admitted, sending more than it could need to change that: not even opened.
    UnpaidFlood = "unpaid-flood",
    /// Its neighbour pays nothing, and this would be carried at our expense: to or from somebody we pay, or out of the mesh
    /// (answered by ICMPv6 Destination Unreachable, code 1).
    AtOurExpense = "at-our-expense",
    /// The link is down or its session is not established.
    LinkDown = "link-down",
    /// The next hop's queue was full.
    QueueFull = "queue-full",
    /// It waited for the next hop for too long.
    TooOld = "too-old",
    /// It met congestion inside a link, and its sender does not know of marks (RFC 6040, section 4.2).
    Congestion = "congestion",
    /// One link brought more control packets than the control core takes from one link.
    ControlFlood = "control-flood",
    /// A control packet that no part of the control core expects.
    UnexpectedControl = "unexpected-control",
}

/// One counter per reason, written by workers and read by the control side.
#[derive(Debug)]
pub struct Drops([AtomicU64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Drops {
    /// Counts one dropped packet.
    pub fn count(&self, reason: DropReason) {
        self.count_all(reason, 1);
    }

    /// Counts packets that were dropped together.
    pub fn count_all(&self, reason: DropReason, packets: u64) {
        self.0[reason as usize].add(packets, Ordering::Relaxed);
    }

    /// Packets dropped for `reason` since the start.
    pub fn packets(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// Packets dropped for any reason since the start.
    pub fn total(&self) -> u64 {
        DropReason::ALL.iter().map(|reason| self.packets(*reason)).sum()
    }
}
