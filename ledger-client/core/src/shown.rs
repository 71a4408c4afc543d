//! What stands under an account and in a channel, put together for who asks: a file, a server and a client show the same.

use metering::{ChannelId, NodeId, Tokens};
use serde::{Deserialize, Serialize};

use crate::Channel;
use crate::membership::Membership;
use crate::name::Name;
use crate::registry::Registration;
use crate::role::Role;
use crate::share::Pool;

/// All that stands under an account. One that was never heard of has nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Which.
    pub account: NodeId,
    /// What it holds, besides what is locked.
    pub balance: Tokens,
    /// The number of its newest order; the next has one more.
    pub sequence: u64,
    /// The account that its signing key would be of: its own, until it changes its key.
    pub signer: NodeId,
    /// Whether it is taken into the community.
    pub membership: Option<Membership>,
    /// What the treasurer has it do.
    pub roles: Vec<Role>,
    /// What it says it runs.
    pub registration: Option<Registration>,
    /// The name of its node, NAME.mesh.
    pub name: Option<Name>,
    /// What its shares have earned, where it has issued some.
    pub shares: Option<Pool>,
}

/// A channel's record, and whose key signs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelRecord {
    /// Which.
    pub channel: ChannelId,
    /// The account of the key that signs receipts on it.
    pub signer: NodeId,
    /// The record.
    pub record: Channel,
}
