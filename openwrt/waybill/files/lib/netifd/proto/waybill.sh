#!/bin/sh
# shellcheck shell=dash disable=SC1091,SC2034,SC3043
#
# `option proto 'waybill'` of a network: its device is the daemon's, and so are the addresses and routes on it. procd owns the
# daemon; this only tells netifd what is there, so that the firewall's zone, prefixes for the LAN and LuCI follow. It is told when
# the network is set up, and whenever the device comes or goes (/etc/hotplug.d/net/80-waybill).

[ -n "$INCLUDE_ONLY" ] || {
	. /lib/functions.sh
	. ../netifd-proto.sh
	init_proto "$@"
}

proto_waybill_init_config() {
	no_device=1
	no_proto_task=1
	available=1
}

# Says on standard output which prefix of this router's /48, whose address is $1, the LAN may have: the upper half. Subnet 0 is
# the router's own, and phones with WireGuard have addresses of a subnet in the lower half.
waybill_prefix() {
	local first second third rest

	first="${1%%:*}"
	rest="${1#*:}"
	second="${rest%%:*}"
	rest="${rest#*:}"
	third="${rest%%:*}"
	# "::" stands for all groups of zeros that are left.
	[ -n "$second" ] || third=0
	echo "$first:${second:-0}:${third:-0}:8000::/49"
}

# Tells netifd how the network $1 is.
waybill_tell() {
	local device address

	read -r device 2>/dev/null </var/run/waybill-root/tun || device=
	read -r address 2>/dev/null </var/run/waybill-root/address || address=
	if [ -n "$device" ] && [ -n "$address" ] && [ -e "/sys/class/net/$device" ]; then
		# The addresses are there already, and the daemon's: "external".
		proto_init_update "$device" 1 1
		proto_add_ipv6_address "$address" 128
		proto_add_ipv6_prefix "$(waybill_prefix "$address")"
	else
		proto_init_update '*' 0
	fi
	proto_send_update "$1"
}

proto_waybill_setup() {
	local device

	# Without a device yet the network waits: whoever makes the device says so.
	read -r device 2>/dev/null </var/run/waybill-root/tun || return 0
	[ ! -e "/sys/class/net/$device" ] || waybill_tell "$1"
}

proto_waybill_teardown() {
	# The device stays: the daemon carries for others, whatever this router's own networks do.
	return 0
}

[ -n "$INCLUDE_ONLY" ] || add_protocol waybill
