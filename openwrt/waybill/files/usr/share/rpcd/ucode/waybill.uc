'use strict';

// The ubus object `waybill`, for LuCI: what the running daemon says, joining, redeeming, phones, and the first start. What comes in is
// checked before it is near a command line; an invitation is never on one, where others on this router would see it.

import { access, glob, open, popen, unlink } from 'fs';
import { cursor } from 'uci';

const PROG = '/usr/bin/waybill';
const RUN = '/var/run/waybill';
// An invitation that fits a QR code has 2,953 characters.
const CODE_MAX = 4096;
const ANSWER_MAX = 4 * 1024 * 1024;
// uhttpd adds the session to what a browser sends, and rpcd refuses what a method does not name.
const SESSION = { ubus_rpc_session: 'session' };
const NAME = /^[A-Za-z0-9][A-Za-z0-9-]{0,62}$/;
const BAD_NAME = 'a name has 1 to 63 letters, digits and hyphens';
const UNSAVED = 'there are unsaved changes of waybill: apply or revert them first';

// Runs a command line of our own making. `out` is what it printed, `ok` whether it did what it should.
function run(command) {
	const pipe = popen(command, 'r');

	if (!pipe)
		return { ok: false, out: `cannot run ${PROG}` };

	const out = pipe.read(ANSWER_MAX) ?? '';

	return { ok: pipe.close() == 0, out };
}

// What to do next is said for the command line: the cause is enough here.
function failed(text) {
	return { error: trim(replace(split(trim(text), '\n')[0] ?? '', /^error: /, '')) };
}

function socket_path() {
	const uci = cursor();
	let path = null;

	uci.foreach('waybill', 'node', (section) => {
		path ??= section.control_socket;
	});

	return match(path ?? '', /^\/[A-Za-z0-9._\/-]+$/) ? path : `${RUN}/control.sock`;
}

// The daemon's answer to `command`, a constant of this file with arguments that were checked.
function ask(command) {
	const said = run(`${PROG} ${command} --json --socket ${socket_path()} 2>&1`);

	if (!said.ok)
		return failed(said.out);

	try {
		const answer = json(said.out);

		// ubus knows no answers that are lists.
		return type(answer) == 'object' ? answer : { list: answer };
	}
	catch (e) {
		return { error: 'the answer of the daemon was cut off' };
	}
}

// The mistakes in /etc/config/waybill: which option, and what is wrong with it.
function mistakes() {
	const said = run('/etc/init.d/waybill check 2>&1');
	const found = [];

	if (said.ok)
		return found;

	for (let line in split(trim(said.out), '\n')) {
		const parts = match(line, /^(waybill[^ ]*): (.*)$/);

		push(found, parts ? { option: parts[1], problem: parts[2] } : { option: 'waybill', problem: line });
	}

	return found;
}

// Whether an argument was left out: callers of ubus cannot send none.
function is_none(value) {
	return value == null || value == '';
}

// The first section of this type, or an empty one.
function first(uci, kind) {
	let found = null;

	uci.foreach('waybill', kind, (section) => {
		found ??= section;
	});

	return found ?? {};
}

// Has the service take in what was committed.
function reload() {
	const said = run('/etc/init.d/waybill reload 2>&1');

	return said.ok ? { done: true } : failed(said.out);
}

function is_unsaved(uci) {
	return length(uci.changes('waybill')?.waybill ?? []) > 0;
}

// Takes the image's invitation out of the settings: it has done what it is for.
function forget_invitation() {
	const uci = cursor();
	const preset = first(uci, 'setup');

	if (preset.invitation) {
		uci.delete('waybill', preset['.name'], 'invitation');
		uci.commit('waybill');
	}
}

function join(code, name) {
	const is_preset = is_none(code);

	// Nobody has to see the invitation that came with the image.
	if (is_preset)
		code = first(cursor(), 'setup').invitation;

	if (type(code) != 'string' || !match(code, /^[A-Za-z0-9_:\/#.-]+$/) || length(code) > CODE_MAX)
		return { error: 'this is no invitation' };

	if (!is_none(name) && (type(name) != 'string' || !match(name, NAME)))
		return { error: BAD_NAME };

	const pipe = popen(`umask 077; mkdir -p ${RUN}; mktemp -p ${RUN}`, 'r');
	const path = trim(pipe?.read('all') ?? '');

	pipe?.close();

	// mktemp has made it, mode 0600.
	const file = match(path, /^\/var\/run\/waybill\/tmp\.[A-Za-z0-9]+$/) ? open(path, 'w') : null;

	if (!file)
		return { error: 'cannot write to memory' };

	file.write(`${code}\n`);
	file.close();

	const said = run(`/usr/libexec/waybill-join ${name ?? ''} <${path} 2>&1`);

	unlink(path);

	if (!said.ok)
		return failed(said.out);

	if (is_preset)
		forget_invitation();

	try {
		return json(said.out);
	}
	catch (e) {
		return failed(said.out);
	}
}

// An account's argument for a command line, with a blank before it; null if it is none.
function account(text) {
	if (is_none(text))
		return '';

	return (type(text) == 'string' && match(text, /^0x[0-9A-Fa-f]{40}$/)) ? ` ${text}` : null;
}

function leaf_add(args) {
	let command = '/usr/libexec/waybill-leaf';

	if (type(args.name) != 'string' || !match(args.name, NAME))
		return { error: BAD_NAME };

	command += ` ${args.name}`;

	if (!is_none(args.endpoint)) {
		if (!match(args.endpoint, /^[A-Za-z0-9[][]A-Za-z0-9.:-]{0,260}$/))
			return { error: 'the address has to be a host name or an IP address, and a port if it is another than usual' };

		command += ` --endpoint '${args.endpoint}'`;
	}

	if (!is_none(args.dns)) {
		if (!match(args.dns, /^[0-9A-Fa-f:][0-9A-Fa-f.:]{1,45}$/))
			return { error: 'the name server has to be an IP address' };

		command += ` --dns ${args.dns}`;
	}

	if (args.internet)
		command += ' --internet';

	const said = run(`${command} 2>&1`);

	if (!said.ok)
		return failed(said.out);

	// The answer of the program, and the picture behind it.
	const parts = match(said.out, /^(\{.*\})[ \n]*(<svg.*)?$/s);

	try {
		return { ...json(parts[1]), qr: parts[2] ?? '' };
	}
	catch (e) {
		return failed(said.out);
	}
}

function leaf_remove(name) {
	const uci = cursor();
	let found = null;

	if (is_unsaved(uci))
		return { error: UNSAVED };

	uci.foreach('waybill', 'leaf', (section) => {
		if ((section.name ?? (section['.anonymous'] ? null : section['.name'])) == name)
			found ??= section['.name'];
	});

	if (!found)
		return { error: 'there is no such phone' };

	uci.delete('waybill', found);

	return uci.commit('waybill') ? reload() : { error: 'the settings could not be written; is the flash full?' };
}

// Whether root has a password: without one, whoever is on the LAN is root.
function has_password() {
	const file = open('/etc/shadow', 'r');
	let found = true;

	for (let line = file?.read('line'); line; line = file.read('line'))
		if (match(line, /^root:/))
			found = !match(line, /^root::/);

	file?.close();

	return found;
}

function hostname() {
	const file = open('/proc/sys/kernel/hostname', 'r');
	const name = trim(file?.read('all') ?? '');

	file?.close();

	return match(name, NAME) ? name : 'router';
}

// What the page of the first start begins with. The invitation stays here.
function setup() {
	const uci = cursor();
	const preset = first(uci, 'setup');
	const policy = first(uci, 'policy');

	return {
		pending: preset.pending == '1',
		community: preset.community ?? '',
		language: preset.language ?? '',
		invitation: !is_none(preset.invitation),
		joined: first(uci, 'ledger')['.name'] != null,
		name: first(uci, 'node').name ?? hostname(),
		password: has_password(),
		ask: policy.ask ?? '',
		fee: policy.fee ?? ''
	};
}

// Ends the first start: name and policy go into the settings, and what the image brought goes out of them.
function setup_done(args) {
	const uci = cursor();

	if (type(args.name) != 'string' || !match(args.name, NAME))
		return { error: BAD_NAME };

	if (!(args.policy in [ 'own', 'price', 'free' ]))
		return { error: 'the policy is own, price or free' };

	if (args.policy == 'price' && (type(args.price) != 'string' || !match(args.price, /^[0-9]{1,9}(\.[0-9]{1,6})?$/)))
		return { error: 'a price is a number of tokens, such as 0.05' };

	if (args.policy == 'price' && !first(uci, 'ledger')['.name'])
		return { error: 'without a community nobody can pay: join one first, or carry for free' };

	if (is_unsaved(uci))
		return { error: UNSAVED };

	// What others pay beyond what the way out costs this router itself: nothing, a price of the owner's; or nothing at all.
	const policy = first(uci, 'policy')['.name'] ?? 'policy';
	const node = first(uci, 'node')['.name'] ?? 'node';
	const presets = [];

	uci.set('waybill', node, 'node');
	uci.set('waybill', node, 'name', args.name);
	uci.set('waybill', policy, 'policy');
	uci.delete('waybill', policy, args.policy == 'free' ? 'fee' : 'ask');

	if (args.policy == 'free')
		uci.set('waybill', policy, 'ask', '0');
	else
		uci.set('waybill', policy, 'fee', args.policy == 'own' ? '0' : args.price);

	uci.foreach('waybill', 'setup', (section) => {
		push(presets, section['.name']);
	});

	for (let preset in presets)
		uci.delete('waybill', preset);

	if (!uci.commit('waybill'))
		return { error: 'the settings could not be written; is the flash full?' };

	// LuCI remembers its menu, and would go on beginning with the page of the first start.
	for (let path in glob('/tmp/luci-indexcache.*'))
		unlink(path);

	return reload();
}

const methods = {
	// How the daemon is, and what is wrong with its settings, whether it runs or not.
	status: {
		args: SESSION,
		call: () => {
			const status = ask('status');
			const uci = cursor();
			const here = {
				enabled: first(uci, 'node').enabled in [ '1', 'on', 'true', 'yes', 'enabled' ],
				setup: first(uci, 'setup').pending == '1'
			};

			return status.error ? { ...here, running: false, error: status.error } : { ...here, running: true, ...status };
		}
	},

	check: {
		args: SESSION,
		call: () => ({ mistakes: mistakes() })
	},

	// This router's account, mesh address and card. Never the secret.
	key: {
		args: SESSION,
		call: () => {
			const file = access(`${RUN}/key.json`) ? open(`${RUN}/key.json`, 'r') : null;
			const text = file?.read('all');

			file?.close();

			try {
				return json(text);
			}
			catch (e) {
				return { error: 'there is no key yet: it is made when the service is started' };
			}
		}
	},

	neighbours: {
		args: SESSION,
		call: () => {
			const answer = ask('neighbours');

			return answer.error ? answer : { neighbours: answer.list ?? answer.neighbours ?? [] };
		}
	},

	routes: {
		args: SESSION,
		call: () => ask('routes')
	},

	// What was earned and what is owed: what is held on the ledger, the receipts, and the counts with each neighbour.
	earnings: {
		args: SESSION,
		call: () => ({ wallet: ask('wallet'), receipts: ask('receipts'), meters: ask('meters') })
	},

	statement: {
		args: { month: 'month', ...SESSION },
		call: (request) => {
			const month = request.args?.month;

			if (month == null || month == '')
				return ask('statement');

			return match(month, /^[0-9]{4}-[0-9]{2}$/) ? ask(`statement --month ${month}`) : { error: 'a month is written 2026-11' };
		}
	},

	gateway: {
		args: SESSION,
		call: () => ask('gateway')
	},

	internet: {
		args: SESSION,
		call: () => ask('internet')
	},

	// What each day with a neighbour came to, and the terms: by its account, since its name is of its own making.
	why: {
		args: { account: 'account', ...SESSION },
		call: (request) => {
			const who = account(request.args?.account);

			return who ? ask(`why${who}`) : { error: 'this is no account' };
		}
	},

	leaves: {
		args: SESSION,
		call: () => {
			const said = run(`${PROG} leaf list --config ${RUN}/waybill.toml --json 2>&1`);

			try {
				return said.ok ? { leaves: json(said.out) } : failed(said.out);
			}
			catch (e) {
				return failed(said.out);
			}
		}
	},

	// An empty code is the one that came with the image.
	join: {
		args: { code: 'code', name: 'name', ...SESSION },
		call: (request) => join(request.args?.code, request.args?.name)
	},

	redeem: {
		args: { account: 'account', ...SESSION },
		call: (request) => {
			const who = account(request.args?.account);

			return who == null ? { error: 'this is no account' } : ask(`redeem${who}`);
		}
	},

	// The config of the phone, with its secret key, is in the answer, and nowhere else.
	leaf_add: {
		args: { name: 'name', endpoint: 'endpoint', internet: false, dns: 'dns', ...SESSION },
		call: (request) => leaf_add(request.args ?? {})
	},

	leaf_remove: {
		args: { name: 'name', ...SESSION },
		call: (request) => leaf_remove(request.args?.name)
	},

	setup: {
		args: SESSION,
		call: () => setup()
	},

	setup_done: {
		args: { name: 'name', policy: 'policy', price: 'price', ...SESSION },
		call: (request) => setup_done(request.args ?? {})
	}
};

return { waybill: methods };
