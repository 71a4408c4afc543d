'use strict';
'require view';
'require poll';
'require waybill';

const node = waybill.node;

/* A router that starts needs some seconds to reach its neighbours, and whoever invites needs some days. */
const ALONE_S = 60;
const RENEW_MS = 14 * 86400 * 1000;
/* What the journal of a busy router may need until somebody looks. */
const ROOM_KIB = 256;

/* How warnings begin that the note on the membership says, as long as they are true. */
const SAID = [ 'the ledger does not take the code of the invitation', 'this router waits', 'this router\'s membership ends' ];

/* How the router takes part in the mesh, and what somebody should do about it. */
return view.extend({
	load: function() {
		return Promise.all([ waybill.status(), waybill.check(), waybill.earnings() ]);
	},

	/* What is amiss, each with the next step. */
	notes: function(status, mistakes) {
		const notes = [];

		if (status.setup)
			notes.push(waybill.note('info', _('This router is not set up yet'),
				_('Give it a name and an invitation, and say what it carries for others.'),
				waybill.link('setup', _('Set up this router'))));

		if (mistakes.length)
			notes.push(waybill.note('danger', _('The settings have a mistake'),
				_('What runs goes on with the settings of before.'),
				node('ul', {}, mistakes.map(function(each) {
					return node('li', {}, node('code', {}, each.option), ': ', each.problem);
				})),
				waybill.link('settings', _('Go to the settings'))));

		if (status.room_kib != null && status.room_kib < ROOM_KIB)
			notes.push(waybill.note('danger', _('The flash is nearly full'),
				_('Receipts will soon have no room, and what is not kept is not paid. Remove packages or files that nobody needs, then restart this router.')));

		if (!status.running) {
			notes.push(status.enabled
				? waybill.note('danger', _('Waybill does not run'), status.error,
					_('If it does not run in half a minute: Status, System Log says why. Who stopped it starts it in System, Startup.'))
				: status.setup ? node('div') : waybill.note('info', _('Waybill is switched off'), _('Joining a community switches it on.'),
					waybill.link('join', _('Join a community'))));

			return notes;
		}

		if (status.ledger_distrusted)
			notes.push(waybill.note('danger', _('The ledger is not to be trusted'), status.ledger_distrusted,
				_('No more tokens are locked there. Tell the treasurer of your community.')));

		if (status.membership && !status.membership.member)
			notes.push(waybill.note('warning', _('Not a member'),
				waybill.isWaiting(status.membership) ? status.membership.waits || _('Waiting for the ledger to take this router in…')
					: [].concat(status.membership.waits || [], status.membership.until ? _('The membership has ended: ask for another invitation.')
						: _('Ask whoever runs the community for another invitation, and join with it.')),
				waybill.link('join', _('Join a community'))));
		else if (status.membership && status.membership.until && status.membership.until * 1000 - Date.now() < RENEW_MS)
			notes.push(waybill.note('warning', _('The membership ends soon'), waybill.date(status.membership.until),
				_('Ask whoever runs the community for another invitation, and join with it.'),
				waybill.link('join', _('Join a community'))));

		if (!status.links_up && status.uptime_s >= ALONE_S)
			notes.push(waybill.note('warning', _('No neighbour answers'),
				_('Is the cable in, the radio on, and does the router of the neighbour run? Without one this router is not in the mesh.'),
				waybill.link('neighbours', _('Neighbours'))));

		if (status.ledger_reachable === false)
			notes.push(waybill.note('warning', _('The ledger does not answer'),
				_('Links go on without it. Receipts are kept until it is back. If that lasts for a day, tell whoever runs the community.')));

		/* The daemon keeps what it warned of, and a member of today may have been none before. */
		const warnings = (status.warnings || []).filter(function(each) {
			return !status.membership || SAID.every(function(begin) { return !each.startsWith(begin); });
		});

		if (warnings.length)
			notes.push(waybill.note('warning', _('Somebody should look at this'),
				node('ul', {}, warnings.map(function(each) { return node('li', {}, each); }))));

		return notes;
	},

	member: function(membership) {
		if (!membership)
			return null;

		if (!membership.member)
			return _('no');

		return membership.until ? _('until %s').format(waybill.date(membership.until)) : _('yes');
	},

	internet: function(status) {
		const parts = [];

		if (status.internet)
			parts.push(status.internet.in_use
				? _('by the gateway %s').format(status.internet.in_use)
				: _('no gateway of %d serves this router').format(status.internet.gateways));

		if (status.internet && status.internet.refused)
			status.internet.refused.forEach(function(each) { parts.push(each); });

		if (status.gateway)
			parts.push(status.gateway.open
				? _('this router is a gateway: %d of %d clients').format(status.gateway.clients, status.gateway.clients_max)
				: _('this router is a gateway, and closed at this hour'));

		return parts.length ? parts.map(function(each) { return node('div', {}, each); }) : _("by the system's own way");
	},

	facts: function(status, community) {
		if (!status.running)
			return node('div');

		return waybill.facts([
			[ _('Name'), status.name ],
			[ _('Community'), community ],
			[ _('Member'), this.member(status.membership) ],
			[ _('Mesh'), status.links_up
				? _('%d of %d links up, %d destinations').format(status.links_up, status.links, status.routes)
				: _('no link of %d is up').format(status.links) ],
			[ _('Internet'), this.internet(status) ],
			[ _('Address in the mesh'), node('code', {}, status.mesh_address) ],
			[ _('Prefix'), node('code', {}, status.prefix) ],
			[ _('Account'), node('code', {}, status.id) ],
			[ _('Owed to us, not yet signed for'), waybill.amount(status.owed_to_us, status.unit) ],
			[ _('Owed by us, not yet signed for'), waybill.amount(status.owed_by_us, status.unit) ],
			[ _('What we can lose at most'), waybill.amount(status.value_at_risk, status.unit) ],
			[ _('Runs for'), waybill.duration(status.uptime_s) ],
			[ _('Version'), status.version ]
		]);
	},

	render: function(answers) {
		const mistakes = answers[1].mistakes || [];
		const community = (answers[2].wallet && answers[2].wallet.community) || '';
		const place = node('div');
		const show = function(status) {
			waybill.show(place, this.notes(status, mistakes).concat(this.facts(status, community)));
		}.bind(this);

		show(answers[0]);
		poll.add(function() { return waybill.status().then(show); }, 5);

		return node('div', {}, node('h2', {}, _('Waybill')), place);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
