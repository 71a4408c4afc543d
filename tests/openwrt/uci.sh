# shellcheck shell=dash disable=SC2034,SC3043
#
# `uci` for the tests, with a memory: the file $UCI has a line for each section and each option, $UCI.saved has what was committed.
# A list is an option with a line for each item, and a "+" before its name.

uci() {
	local key value name quiet=0

	[ "$1" != -q ] || quiet=1
	[ "$quiet" = 0 ] || shift
	name="$1"
	shift
	key="${1%%=*}" value="${1#*=}"
	touch "$UCI" "$UCI.saved"
	case "$name" in
	get)
		uci_lines get "$key"
		;;
	set)
		case "$key" in
		*.*.*) uci_lines 'get' "${key%.*}" >/dev/null || return 1 ;;
		esac
		uci_change delete "$key"
		[ -z "$value" ] || printf '%s\n' "$key=$value" >>"$UCI"
		;;
	add_list) printf '%s\n' "${key%.*}.+${key##*.}=$value" >>"$UCI" ;;
	add)
		value="cfg0$(wc -l <"$UCI")0a1b"
		value="cfg$(printf '%s' "${value#cfg}" | tail -c 6)"
		printf '%s\n' "$1.$value=$2" >>"$UCI"
		echo "$value"
		;;
	delete)
		uci_lines get "$key" >/dev/null || return 1
		uci_change delete "$key"
		;;
	show | export) uci_lines "$name" "$1" ;;
	changes)
		grep "^$1\." "$UCI" >"$UCI.a"
		grep "^$1\." "$UCI.saved" >"$UCI.b"
		cmp -s "$UCI.a" "$UCI.b" || echo "$1 has changed"
		;;
	commit | revert)
		if [ "$name" = commit ]; then value="$UCI.saved" key="$UCI"; else value="$UCI" key="$UCI.saved"; fi
		{
			grep -v "^$1\." "$value"
			grep "^$1\." "$key"
		} >"$UCI.a"
		mv "$UCI.a" "$value"
		if [ "$name" = commit ]; then echo "commit $1" >>"$UCI.log"; fi
		;;
	*) return 1 ;;
	esac
}

uci_change() {
	uci_lines "$@" >"$UCI.a"
	mv "$UCI.a" "$UCI"
}

# $1: get, delete, show or export; $2: a package, section or option.
uci_lines() {
	WHAT="$1" KEY="$2" awk '
		function quoted(text) { gsub("\047", "\047\\\047\047", text); return "\047" text "\047" }
		BEGIN { what = ENVIRON["WHAT"]; key = ENVIRON["KEY"]; count = split(key, part, "."); found = 0 }
		{
			at = index($0, "="); name = substr($0, 1, at - 1); value = substr($0, at + 1)
			n = split(name, p, "."); list = (n == 3 && substr(p[3], 1, 1) == "+")
			plain = list ? p[1] "." p[2] "." substr(p[3], 2) : name
		}
		what == "get" { if (plain == key) { out = found ? out " " value : value; found = 1 }; next }
		what == "delete" { if (plain != key && !(count == 2 && index(name, key ".") == 1)) print; next }
		p[1] != part[1] || (count == 2 && p[2] != part[2]) { next }
		n == 2 { order[++sections] = p[2]; type[p[2]] = value; next }
		list && ((p[2], p[3]) in all) { all[p[2], p[3]] = all[p[2], p[3]] " " quoted(value); items[p[2], ++size[p[2]]] = $0; next }
		{ names[p[2]] = names[p[2]] " " p[3]; all[p[2], p[3]] = quoted(value); items[p[2], ++size[p[2]]] = $0 }
		END {
			if (what == "get") { if (found) print out; exit !found }
			if (what == "delete") exit 0
			if (what == "export") print "package " part[1]
			for (s = 1; s <= sections; s++) {
				section = order[s]
				if (what == "show") {
					print part[1] "." section "=" type[section]
					split(names[section], option, " ")
					for (o = 1; o in option; o++) {
						short = option[o]; sub(/^\+/, "", short)
						print part[1] "." section "." short "=" all[section, option[o]]
					}
					delete option
					continue
				}
				print "\nconfig " type[section] " " quoted(section)
				for (o = 1; o <= size[section]; o++) {
					at = index(items[section, o], "="); name = substr(items[section, o], 1, at - 1)
					split(name, p, ".")
					if (substr(p[3], 1, 1) == "+") print "\tlist " substr(p[3], 2) " " quoted(substr(items[section, o], at + 1))
					else print "\toption " p[3] " " quoted(substr(items[section, o], at + 1))
				}
			}
			exit sections == 0
		}' "$UCI"
}

# Of functions.sh, by what is set here.
config_load() {
	uci export "$1" >"$EXPORT"
	CONFIG_SECTION=
	# shellcheck source=/dev/null
	. "$EXPORT"
	${CONFIG_SECTION:+config_cb}
}
