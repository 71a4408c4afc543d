'use strict';

// The ubus object `waybill`, for LuCI: what the running daemon says, joining, redeeming, phones, and the first start. What comes in is
// checked before it is near a command line, and every word of one is quoted; an invitation or a password is never on one, where others
// on this router would see it. There are no patterns here: what ^, $, . and [^...] make of line breaks depends on the age of ucode.

import { glob, mkdir, open, popen, unlink } from 'fs';
import { cursor } from 'uci';

const PROG = '/usr/bin/waybill';
const INIT = '/etc/init.d/waybill';
// Of root alone, and not the daemon's own directory: what is written here stands on no link of the daemon's.
const RUN = '/var/run/waybill-root';
const SOCKET = '/var/run/waybill/control.sock';
const REDEEM_PID = `${RUN}/redeem.pid`;
const REDEEM_SAID = `${RUN}/redeem.said`;
const REDEEM_STATUS = `${RUN}/redeem.status`;
// As short as a word that people write down may be.
const PASSWORD_MIN = 8;
const PASSWORD_MAX = 120;
const SHADOW = '/etc/shadow';
// An invitation that fits a QR code has 2,953 characters.
const CODE_MAX = 4096;
const ANSWER_MAX = 4 * 1024 * 1024;
// uhttpd adds the session to what a browser sends, and rpcd refuses what a method does not name.
const SESSION = { ubus_rpc_session: 'session' };
const DIGITS = '0123456789';
const HEX = DIGITS + 'ABCDEFabcdef';
const LETTERS = DIGITS + 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const BAD_NAME = 'a name has 1 to 63 letters, digits and hyphens, and does not begin with a hyphen or 0x';
const NOT_PENDING = 'this router is set up already';
const UNSAVED = 'there are unsaved changes of waybill: apply or revert them first';

// Whether a text has characters of `known` alone, `least` to `most` of them.
function made_of(text, known, least, most) {
	if (type(text) != 'string' || length(text) < least || length(text) > most)
		return false;

	for (let at = 0; at < length(text); at++)
		if (index(known, substr(text, at, 1)) < 0)
			return false;

	return true;
}

function is_name(text) {
	return made_of(text, LETTERS + '-', 1, 63) && index(text, '-') != 0 && index(text, '0x') != 0;
}

function is_account(text) {
	return made_of(text, HEX + 'x', 42, 42) && index(text, '0x') == 0 && index(substr(text, 2), 'x') < 0;
}

// Whether an argument was left out: callers of ubus cannot send none.
function is_none(value) {
	return value == null || value == '';
}

// A word for a command line, as it is, whatever is in it.
function shellquote(word) {
	return `'${replace(`${word}`, "'", "'\\''")}'`;
}

// These words as a command line.
function line(words) {
	return join(' ', map(words, shellquote));
}

// Runs a command of these words, with a file as its input if one is named. `out` is what it printed, `ok` whether it did what it should.
function run(words, input) {
	const pipe = popen(`${line(words)} <${shellquote(input ?? '/dev/null')} 2>&1`, 'r');

	if (!pipe)
		return { ok: false, out: `cannot run ${words[0]}` };

	const out = pipe.read(ANSWER_MAX) ?? '';

	return { ok: pipe.close() == 0, out };
}

// What to do next is said for the command line: the cause is enough here.
function failed(text) {
	const cause = split(trim(text), '\n')[0] ?? '';

	return { error: trim(index(cause, 'error: ') == 0 ? substr(cause, 7) : cause) };
}

function socket_path() {
	const uci = cursor();
	let path = null;

	uci.foreach('waybill', 'node', (section) => {
		path ??= section.control_socket;
	});

	return made_of(path, LETTERS + '._/-', 2, 100) && index(path, '/') == 0 ? path : SOCKET;
}

// The program's answer to these words, once it has been read.
function answered(said) {
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

// The words that ask the daemon something.
function question(words) {
	return [ PROG, ...words, '--json', '--socket', socket_path() ];
}

function ask(words) {
	return answered(run(question(words)));
}

// What is in a file, or nothing.
function content(path) {
	const file = open(path, 'r');
	const text = file?.read('all');

	file?.close();

	return text ?? '';
}

// Whether the ledger is still asked: the shell that waits for that has these words in its command line.
function is_redeeming() {
	const pid = trim(content(REDEEM_PID));

	return made_of(pid, DIGITS, 1, 10) && index(content(`/proc/${pid}/cmdline`), REDEEM_SAID) >= 0;
}

// Begins to redeem, and does not wait: a ledger may take a minute, and rpcd does nothing else meanwhile.
function redeem(account) {
	if (!is_none(account) && !is_account(account))
		return { error: 'this is no account' };

	if (is_redeeming())
		return { running: true };

	mkdir(RUN, 0o700);
	unlink(REDEEM_STATUS);

	const words = question([ 'redeem', ...(is_none(account) ? [] : [ account ]) ]);
	const told = `>${shellquote(REDEEM_SAID)} 2>&1; echo $? >${shellquote(REDEEM_STATUS)}`;
	const pipe = popen(`{ ${line(words)} ${told}; } </dev/null >/dev/null 2>&1 & echo $!`, 'r');
	const pid = trim(pipe?.read('line') ?? '');

	pipe?.close();

	const file = open(REDEEM_PID, 'w');

	if (!file || !made_of(pid, DIGITS, 1, 10))
		return { error: 'cannot write to memory' };

	file.write(`${pid}\n`);
	file.close();

	return { started: true };
}

// What came of that.
function redeemed() {
	if (is_redeeming())
		return { running: true };

	const status = trim(content(REDEEM_STATUS));

	if (status == '')
		return { error: 'it ended before anything was redeemed' };

	return answered({ ok: status == '0', out: content(REDEEM_SAID) });
}

// The mistakes in /etc/config/waybill: which option, and what is wrong with it.
function mistakes() {
	const said = run([ INIT, 'check' ]);
	const found = [];

	if (said.ok)
		return found;

	for (let text in split(trim(said.out), '\n')) {
		const end = index(text, ': ');
		const option = substr(text, 0, max(end, 0));
		const is_ours = index(option, 'waybill') == 0 && index(option, ' ') < 0;

		push(found, is_ours ? { option, problem: substr(text, end + 2) } : { option: 'waybill', problem: text });
	}

	return found;
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
	const said = run([ INIT, 'reload' ]);

	return said.ok ? { done: true } : failed(said.out);
}

function is_unsaved(uci, config) {
	return length(uci.changes(config)?.[config] ?? []) > 0;
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

function take_in(code, name) {
	const is_preset = is_none(code);

	// Nobody has to see the invitation that came with the image.
	if (is_preset)
		code = first(cursor(), 'setup').invitation;

	if (!made_of(code, LETTERS + '_:/#.-', 1, CODE_MAX))
		return { error: 'this is no invitation' };

	if (!is_none(name) && !is_name(name))
		return { error: BAD_NAME };

	mkdir(RUN, 0o700);

	// mktemp makes it, mode 0600.
	const made = run([ 'mktemp', '-p', RUN ]);
	const path = trim(made.out);
	const file = made.ok ? open(path, 'w') : null;

	if (!file)
		return { error: 'cannot write to memory' };

	file.write(`${code}\n`);
	file.close();

	const said = run([ '/usr/libexec/waybill-join', ...(is_none(name) ? [] : [ name ]) ], path);

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

function leaf_remove(name) {
	const uci = cursor();
	let found = null;

	if (is_unsaved(uci, 'waybill'))
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

function leaf_add(args) {
	const words = [ '/usr/libexec/waybill-leaf', args.name ];

	if (!is_name(args.name))
		return { error: BAD_NAME };

	if (!is_none(args.endpoint)) {
		if (!made_of(args.endpoint, LETTERS + '[].:-', 1, 261) || index(LETTERS + '[', substr(args.endpoint, 0, 1)) < 0)
			return { error: 'the address has to be a host name or an IP address, and a port if it is another than usual' };

		push(words, '--endpoint', args.endpoint);
	}

	if (!is_none(args.dns)) {
		if (!made_of(args.dns, HEX + ':.', 2, 46) || index(args.dns, '.') == 0)
			return { error: 'the name server has to be an IP address' };

		push(words, '--dns', args.dns);
	}

	if (args.internet)
		push(words, '--internet');

	const said = run(words);

	if (!said.ok)
		return failed(said.out);

	// The answer of the program, and the picture behind it.
	const begin = index(said.out, '{');
	const picture = index(said.out, '<svg');
	const end = picture < 0 ? length(said.out) : picture;

	try {
		return { ...json(substr(said.out, begin, end - begin)), qr: substr(said.out, end) };
	}
	catch (e) {
		// Its secret key was in the answer and nowhere else: nobody can use this one.
		leaf_remove(args.name);

		return { error: 'the config of the phone could not be read, so it was not let in' };
	}
}

// Whether root has a password: without one, whoever is on the LAN is root.
function has_password() {
	const file = open(SHADOW, 'r');
	let found = true;

	for (let text = file?.read('line'); text; text = file.read('line')) {
		const fields = split(text, ':');

		if (fields[0] == 'root')
			found = length(fields[1]) > 0;
	}

	file?.close();

	return found;
}

function hostname() {
	const name = trim(content('/proc/sys/kernel/hostname'));

	return is_name(name) ? name : 'router';
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

// Sets root's password at the first start, and never another time: who may do this is not yet somebody who may be root.
function setup_password(password) {
	if (first(cursor(), 'setup').pending != '1')
		return { error: NOT_PENDING };

	if (has_password())
		return { error: 'root has a password already' };

	if (type(password) != 'string' || length(password) < PASSWORD_MIN || length(password) > PASSWORD_MAX)
		return { error: `a password has ${PASSWORD_MIN} to ${PASSWORD_MAX} characters` };

	for (let at = 0; at < length(password); at++)
		if (ord(password, at) < 32 || ord(password, at) == 127)
			return { error: 'a password has no line breaks or control characters' };

	const pipe = popen(`${line([ '/bin/busybox', 'passwd', 'root' ])} >/dev/null 2>&1`, 'w');

	// An older passwd takes all that is there as the first of the two.
	pipe?.write(`${password}\n`);
	pipe?.flush();
	sleep(1000);
	pipe?.write(`${password}\n`);
	pipe?.close();

	return has_password() ? { done: true } : { error: 'the password could not be set' };
}

// Switches the radios on that an image left off, since root had no password then. False if that could not be written.
function radios_on(uci, radios) {
	let changed = false;

	for (let radio in radios) {
		if (uci.get('wireless', radio) == 'wifi-device') {
			uci.delete('wireless', radio, 'disabled');
			changed = true;
		}
	}

	return !changed || uci.commit('wireless');
}

function is_price(text) {
	const parts = type(text) == 'string' ? split(text, '.') : [];

	return length(parts) in [ 1, 2 ] && made_of(parts[0], DIGITS, 1, 9) && made_of(parts[1] ?? '0', DIGITS, 1, 6);
}

// Ends the first start: name and policy go into the settings, and what the image brought goes out of them.
function setup_done(args) {
	const uci = cursor();

	if (first(uci, 'setup').pending != '1')
		return { error: NOT_PENDING };

	// From here on others may reach this router by its radios.
	if (!has_password())
		return { error: 'root has no password yet: set one first' };

	if (!is_name(args.name))
		return { error: BAD_NAME };

	if (!(args.policy in [ 'own', 'price', 'free' ]))
		return { error: 'the policy is own, price or free' };

	if (args.policy == 'price' && (!is_price(args.price)))
		return { error: 'a price is a number of tokens, such as 0.05' };

	if (args.policy == 'price' && !first(uci, 'ledger')['.name'])
		return { error: 'without a community nobody can pay: join one first, or carry for free' };

	if (is_unsaved(uci, 'waybill'))
		return { error: UNSAVED };

	const listed = first(uci, 'setup').radios ?? [];
	const radios = type(listed) == 'array' ? listed : split(listed, ' ');

	if (length(radios) && is_unsaved(uci, 'wireless'))
		return { error: 'there are unsaved changes of wireless: apply or revert them first' };

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

	// As they would be: what is wrong with them is said, and nothing is changed.
	uci.save('waybill');

	const wrong = mistakes();

	if (length(wrong)) {
		uci.revert('waybill');

		return { error: `${wrong[0].option}: ${wrong[0].problem}` };
	}

	// The radios first: their list is gone with the rest.
	if (!radios_on(uci, radios) || !uci.commit('waybill')) {
		uci.revert('waybill');
		uci.revert('wireless');

		return { error: 'the settings could not be written; is the flash full?' };
	}

	if (length(radios))
		run([ '/sbin/wifi', 'reload' ]);

	// LuCI remembers its menu, and would go on beginning with the page of the first start.
	for (let path in glob('/tmp/luci-indexcache.*'))
		unlink(path);

	return reload();
}

function is_month(text) {
	return made_of(text, DIGITS + '-', 7, 7) && index(text, '-') == 4 && made_of(substr(text, 5), DIGITS, 2, 2);
}

// How many KiB are left where receipts are kept, or nothing if df does not say. Its last line ends so: available, used in percent, where.
function room(uci) {
	const said = run([ '/bin/df', '-k', first(uci, 'node').state_dir || '/etc/waybill/state' ]);
	const words = filter(split(trim(said.out), ' '), (word) => word != '');
	const left = words[length(words) - 3];

	return said.ok && made_of(left, DIGITS, 1, 15) ? int(left) : null;
}

const methods = {
	// How the daemon is, and what is wrong with its settings, whether it runs or not.
	status: {
		args: SESSION,
		call: () => {
			const status = ask([ 'status' ]);
			const uci = cursor();
			const here = {
				enabled: first(uci, 'node').enabled in [ '1', 'on', 'true', 'yes', 'enabled' ],
				setup: first(uci, 'setup').pending == '1',
				room_kib: room(uci)
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
			try {
				return json(content(`${RUN}/key.json`));
			}
			catch (e) {
				return { error: 'there is no key yet: it is made when the service is started' };
			}
		}
	},

	neighbours: {
		args: SESSION,
		call: () => {
			const answer = ask([ 'neighbours' ]);

			return answer.error ? answer : { neighbours: answer.list ?? answer.neighbours ?? [] };
		}
	},

	routes: {
		args: SESSION,
		call: () => ask([ 'routes' ])
	},

	// What was earned and what is owed: what is held on the ledger, the receipts, and the counts with each neighbour.
	earnings: {
		args: SESSION,
		call: () => ({ wallet: ask([ 'wallet' ]), receipts: ask([ 'receipts' ]), meters: ask([ 'meters' ]) })
	},

	statement: {
		args: { month: 'month', ...SESSION },
		call: (request) => {
			const month = request.args?.month;

			if (month == null || month == '')
				return ask([ 'statement' ]);

			return is_month(month) ? ask([ 'statement', '--month', month ]) : { error: 'a month is written 2026-11' };
		}
	},

	gateway: {
		args: SESSION,
		call: () => ask([ 'gateway' ])
	},

	internet: {
		args: SESSION,
		call: () => ask([ 'internet' ])
	},

	// What each day with a neighbour came to, and the terms: by its account, since its name is of its own making.
	why: {
		args: { account: 'account', ...SESSION },
		call: (request) => {
			const who = request.args?.account;

			return is_account(who) ? ask([ 'why', who ]) : { error: 'this is no account' };
		}
	},

	leaves: {
		args: SESSION,
		call: () => {
			const said = run([ PROG, 'leaf', 'list', '--config', `${RUN}/waybill.toml`, '--json' ]);

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
		call: (request) => take_in(request.args?.code, request.args?.name)
	},

	redeem: {
		args: { account: 'account', ...SESSION },
		call: (request) => redeem(request.args?.account)
	},

	redeemed: {
		args: SESSION,
		call: () => redeemed()
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

	setup_password: {
		args: { password: 'password', ...SESSION },
		call: (request) => setup_password(request.args?.password)
	},

	setup_done: {
		args: { name: 'name', policy: 'policy', price: 'price', ...SESSION },
		call: (request) => setup_done(request.args ?? {})
	}
};

return { waybill: methods };
