'use strict';
'require view';
'require poll';
'require ui';
'require waybill';

const node = waybill.node;

/* For so many the price is asked in a round, one by one: each question starts a program on the router. All have their turn. */
const PRICES_AT_ONCE = 8;

/* Whom this router is linked to, what passes, at what price, and what can be lost. */
return view.extend({
	load: function() {
		return Promise.all([ waybill.neighbours(), waybill.earnings() ]);
	},

	state: function(each) {
		const words = { up: _('up'), connecting: _('connecting'), down: _('down') };

		if (each.state !== 'up')
			return '%s, %s'.format(words[each.state] || each.state, each.last_heard_s === null
				? _('never heard') : _('heard %s ago').format(waybill.duration(each.last_heard_s)));

		return each.visitor ? _('up, no member') : each.admitted ? words.up : _('up, not yet known');
	},

	kind: function(each) {
		const roles = { provider: _('we pay it'), subscriber: _('it pays us'), peer: _('nobody pays'), auto: _('who pays is not known yet') };
		const carriers = { wireguard: 'WireGuard', quic: 'QUIC' };

		return '%s, %s'.format(carriers[each.carrier] || each.carrier, roles[each.role] || each.role);
	},

	/* The wires and radios that lead to it, where there are several: the one in use stands first. */
	ways: function(each) {
		return (each.ways || []).map(function(way) {
			const text = way.rtt_us === null ? _('%s does not answer').format(way.endpoint)
				: _('%s: %s ms, lost: %s').format(way.endpoint, (way.rtt_us / 1000).toFixed(1), (way.lost_per_mille / 10).toFixed(1) + ' %');

			return node('div', {}, node('small', {}, way.in_use ? node('strong', {}, text) : text));
		});
	},

	/* The share that did not arrive, by the counts of both ends; the other end's are some seconds old. */
	loss: function(meter) {
		const percent = function(sent, arrived) {
			return arrived === null || sent < 1048576 ? null : Math.max(0, (sent - arrived) / sent * 100);
		};
		const there = meter ? percent(meter.sent_bytes, meter.reported_received_bytes) : null;
		const back = meter && meter.reported_sent_bytes !== null ? percent(meter.reported_sent_bytes, meter.received_bytes) : null;

		return [ there, back ].map(function(each) {
			return each === null ? '–' : each.toFixed(1) + ' %';
		}).join(' / ');
	},

	price: function(why, unit) {
		if (!why || !why.terms)
			return '–';

		const up = waybill.amount(why.terms.price_up, why.unit || unit);
		const down = waybill.amount(why.terms.price_down, why.unit || unit);

		return up === down ? up : _('%s up, %s down').format(up, down);
	},

	explain: function(each) {
		ui.showModal(_('What each day came to'), [ node('p', { 'class': 'spinning' }, _('Asking the router…')) ]);

		return waybill.why(each.id).then(function(why) {
			const content = why.error ? [ node('p', {}, why.error) ] : [
				node('p', {}, node('strong', {}, each.name), ' ', node('code', {}, each.id)),
				node('p', {}, why.sentence),
				waybill.table([ _('Day (UTC)'), _('There'), _('Back'), _('Earned'), _('Spent'), _('Written off') ], why.days.map(function(day) {
					return [
						day.day, waybill.bytes(day.sent_bytes), waybill.bytes(day.received_bytes), waybill.amount(day.earned, why.unit),
						waybill.amount(day.spent, why.unit), waybill.amount(day.written_off, why.unit)
					];
				}), _('Nothing was counted yet.'))
			];

			ui.showModal(_('What each day came to'), content.concat(
				node('div', { 'class': 'right' }, node('button', { 'class': 'btn', 'click': ui.hideModal }, _('Close')))));
		});
	},

	lines: function(neighbours, meters, prices, unit) {
		return neighbours.map(function(each) {
			const meter = meters[each.id];

			return [
				node('div', {}, node('strong', {}, each.name), each.met ? node('div', {}, node('small', {}, _('met, in no settings'))) : null),
				node('div', {}, this.kind(each), this.ways(each)),
				this.state(each),
				each.rtt_us === null ? '–' : (each.rtt_us / 1000).toFixed(1) + ' ms',
				this.loss(meter),
				this.price(prices[each.id], unit),
				meter ? waybill.bytes(meter.sent_bytes) : '–',
				meter ? waybill.bytes(meter.received_bytes) : '–',
				meter ? waybill.amount(meter.value_at_risk, unit) : '–',
				node('button', { 'class': 'btn', 'click': ui.createHandlerFn(this, 'explain', each) }, _('Days'))
			];
		}.bind(this));
	},

	render: function(answers) {
		const place = node('div');
		const prices = Object.create(null);
		const asked = Object.create(null);
		let unit = null, round = 0;

		const show = function(answer, earnings) {
			const meters = Object.create(null);

			if (earnings.meters && earnings.meters.meters) {
				unit = earnings.meters.unit;
				earnings.meters.meters.forEach(function(meter) { meters[meter.id] = meter; });
			}

			waybill.show(place, answer.error ? waybill.note('warning', _('Waybill does not run'), answer.error,
				waybill.link('status', _('See how this router is'))) : waybill.table([
				_('Neighbour'), _('Link'), _('State'), _('Round trip'), _('Loss there / back'), _('Price per GiB'), _('There'), _('Back'),
				_('What we can lose at most'), ''
			], this.lines(answer.neighbours, meters, prices, unit), _('Nobody yet. Join a community, or write neighbours into the settings.')));
		}.bind(this);
		const askPrices = function(answer) {
			const longest = (answer.neighbours || []).slice().sort(function(one, other) {
				return (asked[one.id] || 0) - (asked[other.id] || 0);
			});

			round++;

			return longest.slice(0, PRICES_AT_ONCE).reduce(function(before, each) {
				return before.then(function() {
					asked[each.id] = round;

					return waybill.why(each.id).then(function(why) { prices[each.id] = why.error ? null : why; });
				});
			}, Promise.resolve());
		};
		const again = function() {
			return Promise.all([ waybill.neighbours(), waybill.earnings() ]).then(function(fresh) {
				return askPrices(fresh[0]).then(function() { show(fresh[0], fresh[1]); });
			});
		};

		show(answers[0], answers[1]);
		poll.add(again, 10);

		return node('div', {},
			node('h2', {}, _('Neighbours')),
			node('p', {}, _('Bytes are billed bytes since the start. If a neighbour does not pay, no more is lost than stands beside it.')),
			place);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
