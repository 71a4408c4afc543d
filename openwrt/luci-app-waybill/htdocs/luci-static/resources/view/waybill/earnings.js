'use strict';
'require view';
'require poll';
'require ui';
'require waybill';

const node = waybill.node;

/* What was earned and spent, what is signed for and not redeemed yet, and the month with each household. */
return view.extend({
	load: function() {
		return Promise.all([ waybill.earnings(), waybill.statement() ]);
	},

	redeem: function(account) {
		return waybill.redeem(account).then(function(answer) {
			if (answer.error)
				return waybill.tell('danger', answer.error);

			if (answer.running)
				waybill.tell('info', _('Redeeming was still under way, and is not begun again.'));

			return this.watch();
		}.bind(this));
	},

	/* The ledger may take a minute, and the router answers no page meanwhile if it waits for that: so this page does. */
	watch: function() {
		return waybill.redeemed().then(function(answer) {
			if (answer.error)
				return waybill.tell('danger', answer.error);

			if (answer.running)
				return new Promise(function(done) { window.setTimeout(done, 1000); }).then(this.watch.bind(this));

			const paid = waybill.sum(answer.redeemed.map(function(each) { return each.paid; }));

			waybill.tell('info', answer.redeemed.length
				? _('Redeemed: %s').format(waybill.amount(paid, answer.unit))
				: _('There was nothing to redeem.'));

			return this.refresh();
		}.bind(this));
	},

	wallet: function(wallet) {
		if (wallet.error)
			return waybill.note('info', _('No tokens'), wallet.error);

		return waybill.facts([
			[ _('Community'), wallet.community ],
			[ _('Account'), node('code', {}, wallet.account) ],
			[ _('Free to spend'), node('strong', {}, waybill.amount(wallet.balance, wallet.unit)) ],
			[ _('Locked for those we pay'), waybill.amount(wallet.locked_in_channels, wallet.unit) ],
			[ _('Earned and not redeemed yet'), waybill.amount(wallet.earned_unredeemed, wallet.unit) ]
		]);
	},

	neighbours: function(meters, receipts) {
		if (meters.error)
			return waybill.note('warning', _('Waybill does not run'), meters.error, waybill.link('status', _('See how this router is')));

		const held = Object.create(null);

		(receipts.receipts || []).forEach(function(each) {
			const other = each.direction === 'we_pay' ? each.channel.payee : each.channel.payer;
			const sums = held[other] || (held[other] = { earned: [], rest: [], spent: [] });

			if (each.direction === 'we_pay') {
				sums.spent.push(each.amount);
			}
			else {
				sums.earned.push(each.amount);
				sums.rest.push(waybill.rest(each.amount, each.redeemed));
			}
		});

		return waybill.table([
			_('Neighbour'), _('Signed for us'), _('Of that not redeemed'), _('Signed by us'), _('Owed to us'), _('Owed by us'), ''
		], meters.meters.map(function(each) {
			const sums = held[each.id] || { earned: [], rest: [], spent: [] };
			const rest = waybill.sum(sums.rest);

			return [
				node('strong', {}, each.neighbour),
				waybill.amount(waybill.sum(sums.earned), meters.unit),
				waybill.amount(rest, meters.unit),
				waybill.amount(waybill.sum(sums.spent), meters.unit),
				waybill.amount(each.owed_to_us, meters.unit),
				waybill.amount(each.owed_by_us, meters.unit),
				rest === '0' ? '' : node('button', {
					'class': 'btn cbi-button-action', 'click': ui.createHandlerFn(this, 'redeem', each.id), 'disabled': this.readonly
				}, _('Redeem'))
			];
		}.bind(this)), _('Nobody yet.'));
	},

	month: function(statement) {
		if (statement.error)
			return node('p', {}, statement.error);

		const lines = statement.households.map(function(each) {
			return [
				node('strong', {}, each.neighbour), waybill.bytes(each.sent_bytes), waybill.bytes(each.received_bytes),
				waybill.amount(each.earned, statement.unit), waybill.amount(each.spent, statement.unit),
				waybill.amount(each.written_off, statement.unit)
			];
		});

		if (lines.length > 1)
			lines.push([ _('All') , '', '' ].concat([ 'earned', 'spent', 'written_off' ].map(function(what) {
				const all = statement.households.map(function(each) { return each[what]; });

				return node('strong', {}, waybill.amount(waybill.sum(all), statement.unit));
			})));

		return node('div', {},
			statement.is_over ? null : node('p', {}, _('This month is not over: it is what it came to so far.')),
			waybill.table([ _('Household'), _('There'), _('Back'), _('Earned'), _('Spent'), _('Written off') ], lines,
				_('Nothing was counted in this month.')));
	},

	refresh: function() {
		return waybill.earnings().then(function(earnings) { this.show(earnings); }.bind(this));
	},

	show: function(earnings) {
		const meters = earnings.meters || {};

		/* Where nothing runs, it is said once. */
		waybill.show(this.place, [ meters.error ? null : this.wallet(earnings.wallet || {}), this.neighbours(meters, earnings.receipts || {}) ]);
	},

	render: function(answers) {
		const now = new Date().toISOString().slice(0, 7);
		const idle = (answers[0].meters || {}).error;
		const month = node('div', {}, idle && answers[1].error === idle ? '' : this.month(answers[1]));
		const choice = node('input', { 'type': 'month', 'class': 'cbi-input-text', 'value': answers[1].month || now, 'max': now });

		this.readonly = !L.hasViewPermission() || null;
		this.place = node('div');
		this.show(answers[0]);
		choice.addEventListener('change', function() {
			waybill.statement(choice.value).then(function(answer) { waybill.show(month, this.month(answer)); }.bind(this));
		}.bind(this));
		poll.add(this.refresh.bind(this), 10);

		return node('div', {},
			node('h2', {}, _('Earnings')),
			this.place,
			node('div', { 'class': 'cbi-page-actions' }, node('button', {
				'class': 'btn cbi-button-apply', 'click': ui.createHandlerFn(this, 'redeem', ''), 'disabled': this.readonly
			}, _('Redeem all'))),
			node('h3', {}, _('Month')),
			node('p', {}, choice),
			month);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
