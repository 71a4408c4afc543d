//! End to end: the real program on real kernels' network stacks, in network namespaces that the tests make and remove.
//!
//! Each test builds a small network in a [`lab::Lab`], starts routers in it ([`router::Router`]), drives them with
//! other people's tools ([`traffic`], [`capture`], [`stock`]) and prints the figures it measured. The tests run one at a
//! time: two routers and a load generator fill a small machine. They need root and a few programs, and say in one line
//! each what is missing where they cannot run.
//!
//! The program under test is `$WAYBILL`, else the one built beside these tests.

// The lab: what tests are built from.
mod capture;
mod disk;
mod lab;
mod ledger;
mod router;
mod stock;
mod traffic;

// The tests, by theme.
mod babel;
mod beacons;
mod clock;
mod community;
mod fallback;
mod flash;
mod flood;
mod hostile;
mod internet;
mod join;
mod lan;
mod leaf;
mod lifecycle;
mod line;
mod lossy;
mod metered;
mod misfortune;
mod names;
mod path_mtu;
mod people;
mod processors;
mod queues;
mod quic;
mod refusals;
mod ring;
mod roaming;
mod roles;
mod served;
mod statement;
mod trust;
mod watch;
mod wireguard;
mod witness;
