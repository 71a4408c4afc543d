//! QUIC's transport parameters (RFC 9000) for a tunnel: what is bounded, and by how much.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn::{AckFrequencyConfig, Connection, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::link::train::keeps_trains;

/// Keeps NAT bindings open and notices a dead neighbour while nothing else is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A connection silent for this long is down: three keep-alives unanswered.
pub(super) const IDLE_TIMEOUT_MS: u32 = 15_000;

/// A guess until the first measurement; a lost Initial is repeated after three times this.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Every path of QUIC carries this much UDP payload (RFC 9000, section 14).
const INITIAL_MTU: u16 = 1200;

/// The largest UDP payload probed for: Ethernet's 1500 bytes less IPv4's and UDP's headers.
pub(super) const UDP_PAYLOAD_MAX: u16 = 1472;

/// Datagrams waiting to be sent. Some 700 full packets: more only makes the tunnelled TCP slower to notice.
const DATAGRAM_SEND_BUFFER: usize = 1 << 20;

/// Datagrams received and not yet read. QUIC drops the oldest beyond it.
const DATAGRAM_RECEIVE_BUFFER: usize = 2 << 20;

/// Messages (packets larger than a datagram) on their way to us from one neighbour.
const MESSAGES_MAX: u32 = 1024;

/// Bytes of messages received and not yet read, of all streams of one neighbour.
const MESSAGE_RECEIVE_WINDOW: u32 = 2 << 20;

/// The same two for whoever has dialled us and is not known to be a neighbour yet.
const MESSAGES_OF_STRANGERS: u32 = 4;
const WINDOW_OF_STRANGERS: u32 = 16 << 10;

/// Bytes of messages sent and not yet acknowledged.
const MESSAGE_SEND_WINDOW: u64 = 2 << 20;

/// Bytes in flight: 300 Mbit/s at a round trip of 100 ms.
const WINDOW_MAX: u64 = 4 << 20;

/// Where the window starts again after persistent congestion.
const WINDOW_MIN: u64 = 32 << 10;

/// Acknowledge every this many packets: most of what a tunnel carries is acknowledged inside it as well.
const PACKETS_PER_ACK: u32 = 10;

/// For whoever dials us, until it is known who that is: a stranger makes us keep little.
pub(super) fn narrow(link_mtu: u32) -> Arc<TransportConfig> {
    let mut transport = settings(link_mtu);
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(MESSAGES_OF_STRANGERS))
        .receive_window(VarInt::from_u32(WINDOW_OF_STRANGERS));
    Arc::new(transport)
}

/// Gives a neighbour that dialled us what is a neighbour's.
pub(super) fn widen(connection: &Connection) {
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(MESSAGES_MAX));
    connection.set_receive_window(VarInt::from_u32(MESSAGE_RECEIVE_WINDOW));
}

/// `link_mtu` bounds one message.
pub(super) fn config(link_mtu: u32) -> Arc<TransportConfig> {
    Arc::new(settings(link_mtu))
}

fn settings(link_mtu: u32) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(UDP_PAYLOAD_MAX);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(PACKETS_PER_ACK.into());
    let mut transport = TransportConfig::default();
    transport.enable_segmentation_offload(keeps_trains());
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(INITIAL_MTU)
        .mtu_discovery_config(Some(discovery))
        .ack_frequency_config(Some(acks))
        .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER)
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(MESSAGES_MAX))
        .stream_receive_window(VarInt::from_u32(link_mtu))
        .receive_window(VarInt::from_u32(MESSAGE_RECEIVE_WINDOW))
        .send_window(MESSAGE_SEND_WINDOW)
        .congestion_controller_factory(Arc::new(TunnelWindow::default()));
    transport
}

/// The congestion controller of a tunnel: it lets losses happen.
///
/// What rides in the tunnel controls its own congestion and must see the path's losses (RFC 8085, section 3.1.11);
/// a second loop around the first would only halve twice. WireGuard does the same. What remains is a circuit
/// breaker (RFC 8084): when nothing gets through, start again small.
#[derive(Clone, Copy, Debug)]
struct TunnelWindow {
    /// Bytes that may be in flight.
    window: u64,
}

impl Default for TunnelWindow {
    fn default() -> Self {
        Self { window: WINDOW_MAX }
    }
}

impl ControllerFactory for TunnelWindow {
    fn build(self: Arc<Self>, _now: Instant, _mtu: u16) -> Box<dyn Controller> {
        Box::new(Self::default())
    }
}

impl Controller for TunnelWindow {
    fn on_end_acks(&mut self, _: Instant, _in_flight: u64, _app_limited: bool, _: Option<u64>) {
        self.window = WINDOW_MAX.min(self.window * 5 / 4);
    }

    fn on_congestion_event(&mut self, _: Instant, _: Instant, persistent: bool, _lost_bytes: u64) {
        if persistent {
            self.window = WINDOW_MIN;
        }
    }

    fn on_mtu_update(&mut self, _new_mtu: u16) {}

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(*self)
    }

    fn initial_window(&self) -> u64 {
        WINDOW_MAX
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the controller takes a time and ignores it")]
    fn the_window_shrinks_only_when_nothing_gets_through() {
        let now = Instant::now();
        let mut controller = TunnelWindow::default();
        controller.on_congestion_event(now, now, false, 100_000);
        assert_eq!(controller.window(), WINDOW_MAX);
        controller.on_congestion_event(now, now, true, 100_000);
        assert_eq!(controller.window(), WINDOW_MIN);
        let acks = (1..)
            .find(|_| {
                controller.on_end_acks(now, 0, false, None);
                controller.window() == WINDOW_MAX
            })
            .unwrap();
        assert!((10..100).contains(&acks), "open again after {acks} acks");
    }
}
