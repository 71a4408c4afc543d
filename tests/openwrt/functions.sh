# shellcheck shell=dash disable=SC1090,SC2034,SC2154,SC2317,SC3043
#
# What the scripts of openwrt/waybill call of OpenWrt, for the tests: /lib/functions.sh as far as they need it, on top of what
# `uci export` would say (the file $EXPORT), three networks, and a procd that only writes down what it is told (the file $TOLD_PROCD).

reset_cb() {
	config_cb() { return 0; }
	option_cb() { return 0; }
	list_cb() { return 0; }
}
reset_cb

package() { :; }

config() {
	CONFIG_SECTION="$2"
	config_cb "$1" "$2"
}

option() {
	local name="$1"

	shift
	option_cb "$name" "$*"
}

list() {
	local name="$1"

	shift
	list_cb "$name" "$*"
}

config_load() {
	CONFIG_SECTION=
	[ -e "$EXPORT" ] || return 1
	. "$EXPORT"
	${CONFIG_SECTION:+config_cb}
}

uci() {
	case "$*" in
	'export waybill')
		cat "$EXPORT" 2>/dev/null && return 0
		echo "uci: Parse error (EOF with unterminated ') at line 2, byte 20" >&2
		return 1
		;;
	'-q get network.'*.proto)
		case "$3" in
		network.backhaul.* | network.radio.* | network.down.*) echo none ;;
		network.wan.* | network.dsl.*) echo pppoe ;;
		*) return 1 ;;
		esac
		;;
	'-q get network.radio.device') echo phy1-mesh0 ;;
	*) return 1 ;;
	esac
}

network_get_device() {
	case "$2" in
	backhaul) eval "$1=eth1.5" ;;
	wan) eval "$1=pppoe-wan" ;;
	*) return 1 ;;
	esac
}

logger() { :; }
ubus() { return 1; }

procd() { printf '%s\n' "$*" >>"$TOLD_PROCD"; }
procd_open_instance() { procd instance; }
procd_set_param() { procd "$@"; }
procd_add_jail() { procd jail "$@"; }
procd_add_jail_mount() { procd mount "$@"; }
procd_add_jail_mount_rw() { procd mount_rw "$@"; }
procd_close_instance() { procd closed; }
procd_send_signal() { procd signal "$@"; }
procd_add_reload_trigger() { procd trigger "$@"; }
procd_add_reload_interface_trigger() { procd interface "$@"; }

# As rc.common has them.
start() {
	start_service "$@"
	procd set
	service_triggers
}
stop() {
	stop_service "$@"
	procd delete
}
