'use strict';
'require baseclass';
'require rpc';
'require ui';

/*
 * What all pages of Waybill share: what they ask the router, and how they show numbers.
 *
 * Names come from neighbours, who may have written anything into them. So pages make what they show with `node` alone, which
 * knows text and never markup. Amounts are strings of digits that count base units, and stay strings: a floating point number would
 * round them.
 */

const asked = {};

/* What a browser cannot show otherwise: 0 to 6 digits behind the point are enough for prices, amounts keep all they have. */
const SIZES = [ 'B', 'KiB', 'MiB', 'GiB', 'TiB' ];

function node(tag, attributes) {
	return E(tag, attributes || {}, Array.prototype.slice.call(arguments, 2).flat().filter(function(child) {
		return child !== null && child !== undefined && child !== '';
	}));
}

/* An answer of the router; `error` says why there is none. */
function ask(method, params, values) {
	const key = method;

	if (!asked[key])
		asked[key] = rpc.declare({ object: 'waybill', method: method, params: params || [] });

	return asked[key].apply(null, values || []).then(function(answer) {
		if (answer !== null && typeof(answer) === 'object')
			return answer;

		/* What ubus calls 6. */
		return { error: answer === 6 ? _('You may look at this router, and not change it.') : _('The router did not answer.') };
	}, function(error) {
		/* What uhttpd says of what is not allowed. */
		if (/denied/i.test(error && error.message))
			return { error: _('You may look at this router, and not change it.') };

		return { error: _('The router did not answer. Is the package waybill installed, and rpcd running?') };
	});
}

return baseclass.extend({
	node: node,

	status: function() { return ask('status'); },
	check: function() { return ask('check'); },
	key: function() { return ask('key'); },
	neighbours: function() { return ask('neighbours'); },
	earnings: function() { return ask('earnings'); },
	statement: function(month) { return ask('statement', [ 'month' ], [ month || '' ]); },
	why: function(account) { return ask('why', [ 'account' ], [ account ]); },
	internet: function() { return ask('internet'); },
	leaves: function() { return ask('leaves'); },
	join: function(code, name) { return ask('join', [ 'code', 'name' ], [ code, name ]); },
	redeem: function(account) { return ask('redeem', [ 'account' ], [ account || '' ]); },
	redeemed: function() { return ask('redeemed'); },
	leafAdd: function(name, endpoint, internet, dns) {
		return ask('leaf_add', [ 'name', 'endpoint', 'internet', 'dns' ], [ name, endpoint, internet, dns ]);
	},
	leafRemove: function(name) { return ask('leaf_remove', [ 'name' ], [ name ]); },
	setup: function() { return ask('setup'); },
	setupPassword: function(password) { return ask('setup_password', [ 'password' ], [ password ]); },
	setupDone: function(name, policy, price) {
		return ask('setup_done', [ 'name', 'policy', 'price' ], [ name, policy, price ]);
	},

	/* What a node may be called, as the router checks it. */
	isName: function(text) { return /^[A-Za-z0-9][A-Za-z0-9-]{0,62}$/.test(text) && !text.startsWith('0x'); },

	/* What may be an invitation; whether it is one the router finds out. */
	isInvitation: function(text) { return text.length <= 4096 && /^[A-Za-z0-9_:\/#.-]+$/.test(text); },

	/* Base units as whole tokens, exactly: amount('1250000', { decimals: 6, symbol: 'WAY' }) is "1.25 WAY". */
	amount: function(units, unit) {
		if (!/^[0-9]+$/.test(String(units)) || !unit)
			return '–';

		const digits = String(units).padStart(unit.decimals + 1, '0');
		const point = digits.length - unit.decimals;
		const part = digits.slice(point).replace(/0+$/, '');

		return digits.slice(0, point).replace(/^0+(?=[0-9])/, '') + (part ? '.' + part : '') + (unit.symbol ? ' ' + unit.symbol : '');
	},

	/* The sum of amounts, as exact as they are. */
	sum: function(amounts) {
		return amounts.reduce(function(sum, each) {
			return sum + (/^[0-9]+$/.test(String(each)) ? BigInt(each) : BigInt(0));
		}, BigInt(0)).toString();
	},

	/* What is left of an amount when another is taken away; nothing, and not less. */
	rest: function(amount, taken) {
		const left = BigInt(amount || 0) - BigInt(taken || 0);

		return left > 0 ? left.toString() : '0';
	},

	bytes: function(number) {
		let size = Number(number), unit = 0;

		if (number === null || number === undefined || !isFinite(size))
			return '–';

		while (size >= 1024 && unit < SIZES.length - 1) {
			size /= 1024;
			unit++;
		}

		return (unit ? size.toFixed(1) : size) + ' ' + SIZES[unit];
	},

	duration: function(seconds) {
		if (seconds === null || seconds === undefined)
			return _('never');

		if (seconds < 120)
			return _('%d s').format(seconds);

		if (seconds < 7200)
			return _('%d min').format(Math.floor(seconds / 60));

		if (seconds < 172800)
			return _('%d h').format(Math.floor(seconds / 3600));

		return _('%d days').format(Math.floor(seconds / 86400));
	},

	date: function(seconds) {
		/* In the language of the page, if the browser knows it by that name. */
		const language = (document.documentElement.lang || '').replace('_', '-');
		const known = /^[A-Za-z]{2,3}(-[A-Za-z0-9]+)?$/.test(language) ? language : undefined;

		return seconds ? new Date(seconds * 1000).toLocaleString(known, { dateStyle: 'medium', timeStyle: 'short' }) : '–';
	},

	/* A table; each line is a list of texts or nodes. */
	table: function(titles, lines, empty) {
		return node('table', { 'class': 'table' },
			node('tr', { 'class': 'tr table-titles' }, titles.map(function(title) {
				return node('th', { 'class': 'th' }, title);
			})),
			lines.length ? lines.map(function(line) {
				return node('tr', { 'class': 'tr' }, line.map(function(cell, at) {
					return node('td', { 'class': 'td', 'data-title': titles[at] }, cell);
				}));
			}) : node('tr', { 'class': 'tr placeholder' }, node('td', { 'class': 'td', 'colspan': titles.length }, node('em', {}, empty))));
	},

	/* Facts with their names; those without a value are left out. */
	facts: function(pairs) {
		return node('table', { 'class': 'table' }, pairs.filter(function(pair) {
			return pair[1] !== null && pair[1] !== undefined && pair[1] !== '';
		}).map(function(pair) {
			return node('tr', { 'class': 'tr' },
				node('td', { 'class': 'td left', 'width': '33%' }, pair[0]),
				node('td', { 'class': 'td left' }, pair[1]));
		}));
	},

	/* Something people should read. `kind`: 'warning', 'danger', 'success' or 'info'. */
	note: function(kind, title) {
		return node('div', { 'class': 'alert-message ' + kind },
			title ? node('h4', {}, title) : null,
			Array.prototype.slice.call(arguments, 2).flat().map(function(each) {
				return typeof(each) === 'string' ? node('p', {}, each) : each;
			}));
	},

	/* A way to another page of these, by the last part of its path. */
	link: function(page, text) {
		const path = page === 'setup' ? 'admin/waybill-setup' : 'admin/waybill/' + page;

		return node('p', {}, node('a', { 'class': 'btn', 'href': L.url.apply(L, path.split('/')) }, text));
	},

	/* What is to be done about a router that is no member: wait while its ledger is away, or bring another invitation. */
	isWaiting: function(membership) {
		return membership.waits ? membership.waits.startsWith('the ledger does not answer') : !membership.until;
	},

	/* Says what came of something that was asked for. */
	tell: function(kind, text) {
		ui.addNotification(null, node('p', {}, text), kind);
	},

	/* Puts what a page shows in place of what it showed. */
	show: function(place, content) {
		while (place.firstChild)
			place.removeChild(place.firstChild);

		[].concat(content).forEach(function(each) {
			if (each != null)
				place.appendChild(each);
		});
	}
});
