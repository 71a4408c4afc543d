'use strict';

// The ubus object `waybill`, for LuCI: what the running daemon says, and joining. What comes in is checked before it is near a command
// line; an invitation is never on one, where others on this router would see it.

import { access, open, popen, unlink } from 'fs';
import { cursor } from 'uci';

const PROG = '/usr/bin/waybill';
const RUN = '/var/run/waybill';
// An invitation that fits a QR code has 2,953 characters.
const CODE_MAX = 4096;
const ANSWER_MAX = 4 * 1024 * 1024;

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

function join(code, name) {
	if (type(code) != 'string' || !match(code, /^[A-Za-z0-9_:\/#.-]+$/) || length(code) > CODE_MAX)
		return { error: 'this is no invitation' };

	if (name != null && name != '' && (type(name) != 'string' || !match(name, /^[A-Za-z0-9][A-Za-z0-9-]{0,62}$/)))
		return { error: 'a name has 1 to 63 letters, digits and hyphens' };

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

	try {
		return json(said.out);
	}
	catch (e) {
		return failed(said.out);
	}
}

const methods = {
	// How the daemon is, and what is wrong with its settings, whether it runs or not.
	status: {
		call: () => {
			const status = ask('status');

			return status.error ? { running: false, error: status.error } : { running: true, ...status };
		}
	},

	check: {
		call: () => ({ mistakes: mistakes() })
	},

	// This router's account, mesh address and card. Never the secret.
	key: {
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
		call: () => {
			const answer = ask('neighbours');

			return answer.error ? answer : { neighbours: answer.list ?? answer.neighbours ?? [] };
		}
	},

	routes: {
		call: () => ask('routes')
	},

	// What was earned and what is owed: what is held on the ledger, the receipts, and the counts with each neighbour.
	earnings: {
		call: () => ({ wallet: ask('wallet'), receipts: ask('receipts'), meters: ask('meters') })
	},

	statement: {
		args: { month: 'month' },
		call: (request) => {
			const month = request.args?.month;

			if (month == null || month == '')
				return ask('statement');

			return match(month, /^[0-9]{4}-[0-9]{2}$/) ? ask(`statement --month ${month}`) : { error: 'a month is written 2026-11' };
		}
	},

	gateway: {
		call: () => ask('gateway')
	},

	internet: {
		call: () => ask('internet')
	},

	join: {
		args: { code: 'code', name: 'name' },
		call: (request) => join(request.args?.code, request.args?.name)
	}
};

return { waybill: methods };
