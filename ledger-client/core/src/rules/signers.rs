//! Which key signs for whom.

use metering::{ChannelId, NodeId, Signature};

use super::{Decision, ExecuteError, fact};
use crate::signer::{ChannelSigner, Signer};
use crate::{Event, Records, Refusal};

/// The key that signs an account's orders, as the account it would be of.
pub(super) fn signer_of<R: Records>(records: &R, account: NodeId) -> Result<NodeId, ExecuteError<R::Error>> {
    Ok(fact::<R, Signer>(records, &account)?.map_or(account, |Signer(signer)| signer))
}

/// The key that signs receipts on a channel and offers to close it: the one that signed for the payer when it was opened.
pub(super) fn channel_signer_of<R: Records>(records: &R, channel: ChannelId) -> Result<NodeId, ExecuteError<R::Error>> {
    Ok(fact::<R, ChannelSigner>(records, &channel)?.map_or(channel.payer, |ChannelSigner(signer)| signer))
}

pub(super) fn change<R: Records>(records: &R, account: NodeId, signer: NodeId, consent: Signature) -> Decision<R> {
    if signer_of(records, account)? == signer {
        return Err(Refusal::SignerUnchanged { signer }.into());
    }
    Ok(Event::SignerChanged { account, signer, consent })
}
