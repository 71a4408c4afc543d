'use strict';
'require view';
'require form';
'require uci';
'require waybill';

const node = waybill.node;

/*
 * /etc/config/waybill. Each option has one line below; its name is the one of waybill.sh and of the daemon's example config, which
 * explains it at length. What is checked here is checked there too, where everything else is: what came of it is said on top.
 */

const ON = [ '1', 'on', 'true', 'yes', 'enabled' ];

const check = {
	name: [ /^(?!0x)[A-Za-z0-9][A-Za-z0-9-]{0,62}$/, _('A name has 1 to 63 letters, digits and hyphens.') ],
	tokens: [ /^[0-9]{1,12}(\.[0-9]+)?$/, _('Write an amount of tokens, such as 0.25.') ],
	size: [ /^[0-9]{1,12} ?(B|[KMGT]iB)?$/, _('Write a size, such as 64 MiB.') ],
	time: [ /^[0-9]{1,9} ?(ms|s|min|h|d)$/, _('Write a time, such as 500ms, 4s or 1 min.') ],
	number: [ /^[0-9]{1,9}$/, _('Write a whole number.') ],
	path: [ /^\/(?!.*\.\.)[A-Za-z0-9._\/-]*$/, _('Write a path of letters, digits, dots, hyphens and slashes.') ],
	device: [ /^[A-Za-z0-9._-]{1,15}$/, _('Write the name of a device, such as eth1.') ],
	endpoint: [ /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$/, _('Write an address or a host name and a port, such as roof.example.org:51820.') ],
	address: [ /^[0-9A-Fa-f.:]+$/, _('Write an IP address.') ],
	prefix: [ /^[0-9A-Fa-f.:]+\/[0-9]{1,3}$/, _('Write addresses with the length of their prefix, such as fd71:e4c7:228b:1::2/128.') ],
	hours: [ /^[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]$/, _('Write hours (UTC), such as 08:00-22:00.') ],
	card: [ /^waybill-card1:[A-Za-z0-9_-]+$/, _('Write what `waybill key` prints on that router: waybill-card1:…') ],
	key: [ /^[A-Za-z0-9+\/]{43}=$/, _('Write the public key that the WireGuard app shows.') ],
	text: [ /^[^\x00-\x1f\x7f]*$/, _('No control characters, please.') ]
};

/* What an option may be, besides texts that are checked: a switch, one of several words, a list, a network of this router. */
const flag = 'flag', list = 'list', network = 'network';

const tabs = function() {
	return [
		{ kind: 'node', title: _('Router'), options: [
			{ name: 'enabled', as: flag, title: _('Take part in the mesh') },
			{ name: 'name', as: 'name', title: _('Name'), help: _('What people call this router. Empty: its host name.') },
			{ name: 'log', as: [ 'error', 'warn', 'info', 'debug', 'trace' ], title: _('Log'), fallback: 'info' },
			{ name: 'mtu', as: 'number', title: _('Longest packet in the mesh'), help: _('Bytes, 1280 to 65000.'), fallback: '1420' },
			{ name: 'announce', as: list, of: 'prefix', title: _('Other prefixes behind this router') },
			{ name: 'workers', as: 'number', title: _('Threads that carry packets'), help: _('At most 4. 0 is one for each processor.'), fallback: '0' },
			{ name: 'offloads', as: flag, title: _('Many packets at once'), help: _('Several times faster. Switch it off where a driver damages packets.'), is_on: true },
			{ name: 'tun', as: 'device', title: _('Device of the mesh'), fallback: 'waybill0' },
			{ name: 'state_dir', as: 'path', title: _('Where receipts are kept'), fallback: '/etc/waybill/state' },
			{ name: 'key_file', as: 'path', title: _('Key file'), fallback: '/etc/waybill/key' },
			{ name: 'control_socket', as: 'path', title: _('Control socket'), fallback: '/var/run/waybill/control.sock' }
		] },
		{ kind: 'policy', title: _('Prices'), help: _('In whole tokens, such as 0.25. Either the one or the other is asked, not both.'), options: [
			{ name: 'enabled', as: flag, title: _('In use'), is_on: true },
			{ name: 'ask', as: 'tokens', title: _('Asked per GiB'), help: _('0 carries for free.'), fallback: '0' },
			{ name: 'fee', as: 'tokens', title: _('Asked on top of what the way out costs'), help: _('Per GiB, in place of the above.') },
			{ name: 'max', as: 'tokens', title: _('Paid per GiB at most'), help: _('0 pays nobody. Ways that cost more are not taken.'), fallback: '0' },
			{ name: 'budget_day', as: 'tokens', title: _('Paid in a day at most') },
			{ name: 'budget_month', as: 'tokens', title: _('Paid in a month at most') },
			{ name: 'window', as: 'size', title: _('Carried on trust at most'), help: _('For a neighbour without a receipt: 1 MiB to 64 GiB.'), fallback: '64 MiB' },
			{ name: 'hop_worth', as: 'tokens', title: _('What a hop less is worth'), help: _('Tokens per GiB, the same on all routers of a community.'), fallback: '0' }
		] },
		{ kind: 'interface', title: _('Wires and radios'), many: true, help: _('Where neighbours are looked for, each by its network or by its device. Not the way to the Internet.'), options: [
			{ name: 'enabled', as: flag, title: _('In use'), is_on: true },
			{ name: 'network', as: network, title: _('Network') },
			{ name: 'device', as: 'device', title: _('or device') }
		] },
		{ kind: 'peer', title: _('Neighbours'), many: true, help: _('Neighbours of the same community find each other by themselves: here are those to be called over the Internet, or with terms of their own.'), options: [
			{ name: 'enabled', as: flag, title: _('In use'), is_on: true },
			{ name: 'name', as: 'name', title: _('Name') },
			{ name: 'endpoint', as: 'endpoint', title: _('Address'), help: _('Empty: the neighbour calls this router.') },
			{ name: 'card', as: 'card', title: _('Card'), modal: true, must: true },
			{ name: 'quic_endpoint', as: 'endpoint', title: _('Address for QUIC'), modal: true },
			{ name: 'link', as: [ 'auto', 'wireguard', 'quic' ], title: _('Link'), fallback: 'auto', modal: true },
			{ name: 'role', as: [ 'auto', 'provider', 'subscriber', 'peer' ], title: _('Role'), help: _('provider: we pay it. subscriber: it pays us. peer: nobody pays.'), fallback: 'auto' },
			{ name: 'cost', as: 'number', title: _('Cost of the link'), help: _('1 to 65534: higher is used less.'), fallback: '96', modal: true },
			{ name: 'sensing', as: [ 'measured', 'wired', 'lossy' ], title: _('How the cost is found'), fallback: 'measured', modal: true }
		] },
		{ kind: 'leaf', title: _('Phones'), many: true, help: _('The page Phones makes keys and addresses.'), options: [
			{ name: 'enabled', as: flag, title: _('In use'), is_on: true },
			{ name: 'name', as: 'name', title: _('Name') },
			{ name: 'wireguard_key', as: 'key', title: _('WireGuard key'), must: true },
			{ name: 'addresses', as: list, of: 'prefix', title: _('Addresses') },
			{ name: 'ipv4', as: 'address', title: _('IPv4 address'), help: _('With one, all that it sends goes by the gateway of this household.'), modal: true },
			{ name: 'endpoint', as: 'endpoint', title: _('Address'), modal: true },
			{ name: 'babel', as: flag, title: _('A router with Babel'), modal: true },
			{ name: 'cost', as: 'number', title: _('Cost of the link'), fallback: '96', modal: true }
		] },
		{ kind: 'gateway', title: _('Gateway'), help: _('This router takes others to the Internet.'), options: [
			{ name: 'enabled', as: flag, title: _('In use'), is_on: true },
			{ name: 'network', as: network, title: _('Way out: network') },
			{ name: 'uplink', as: 'device', title: _('or device') },
			{ name: 'dns', as: list, of: 'address', title: _('Name servers for clients'), help: _("Needed: the router's own is not for clients.") },
			{ name: 'clients_max', as: 'number', title: _('Clients at once'), help: _('1 to 1000.'), fallback: '256' },
			{ name: 'cap_day', as: 'size', title: _('All clients in a day') },
			{ name: 'cap_month', as: 'size', title: _('All clients in a month') },
			{ name: 'client_cap_day', as: 'size', title: _('Each client in a day') },
			{ name: 'client_cap_month', as: 'size', title: _('Each client in a month') },
			{ name: 'hours', as: 'hours', title: _('Hours') },
			{ name: 'refuse', as: list, of: 'text', title: _('Not carried'), help: _('Such as tcp/25 or 198.51.100.0/24.') },
			{ name: 'contact', as: 'text', title: _('Whom to tell of abuse') },
			{ name: 'ipv4_pool', as: 'prefix', title: _('IPv4 addresses of clients'), fallback: '100.64.0.0/10' },
			{ name: 'tun', as: 'device', title: _('Device'), fallback: 'waybill-gw0' }
		] },
		{ kind: 'internet', title: _('Internet'), help: _('This router and its LAN reach the Internet by gateways. Not beside a gateway of its own.'), options: [
			{ name: 'enabled', as: flag, title: _('In use'), is_on: true },
			{ name: 'gateways', as: list, of: 'text', title: _('Gateways'), help: _('Names of neighbours, or addresses in the mesh; those to be preferred first.'), must: true },
			{ name: 'tun', as: 'device', title: _('Device'), fallback: 'waybill-net0' }
		] },
		{ kind: 'names', title: _('Names'), help: _('Answers for names inside the mesh, NAME.mesh.'), options: [
			{ name: 'enabled', as: flag, title: _('In use'), is_on: true },
			{ name: 'port', as: 'number', title: _('Port'), help: _('5300, for instance, where dnsmasq has 53.'), fallback: '53' },
			{ name: 'listen', as: list, of: 'endpoint', title: _('Where else it answers') },
			{ name: 'upstream', as: list, of: 'address', title: _('Asked for all other names') },
			{ name: 'private', as: list, of: 'text', title: _('Names out there with addresses in here') }
		] },
		{ kind: 'ledger', title: _('Ledger'), help: _('An invitation brings all of this.'), options: [
			{ name: 'enabled', as: flag, title: _('In use'), is_on: true },
			{ name: 'url', as: 'text', title: _('Address') },
			{ name: 'key', as: 'text', title: _('Its key') },
			{ name: 'founding', as: 'text', title: _('Its founding') },
			{ name: 'deposit', as: 'tokens', title: _('Locked for a provider'), fallback: '1' },
			{ name: 'redeem_at', as: 'tokens', title: _('Redeemed from'), help: _('Less is redeemed once a day.'), fallback: '1' },
			{ name: 'watch', as: flag, title: _("Neighbours keep copies of receipts"), is_on: true },
			{ name: 'authorities', as: 'path', title: _('Certificate authorities') },
			{ name: 'path', as: 'path', title: _('File, where it is kept here') },
			{ name: 'serve', as: 'endpoint', title: _('Served to others at') },
			{ name: 'serve_key', as: 'path', title: _('Key file for that') }
		] },
		{ kind: 'community', title: _('Community'), options: [
			{ name: 'enabled', as: flag, title: _('In use'), is_on: true },
			{ name: 'members_only', as: flag, title: _('Carry for members only'), help: _('Then any member may link to this router.') },
			{ name: 'endpoint', as: 'endpoint', title: _('Where others reach this router') }
		] },
		{ kind: 'wireguard', title: _('WireGuard'), options: [
			{ name: 'enabled', as: flag, title: _('In use'), is_on: true },
			{ name: 'listen', as: 'endpoint', title: _('Address and port'), fallback: '[::]:51820' }
		] },
		{ kind: 'quic', title: _('QUIC'), help: _('For where WireGuard does not pass.'), options: [
			{ name: 'enabled', as: flag, title: _('In use'), is_on: true },
			{ name: 'listen', as: 'endpoint', title: _('Address and port'), fallback: '[::]:443' }
		] },
		{ kind: 'routing', title: _('Routing'), options: [
			{ name: 'enabled', as: flag, title: _('In use'), is_on: true },
			{ name: 'hello_interval', as: 'time', title: _('Between two Hellos'), fallback: '1s' },
			{ name: 'update_interval', as: 'time', title: _('Between two Updates'), fallback: '60s' }
		] }
	];
};

/* Whether a section is there and not in use: what is in it may be unfinished. */
function isOff(section, tab, id) {
	const shown = section.formvalue ? section.formvalue(id, 'enabled') : null;
	const value = shown === null || shown === undefined ? uci.get('waybill', id, 'enabled') : shown;

	return tab.kind !== 'node' && value !== null && value !== undefined && ON.indexOf(value) < 0;
}

/* One line above, as a field. */
function field(section, tab, each) {
	const widget = each.as === flag ? form.Flag : each.as === list ? form.DynamicList
		: each.as === network || Array.isArray(each.as) ? form.ListValue : form.Value;
	const option = section.option(widget, each.name, each.title, each.help);
	const rule = check[each.as === list ? each.of : each.as];

	/* Not `false`, which is for the table alone. */
	option.modalonly = each.modal;
	option.placeholder = each.fallback;

	if (each.as === flag) {
		option.default = each.is_on ? '1' : '0';
		/* Said in full, since the daemon as a whole is off without it. */
		option.rmempty = !(tab.kind === 'node' && each.name === 'enabled');
		/* All words that waybill.sh knows. */
		option.cfgvalue = function(id) {
			const value = uci.get('waybill', id, each.name);

			return value === null || value === undefined ? null : ON.indexOf(value) >= 0 ? '1' : '0';
		};

		return option;
	}

	option.rmempty = true;
	option.optional = !each.must;

	if (Array.isArray(each.as)) {
		option.value('', _('%s (as usual)').format(each.fallback));
		each.as.forEach(function(word) { option.value(word, word); });
	}
	else if (each.as === network) {
		option.value('', _('none'));
		uci.sections('network', 'interface', function(found) {
			if (found['.name'] !== 'loopback' && found.proto !== 'waybill')
				option.value(found['.name'], found['.name']);
		});
	}

	option.validate = function(id, value) {
		if (isOff(section, tab, id))
			return true;

		if (!value)
			return each.name === 'name' && tab.many && /^(cfg[0-9a-f]{6}|new.*)$/.test(id) ? check.name[1] : true;

		return rule && !rule[0].test(value) ? rule[1] : true;
	};

	return option;
}

return view.extend({
	load: function() {
		return Promise.all([ waybill.check(), uci.load('waybill'), L.resolveDefault(uci.load('network')) ]);
	},

	section: function(map, tab) {
		let section;

		if (tab.many) {
			section = map.section(form.GridSection, tab.kind, tab.title, tab.help);
			section.addremove = true;
			section.anonymous = true;
			section.nodescriptions = true;
			section.modaltitle = tab.title;
		}
		else {
			const found = uci.sections('waybill', tab.kind)[0];

			section = map.section(form.NamedSection, found ? found['.name'] : tab.kind, tab.kind, tab.title, tab.help);
			section.addremove = tab.kind !== 'node';
		}

		tab.options.forEach(function(each) { field(section, tab, each); });
	},

	render: function(answers) {
		const mistakes = answers[0].mistakes || [];
		const map = new form.Map('waybill', _('Settings'),
			_('What is wrong is said on top when the page is opened anew. Until it is right, what runs goes on with the settings of before.'));

		map.tabbed = true;
		tabs().forEach(this.section.bind(this, map));

		return map.render().then(function(shown) {
			return node('div', {}, mistakes.length ? waybill.note('danger', _('The settings have a mistake'),
				node('ul', {}, mistakes.map(function(each) {
					return node('li', {}, node('code', {}, each.option), ': ', each.problem);
				}))) : null, shown);
		});
	}
});
