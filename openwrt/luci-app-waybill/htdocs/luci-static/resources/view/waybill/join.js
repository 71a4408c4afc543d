'use strict';
'require view';
'require poll';
'require ui';
'require waybill';
'require waybill.invitation as invitation';

const node = waybill.node;

/* Takes the router into a community by an invitation, and shows how it becomes a member. */
return view.extend({
	load: function() {
		return waybill.status();
	},

	join: function() {
		const code = this.code.value(), name = this.name.value.trim();

		if (!code || !waybill.isInvitation(code))
			return waybill.tell('warning', _('This is no invitation: it begins with waybill-invite1: and has letters, digits, - and _ behind that.'));

		if (name && !waybill.isName(name))
			return waybill.tell('warning', _('A name has 1 to 63 letters, digits and hyphens.'));

		return waybill.join(code, name).then(function(answer) {
			if (answer.error)
				return waybill.tell('danger', answer.error);

			this.code.input.value = '';
			waybill.show(this.result, [
				node('h3', {}, _('Joining')),
				waybill.facts([
					[ _('Community'), answer.community ],
					[ _('Tokens'), answer.symbol ],
					[ _('This router'), answer.name ],
					[ _('Name in the mesh'), answer.claims ? answer.claims + '.mesh' : '' ],
					[ _('Address in the mesh'), node('code', {}, answer.mesh_address) ],
					[ _('Most that is paid per GiB'), answer.max + ' ' + answer.symbol ]
				]),
				this.wait = node('div', { 'class': 'spinning' }, _('Waiting for the ledger to take this router in…'))
			]);
		}.bind(this));
	},

	state: function(status) {
		if (status.membership && status.membership.member)
			return waybill.note('success', _('This router is a member'), status.membership.until
				? _('until %s').format(waybill.date(status.membership.until)) : '',
				_('Another invitation of the same community lengthens the membership and adds its neighbours.'));

		return status.membership && status.membership.waits ? waybill.note('info', _('Not a member yet'), status.membership.waits,
			waybill.isWaiting(status.membership) ? [] : _('Ask whoever runs the community for another invitation, and join with it.')) : node('div');
	},

	render: function(status) {
		const readonly = !L.hasViewPermission() || null;
		const state = node('div', {}, this.state(status));

		this.code = invitation.field(readonly);
		this.name = node('input', {
			'type': 'text', 'class': 'cbi-input-text', 'maxlength': 63, 'placeholder': status.name || _('for instance attic'), 'disabled': readonly,
			'aria-label': _('Name of this router')
		});
		this.result = node('div');

		poll.add(function() {
			return waybill.status().then(function(fresh) {
				waybill.show(state, this.state(fresh));

				if (this.wait && fresh.membership && fresh.membership.member) {
					this.wait.className = '';
					waybill.show(this.wait, waybill.link('status', _('This router is a member. See how it is.')));
				}
			}.bind(this));
		}.bind(this), 3);

		return node('div', {},
			node('h2', {}, _('Join a community')),
			node('p', {}, _('Whoever runs a community hands out invitations, as text or as a QR code. Each takes one router in, once. Whoever reads it can use it: do not show it around.')),
			state,
			node('div', { 'class': 'cbi-section' },
				node('h3', {}, _('Invitation')), this.code.node,
				status.name ? null : node('div', {}, node('h3', {}, _('Name of this router')), this.name)),
			node('div', { 'class': 'cbi-page-actions' }, node('button', {
				'class': 'btn cbi-button-apply', 'click': ui.createHandlerFn(this, 'join'), 'disabled': readonly
			}, _('Join'))),
			this.result);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
