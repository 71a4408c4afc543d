# shellcheck shell=dash disable=SC1007,SC2016,SC2034,SC2317,SC3043
# (SC1007, SC2016, SC2034, SC2317: empty values, backquotes that are only text, variables for who includes this, functions that /lib/functions.sh calls)
#
# From /etc/config/waybill to the daemon's own config file, and back: whatever is wrong is said by the name of its UCI option.
#
#   waybill_render FILE   writes FILE, mode 0600, and FILE.map, whose line N names the option that line N of FILE comes from
#   waybill_check FILE    asks the daemon whether FILE is right, and says its mistakes by those names
#
# Mistakes go to standard error, one a line. /lib/functions.sh has to be there already.
#
# Sections and options are read one by one as `uci export` says them. The usual config_get is not used: it keeps all in variables
# named CONFIG_<section>_<option>, where `option quic_endpoint` of a section `roof` is `option endpoint` of one called `roof_quic`.
# What people wrote is never evaluated: it is compared, and stands in the file in quotes, or is refused by name.

WAYBILL_PROG=/usr/bin/waybill
# In memory, gone with a reboot: what is the daemon's, such as its socket; and what is root's, such as its config file. They are two
# directories, so that root never writes where the daemon's user could have put a link.
WAYBILL_RUN=/var/run/waybill
WAYBILL_ROOT=/var/run/waybill-root
# On the flash: what is worth money.
WAYBILL_STATE=/etc/waybill/state
# Whom the daemon runs as. The package makes this user and its group.
WAYBILL_USER=waybill
WAYBILL_PASSWD=/etc/passwd

WAYBILL_NL='
'
WAYBILL_CONTROL="$(printf '\001-\037\177')"

# The sections of type $1: the table they are in the daemon's file (wb_table) and their options (wb_schema), each with its kind.
# `own` is what the daemon knows under another name, or not at all.
waybill_schema() {
	case "$1" in
	node)
		wb_table='[node]'
		wb_schema='enabled:own name:text key_file:text state_dir:text control_socket:text tun:text mtu:number
			announce:list offloads:truth workers:number log:text'
		;;
	wireguard | quic)
		wb_table="[$1]"
		wb_schema='enabled:own listen:text'
		;;
	interface)
		wb_table=
		wb_schema='enabled:own network:own device:own'
		;;
	names)
		wb_table='[names]'
		wb_schema='enabled:own port:number listen:list upstream:list private:list'
		;;
	routing)
		wb_table='[routing]'
		wb_schema='enabled:own hello_interval:text update_interval:text'
		;;
	policy)
		wb_table='[price]'
		wb_schema='enabled:own ask:text fee:text max:text window:text hop_worth:text budget_day:text budget_month:text'
		;;
	ledger)
		wb_table='[ledger]'
		wb_schema='enabled:own path:text url:text key:text founding:text authorities:text deposit:text redeem_at:text
			watch:truth serve:text serve_key:text'
		;;
	community)
		wb_table='[community]'
		wb_schema='enabled:own members_only:truth endpoint:text'
		;;
	gateway)
		wb_table='[gateway]'
		wb_schema='enabled:own network:own uplink:text tun:text ipv4_pool:text dns:list clients_max:number cap_day:text
			cap_month:text client_cap_day:text client_cap_month:text hours:text refuse:list contact:text'
		;;
	internet)
		wb_table='[internet]'
		wb_schema='enabled:own gateways:list tun:text'
		;;
	peer)
		wb_table='[[peer]]'
		wb_schema='enabled:own name:text card:text endpoint:text quic_endpoint:text link:text role:text cost:number
			sensing:text'
		;;
	leaf)
		wb_table='[[leaf]]'
		wb_schema='enabled:own name:text wireguard_key:text addresses:list ipv4:text endpoint:text babel:truth
			cost:number'
		;;
	*) return 1 ;;
	esac
	# On one line, so that a name with spaces around it is found.
	# shellcheck disable=SC2086
	set -- $wb_schema
	wb_schema=" $* "
}

# Renders into the file $1. Returns 1 if an option is wrong; then the file is of no use. Besides, it says in variables:
# wb_enabled (1: the daemon is to run), wb_tun, wb_key_file, wb_state_dir, wb_socket, wb_gateway, wb_internet and wb_ledger (1: there is
# such a section), wb_networks (UCI networks it depends on) and wb_settings (what is another where the daemon has to start anew:
# a hash of all that it does not take in while it runs); wb_ledger_dir (where the ledger's file is, if it is here), wb_authorities and
# wb_serve_key (files that the daemon reads), and wb_ledger_path (that file).
waybill_render() {
	local file="$1" mask

	wb_failed=0 wb_enabled=0
	wb_tun=waybill0 wb_key_file=/etc/waybill/key wb_state_dir= wb_socket=$WAYBILL_RUN/control.sock
	wb_ledger_dir= wb_ledger_path= wb_authorities= wb_serve_key=
	wb_gateway=0 wb_internet=0 wb_ledger=0 wb_networks= wb_node_text= wb_node_map= wb_node_has=' ' wb_node=waybill.node
	wb_type= wb_section= wb_list= wb_devices= wb_devices_map=
	wb_n_node=0 wb_n_wireguard=0 wb_n_quic=0 wb_n_interface=0 wb_n_names=0 wb_n_routing=0 wb_n_policy=0 wb_n_ledger=0
	wb_n_community=0 wb_n_gateway=0 wb_n_internet=0 wb_n_peer=0 wb_n_leaf=0

	mask="$(umask)"
	umask 077
	rm -f "$file" "$file.map" "$file.live" "$file.live.map"
	if ! touch "$file" "$file.map" "$file.live" "$file.live.map"; then
		umask "$mask"
		waybill_wrong waybill "cannot write $file"
		return 1
	fi
	wb_file="$file" wb_network= wb_device=

	config_cb() { waybill_begin "$@"; }
	option_cb() { waybill_option "$@"; }
	list_cb() { waybill_item "$@"; }
	! waybill_is_sound || config_load waybill
	reset_cb
	waybill_end
	waybill_rest
	wb_settings="$(md5sum "$file")"
	wb_settings="${wb_settings%% *}-$wb_gateway$wb_internet"
	cat "$file.live" >>"$file"
	cat "$file.live.map" >>"$file.map"
	rm -f "$file.live" "$file.live.map"
	umask "$mask"
	waybill_utf8 "$file"
	[ "$wb_failed" = 0 ]
}

# Whether /etc/config/waybill may be loaded at all. config_load itself says nothing of a mistake and takes what stands before it; and
# it evaluates what uci writes down, where types of sections, unlike all else, are not in quotes.
waybill_is_sound() {
	local said kind

	said="$(uci export waybill 2>&1)" || {
		waybill_wrong waybill "/etc/config/waybill cannot be read: $said"
		return 1
	}
	kind="$(printf '%s\n' "$said" | sed -n 's/^config //p' | grep '^[A-Za-z0-9_]*[^A-Za-z0-9_ ]' | head -n 1)"
	[ -n "$kind" ] || return 0
	waybill_wrong waybill "there are no sections of type ${kind%% *}"
	return 1
}

# Says what is wrong ($2) with an option or section ($1).
waybill_wrong() {
	wb_failed=1
	printf '%s: %s\n' "$1" "$2" >&2
}

# A value as it may be printed.
waybill_shown() {
	printf '%s' "$1" | tr -c ' -~' '?' | cut -c 1-40
}

# A line for the file ($1), and the option it comes from ($2).
waybill_line() {
	wb_text="$wb_text$1$WAYBILL_NL"
	wb_map="$wb_map$2$WAYBILL_NL"
}

# config_cb: a section of type $1 begins, called $2; without a type, all are done.
waybill_begin() {
	local number

	waybill_end
	[ -n "$1" ] || return 0
	# For the page of the first start, and not for the daemon.
	if [ "$1" = setup ]; then
		wb_type=
		return 0
	fi
	wb_type="$1" wb_section="waybill.$2" wb_named="$2" wb_has=' ' wb_on=1 wb_text= wb_map=
	if ! waybill_schema "$1"; then
		waybill_wrong "$wb_section" "there are no sections of type $(waybill_shown "$1")"
		wb_type=
		return 0
	fi
	eval "number=\$wb_n_$1 wb_n_$1=\$((wb_n_$1 + 1))"
	case "$2" in
	cfg[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]) wb_section="waybill.@$1[$number]" wb_named= ;;
	esac
	case "$1" in
	peer | leaf) waybill_line '' "$wb_section" ;;
	interface) ;;
	*)
		if [ "$number" -gt 0 ]; then
			waybill_wrong "$wb_section" "there is a section of type $1 already; put the options of both into one"
			wb_type=
			return 0
		fi
		;;
	esac
	[ -z "$wb_table" ] || waybill_line "$wb_table" "$wb_section"
}

# option_cb: an option of the section, called $1, is $2.
waybill_option() {
	local name="$wb_section.$1" item

	[ -n "$wb_type" ] || return 0
	waybill_end_list
	# As with config_get, what is empty is as if it were not there.
	[ -n "$2" ] || return 0
	wb_has="$wb_has$1 "
	case "$wb_schema" in
	*" $1:text "*) waybill_text "$1" "$2" ;;
	*" $1:number "*) waybill_number "$1" "$2" ;;
	*" $1:truth "*) waybill_truth "$name" "$2" && waybill_line "$1 = $wb_truth" "$name" ;;
	*" $1:list "*)
		set -f
		for item in $2; do
			waybill_item "$1" "$item"
		done
		set +f
		waybill_end_list
		;;
	*" $1:own "*) waybill_own "$1" "$2" ;;
	*) waybill_unknown "$1" ;;
	esac
}

# list_cb: one more item of the list $1 is $2. Those of one list come one after another.
waybill_item() {
	local name="$wb_section.$1"

	[ -n "$wb_type" ] || return 0
	[ "$wb_list" = "$1" ] || waybill_end_list
	case "$wb_schema" in
	*" $1:list "*)
		if [ "$wb_list" != "$1" ]; then
			wb_list="$1" wb_has="$wb_has$1 "
			waybill_line "$1 = [" "$name"
		fi
		waybill_quote "$name" "$2" && waybill_line "  $wb_quoted," "$name"
		;;
	*" $1:"*)
		case "$wb_has" in
		*" $1 "*) return 0 ;;
		esac
		wb_has="$wb_has$1 "
		waybill_wrong "$name" 'this is one value: write "option" and not "list"'
		;;
	*)
		case "$wb_has" in
		*" $1 "*) return 0 ;;
		esac
		wb_has="$wb_has$1 "
		waybill_unknown "$1"
		;;
	esac
}

waybill_end_list() {
	[ -z "$wb_list" ] || waybill_line ']' "$wb_section.$wb_list"
	wb_list=
}

waybill_unknown() {
	local known

	known="$(printf '%s' "$wb_schema" | sed 's/:[a-z]*//g; s/^ //; s/ $//; s/ /, /g')"
	waybill_wrong "$wb_section.$1" "there is no such option in a section of type $wb_type; there are $known"
}

waybill_text() {
	waybill_quote "$wb_section.$1" "$2" || return 0
	case "$wb_type.$1" in
	node.key_file | node.state_dir | node.control_socket | ledger.path | ledger.authorities | ledger.serve_key)
		# They become mounts of the jail, where a blank would begin another.
		case "$2" in
		/*[!A-Za-z0-9._/-]* | *..* | [!/]*)
			waybill_wrong "$wb_section.$1" "\"$(waybill_shown "$2")\" is no path of letters, digits, dots, hyphens and slashes"
			return 0
			;;
		esac
		;;
	esac
	case "$wb_type.$1" in
	node.tun) wb_tun="$2" ;;
	node.key_file) wb_key_file="$2" ;;
	node.state_dir) wb_state_dir="$2" ;;
	node.control_socket) wb_socket="$2" ;;
	ledger.path)
		if [ -z "${2%/*}" ]; then
			waybill_wrong "$wb_section.$1" 'put it into a directory: all beside it is open to the daemon'
			return 0
		fi
		wb_ledger_path="$2" wb_ledger_dir="${2%/*}"
		;;
	ledger.authorities) wb_authorities="$2" ;;
	ledger.serve_key) wb_serve_key="$2" ;;
	esac
	waybill_line "$1 = $wb_quoted" "$wb_section.$1"
}

# The value $2 as a basic string of TOML, in wb_quoted.
waybill_quote() {
	case "$2" in
	*[$WAYBILL_CONTROL]*)
		waybill_wrong "$1" "\"$(waybill_shown "$2")\" has a line break or a control character in it"
		return 1
		;;
	*[\\\"]*) wb_quoted="\"$(printf '%s' "$2" | sed 's/[\\"]/\\&/g')\"" ;;
	*) wb_quoted="\"$2\"" ;;
	esac
}

waybill_number() {
	local number="$2"

	case "$number" in
	*[!0-9]*)
		waybill_wrong "$wb_section.$1" "\"$(waybill_shown "$2")\" is no whole number"
		return 0
		;;
	esac
	# TOML knows no leading zeros.
	while [ "${#number}" -gt 1 ] && [ "${number#0}" != "$number" ]; do
		number="${number#0}"
	done
	if [ "${#number}" -gt 9 ]; then
		waybill_wrong "$wb_section.$1" "$(waybill_shown "$2") is out of bounds"
		return 0
	fi
	waybill_line "$1 = $number" "$wb_section.$1"
}

# The value $2 as true or false, in wb_truth: with the words that /lib/functions.sh knows, and no others.
waybill_truth() {
	case "$2" in
	1 | on | true | yes | enabled) wb_truth=true ;;
	0 | off | false | no | disabled) wb_truth=false ;;
	*)
		waybill_wrong "$1" "\"$(waybill_shown "$2")\" is neither 1 nor 0"
		return 1
		;;
	esac
}

waybill_own() {
	local name="$wb_section.$1"

	case "$wb_type.$1" in
	node.enabled)
		waybill_truth "$name" "$2" && [ "$wb_truth" = true ] && wb_enabled=1
		return 0
		;;
	*.enabled)
		waybill_truth "$name" "$2" && [ "$wb_truth" = false ] && wb_on=0
		return 0
		;;
	interface.device) wb_device="$2" wb_device_name="$name" ;;
	*.network) wb_network="$2" ;;
	esac
}

# The section is whole: what it lacks is added, and it goes into the file if it is to count.
waybill_end() {
	local to="$wb_file"

	[ -n "$wb_type" ] || return 0
	waybill_end_list
	case "$wb_type" in
	node)
		# What it lacks depends on the others. It is the daemon as a whole that is switched off here.
		wb_node_text="$wb_text" wb_node_map="$wb_map" wb_node_has="$wb_has" wb_node="$wb_section" wb_text=
		;;
	ledger)
		if [ "$wb_on" = 1 ]; then
			wb_ledger=1
		else
			wb_ledger_dir= wb_ledger_path= wb_authorities= wb_serve_key=
		fi
		;;
	interface) waybill_end_interface ;;
	gateway)
		to="$wb_file.live"
		waybill_end_gateway
		;;
	internet)
		to="$wb_file.live"
		[ "$wb_on" = 0 ] || wb_internet=1
		;;
	peer | leaf)
		to="$wb_file.live"
		# `config peer 'roof'` says the name already.
		case "$wb_has" in
		*' name '*) ;;
		*) [ -z "$wb_named" ] || waybill_line "name = \"$wb_named\"" "$wb_section" ;;
		esac
		;;
	esac
	if [ "$wb_on" = 1 ] && [ -n "$wb_text" ]; then
		printf '%s' "$wb_text" >>"$to"
		printf '%s' "$wb_map" >>"$to.map"
	fi
	wb_type= wb_device= wb_network= wb_text= wb_map=
}

waybill_end_interface() {
	[ "$wb_on" = 1 ] || return 0
	if [ -n "$wb_network" ] && [ -n "$wb_device" ]; then
		waybill_wrong "$wb_section" 'name it by network or by device, not by both'
		return 0
	elif [ -n "$wb_network" ]; then
		wb_device_name="$wb_section.network"
		waybill_device_of "$wb_device_name" "$wb_network" || return 0
		# One that is not there yet begins to count when it comes up: see service_triggers in the init script.
		[ -n "$wb_device" ] || return 0
	elif [ -z "$wb_device" ]; then
		waybill_wrong "$wb_section" 'name it by network (a section of /etc/config/network) or by device (such as eth1)'
		return 0
	fi
	waybill_quote "$wb_device_name" "$wb_device" || return 0
	case "$wb_devices" in
	*"  $wb_quoted,"*) return 0 ;;
	esac
	wb_devices="$wb_devices  $wb_quoted,$WAYBILL_NL"
	wb_devices_map="$wb_devices_map$wb_device_name$WAYBILL_NL"
}

waybill_end_gateway() {
	[ "$wb_on" = 1 ] || return 0
	wb_gateway=1
	[ -n "$wb_network" ] || return 0
	case "$wb_has" in
	*' uplink '*)
		waybill_wrong "$wb_section.network" 'say the way out by network or by uplink (its device), not by both'
		return 0
		;;
	esac
	waybill_device_of "$wb_section.network" "$wb_network" || return 0
	if [ -z "$wb_device" ]; then
		waybill_wrong "$wb_section.network" "$wb_network is not up, and its device is not known before it is"
		return 0
	fi
	waybill_quote "$wb_section.network" "$wb_device" && waybill_line "uplink = $wb_quoted" "$wb_section.network"
}

# The device of the UCI network $2, in wb_device: the one it has, else the one it had, else the one it will have by its settings.
# Empty if nobody knows; 1 if there is no such network.
waybill_device_of() {
	local proto

	wb_device=
	case "$2" in
	*[!A-Za-z0-9_]*)
		waybill_wrong "$1" "\"$(waybill_shown "$2")\" is no name of a network"
		return 1
		;;
	esac
	proto="$(uci -q get "network.$2.proto")" || {
		waybill_wrong "$1" "there is no network $2 in /etc/config/network"
		return 1
	}
	wb_networks="$wb_networks $2"
	# shellcheck source=/dev/null
	command -v network_get_device >/dev/null || . /lib/functions/network.sh
	if network_get_device wb_device "$2" && [ -n "$wb_device" ]; then
		mkdir -p "$WAYBILL_ROOT" && printf '%s\n' "$wb_device" >"$WAYBILL_ROOT/device.$2"
		return 0
	fi
	wb_device=
	if [ -s "$WAYBILL_ROOT/device.$2" ]; then
		read -r wb_device <"$WAYBILL_ROOT/device.$2"
		return 0
	fi
	case "$proto" in
	ppp*) wb_device="$proto-$2" ;;
	*)
		wb_device="$(uci -q get "network.$2.device")"
		# An alias, or a list.
		case "$wb_device" in
		*[!A-Za-z0-9._-]*) wb_device= ;;
		esac
		;;
	esac
	return 0
}

# What comes of all sections together: the node with what it has without being asked, and where neighbours are looked for.
waybill_rest() {
	local name

	wb_text="$wb_node_text" wb_map="$wb_node_map"
	[ -n "$wb_text" ] || waybill_line '[node]' "$wb_node"
	case "$wb_node_has" in
	*' name '*) ;;
	*)
		read -r name </proc/sys/kernel/hostname
		name="${name%%.*}"
		case "$name" in
		'' | -* | 0x* | *[!A-Za-z0-9-]*) name=router ;;
		esac
		waybill_line "name = \"$name\"" "$wb_node.name"
		;;
	esac
	if [ -z "$wb_state_dir" ]; then
		# Receipts are money, and outlive a reboot. Without a ledger there is nothing to keep, and the flash is spared.
		wb_state_dir="$WAYBILL_RUN/state"
		[ "$wb_ledger" = 0 ] || wb_state_dir="$WAYBILL_STATE"
		waybill_line "state_dir = \"$wb_state_dir\"" "$wb_node.state_dir"
	fi
	case "$wb_node_has" in
	*' control_socket '*) ;;
	*) waybill_line "control_socket = \"$wb_socket\"" "$wb_node.control_socket" ;;
	esac
	printf '%s' "$wb_text" >>"$wb_file"
	printf '%s' "$wb_map" >>"$wb_file.map"
	[ -n "$wb_devices" ] || return 0
	printf '[discovery]\ninterfaces = [\n%s]\n' "$wb_devices" >>"$wb_file"
	# The table is each section's, and none's in particular.
	printf 'waybill.@interface[0]\nwaybill.@interface[0]\n%swaybill.@interface[0]\n' "$wb_devices_map" >>"$wb_file.map"
}

# Refuses what is no UTF-8, by name: the daemon would say no more than that there is such a thing.
waybill_utf8() {
	local number=0 line name

	waybill_is_utf8 <"$1" && return 0
	while IFS= read -r line; do
		number=$((number + 1))
		printf '%s\n' "$line" | waybill_is_utf8 && continue
		name="$(sed -n "${number}p" "$1.map")"
		waybill_wrong "$name" 'this is not UTF-8 text'
	done <"$1"
}

# RFC 3629, section 4, over hexadecimal digits.
waybill_is_utf8() {
	local tail='[89ab].'

	LC_ALL=C tr -d '\n -~\t' | hexdump -v -e '1/1 "%02x"' | LC_ALL=C tr -d '\n' | {
		cat
		echo
	} | grep -q -x -E "([0-7].|(c[2-9a-f]|d.)$tail|e0[ab].$tail|e[1-9a-cef]$tail$tail|ed[89].$tail|f0[9ab].$tail$tail|f[1-3]$tail$tail$tail|f48.$tail$tail)*"
}

# Whether the daemon takes the file $1, as waybill_render wrote it.
waybill_check() {
	local said line known=0

	said="$("$WAYBILL_PROG" up --config "$1" --check 2>&1 >/dev/null)" && return 0
	while IFS= read -r line; do
		case "$line" in
		'  line '[0-9]*', column '[0-9]*': '*)
			known=1
			waybill_translate "$1" "$line"
			;;
		esac
	done <<-END
		$said
	END
	[ "$known" = 1 ] && return 1
	# Something else than an option: the key file, or the program itself.
	said="${said#error: }"
	case "$said" in
	*"$wb_key_file"*) waybill_wrong waybill.node.key_file "$said" ;;
	*) waybill_wrong waybill "${said:-$WAYBILL_PROG does not run}" ;;
	esac
	return 1
}

# Says a mistake of the daemon, the line $2 about the file $1, by the option it comes from.
waybill_translate() {
	local number name problem key item

	number="${2#  line }"
	number="${number%%,*}"
	problem="${2#*: }"
	name="$(sed -n "${number}p" "$1.map")"
	# Lists have a line for each entry.
	case "$problem" in
	*': entry '[0-9]*': '*)
		item="${problem#*: entry }"
		item="${item%%:*}"
		name="$(sed -n "$((number + item))p" "$1.map")"
		;;
	esac
	case "$problem" in
	'[['*']] '*) problem="${problem#*]] }" ;;
	'['*']: '*) problem="${problem#*]: }" ;;
	'['*'] '*) problem="${problem#*] }" ;;
	esac
	key="${problem%%: *}"
	case "$problem" in
	"has no \`"*"\`; it is "*)
		key="${problem#*\`}"
		name="$name.${key%%\`*}"
		problem="is missing: it is ${problem#*; it is }"
		;;
	[a-z]*': '*)
		case "$key" in
		*[!a-z0-9_]*) ;;
		*)
			problem="${problem#*: }"
			case "$name.$key" in
			waybill.*.*.* | *.interfaces) ;;
			*) name="$name.$key" ;;
			esac
			;;
		esac
		;;
	esac
	problem="$(printf '%s' "$problem" | sed -e 's/\[\[\([a-z]*\)\]\]/[\1]/g' -e 's/\[price\]/[policy]/g' \
		-e 's/\[discovery\]/[interface]/g' \
		-e 's/\[\(node\|wireguard\|quic\|interface\|names\|routing\|policy\|ledger\|community\|gateway\|internet\|peer\|leaf\)\]\( table\)*/`config \1`/g')"
	waybill_wrong "${name:-waybill}" "$problem"
}

# Whether the files that the settings name are there: a directory that is missing would be a jail that never starts. The program makes
# its own; where a ledger is to be is its owner's word, and might be a stick that is not in.
waybill_check_places() {
	if [ -n "$wb_ledger_dir" ] && [ ! -d "$wb_ledger_dir" ]; then
		case "$wb_ledger_dir/" in
		"${WAYBILL_STATE%/*}"/*) ;;
		*)
			waybill_wrong waybill.ledger.path "there is no directory $wb_ledger_dir; make it, or put in what it is on"
			return 1
			;;
		esac
	fi
	if [ -n "$wb_authorities" ] && [ ! -f "$wb_authorities" ]; then
		waybill_wrong waybill.ledger.authorities "there is no file $wb_authorities"
		return 1
	fi
	if [ -n "$wb_serve_key" ] && [ ! -f "$wb_serve_key" ]; then
		waybill_wrong waybill.ledger.serve_key "there is no file $wb_serve_key"
		return 1
	fi
}

# The numbers of the daemon's user and group, in wb_uid and wb_gid; 1 if there is no such user, or it is root.
waybill_user() {
	local ids

	ids="$(sed -n "s/^$WAYBILL_USER:[^:]*:\([1-9][0-9]*\):\([1-9][0-9]*\):.*/\1 \2/p" "$WAYBILL_PASSWD" 2>/dev/null | head -n 1)"
	wb_uid="${ids% *}" wb_gid="${ids#* }"
	[ -n "$ids" ]
}

# What $1 is, and not what a link leads to: wb_mode as `ls` writes it, wb_links names, wb_owner:wb_group. There is no `stat` on a router.
waybill_look() {
	wb_mode= wb_links= wb_owner= wb_group=
	read -r wb_mode wb_links wb_owner wb_group wb_rest <<-END
		$(ls -ldn "$1" 2>/dev/null)
	END
}

# Whether root alone decides what $1 is: nobody else may write to a directory on the way to it.
waybill_is_fixed() {
	local at

	at="$(readlink -f "${1%/*}/")" || return 1
	at="${at%/}"
	while :; do
		waybill_look "${at:-/}"
		[ "$wb_owner" = 0 ] || return 1
		case "$wb_mode" in
		# The last of these is one that all may write to, and that gives nobody what is another's.
		d????-??-?* | d????????[tT]*) ;;
		*) return 1 ;;
		esac
		[ -n "$at" ] || return 0
		at="${at%/*}"
	done
}

# Gives the file or directory $1 to the user $2 and the group $3: a thing that has no other name, and no link.
waybill_give() {
	waybill_look "$1"
	case "$wb_mode" in
	d*) ;;
	-*) [ "$wb_links" = 1 ] || return 1 ;;
	*) return 1 ;;
	esac
	[ "$wb_owner:$wb_group" = "$2:$3" ] || chown -h "$2:$3" "$1" 2>/dev/null
}

# The same with what is in the directory $1, and in the directories in it. Whoever has it must not be there to change it meanwhile.
waybill_give_all() {
	local each

	waybill_give "$1" "$2" "$3" || return 1
	for each in "$1"/* "$1"/.[!.]*; do
		[ ! -L "$each" ] || continue
		if [ -f "$each" ]; then
			waybill_give "$each" "$2" "$3" || waybill_wrong waybill "$each stays whose it is: it has another name, too"
		elif [ -d "$each" ] && [ -z "$4" ]; then
			waybill_give_all "$each" "$2" "$3" inner
		fi
	done
}

# Whether a program of the user with the number $1 runs.
waybill_is_running() {
	cat /proc/[0-9]*/status 2>/dev/null | grep -q "^Uid:.*[[:space:]]$1\([[:space:]]\|\$\)"
}

# Whether the daemon's user may have the directory $1, which option $2 names. It may if it has it already, if it is made for it, or if
# the daemon was there before as root, and kept its journal or the ledger $3 there; what else is there is somebody's.
waybill_may_have() {
	local its

	# Where the key is root makes it, and nobody may lay anything in the way.
	case "$wb_key_file" in
	"$1"/*)
		waybill_wrong "$2" "the key is in $1, too; name a directory without it"
		return 1
		;;
	esac
	# The daemon's own, which is made and given while it is not there.
	case "$1" in
	"$WAYBILL_RUN"/*) return 0 ;;
	esac
	if ! waybill_is_fixed "$1"; then
		waybill_wrong "$2" "others than root may write where $1 is"
		return 1
	fi
	[ -e "$1" ] || return 0
	waybill_look "$1"
	case "$wb_mode" in
	d*) ;;
	*)
		waybill_wrong "$2" "$1 is no directory"
		return 1
		;;
	esac
	[ "$wb_owner" != "$wb_uid" ] || return 0
	case "$1" in
	"$WAYBILL_RUN" | "$WAYBILL_STATE") return 0 ;;
	esac
	for its in "$1/journal.sqlite" "$3"; do
		[ -f "$its" ] && [ ! -L "$its" ] && [ "$(head -c 15 "$its")" = 'SQLite format 3' ] && return 0
	done
	waybill_wrong "$2" "$1 is not the daemon's; if it is to be: chown $WAYBILL_USER $1"
	return 1
}

# Whether the daemon's user may read the file $1, which option $2 names.
waybill_may_read() {
	[ -n "$1" ] || return 0
	waybill_look "$1"
	[ "$wb_owner" != "$wb_uid" ] || return 0
	case "$wb_mode" in
	???????r*) return 0 ;;
	????r*) [ "$wb_group" != "$wb_gid" ] || return 0 ;;
	esac
	waybill_wrong "$2" "the user $WAYBILL_USER may not read $1: chown $WAYBILL_USER $1"
	return 1
}
