//! Cables that are pulled and radios that lose their station, as the kernel tells it (rtnetlink's link group).

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::netlink::is_loss;

/// `RTNLGRP_LINK` of `linux/rtnetlink.h`.
const LINK_GROUP: u32 = 1;
/// More than one message of the kernel about a link.
const MESSAGE_MAX: usize = 32 * 1024;
/// Messages read at one look: more wait for the next.
const MESSAGES_MAX: usize = 64;

/// Hears of interfaces of this machine that can carry nothing any more. Needs no privilege.
#[derive(Debug)]
pub(crate) struct Carrier {
    socket: Socket,
}

impl Carrier {
    pub(crate) fn watch() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(LINK_GROUP)?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Whether any interface was found without a carrier since the last call. Overheard messages count as such.
    pub(crate) fn was_lost(&mut self) -> bool {
        let (mut buffer, mut lost) = (Vec::with_capacity(MESSAGE_MAX), false);
        for _ in 0..MESSAGES_MAX {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => lost |= is_loss(&buffer),
                Err(error) => return lost || error.kind() != io::ErrorKind::WouldBlock,
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::in_own_namespace;
    use std::process::Command;

    #[test]
    fn what_is_no_message_about_a_link_is_no_loss() {
        for message in [&[][..], &[0; 16], &[16, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[255; 40]] {
            assert!(!is_loss(message));
        }
    }

    #[test]
    fn an_interface_that_goes_down_is_heard_of_once() {
        let ip =
            |args: &str| assert!(Command::new("ip").args(args.split(' ')).status().unwrap().success(), "ip {args}");
        if !in_own_namespace("carrier::tests::an_interface_that_goes_down_is_heard_of_once") {
            return;
        }
        ip("link add left type veth peer name right");
        ip("link set left up");
        ip("link set right up");
        let mut carrier = Carrier::watch().unwrap();
        assert!(!carrier.was_lost());
        ip("link set right down");
        assert!(carrier.was_lost(), "the other end of the cable");
        assert!(!carrier.was_lost());
    }
}
