'use strict';
'require view';
'require ui';
'require waybill';

const node = waybill.node;

/* Phones and laptops with a stock WireGuard app: who is let in, letting one more in, and no more. */
return view.extend({
	load: function() {
		return Promise.all([ waybill.leaves(), waybill.status() ]);
	},

	refresh: function() {
		return waybill.leaves().then(function(answer) { waybill.show(this.place, this.list(answer)); }.bind(this));
	},

	list: function(answer) {
		if (answer.error)
			return waybill.note('warning', _('Waybill does not run'), answer.error,
				_('Phones can be let in when it runs.'), waybill.link('status', _('See how this router is')));

		return waybill.table([ _('Name'), _('Addresses'), _('WireGuard key'), '' ], answer.leaves.map(function(each) {
			return [
				node('strong', {}, each.name),
				each.babel ? _('its own, by Babel') : each.addresses.map(function(address) { return node('div', {}, node('code', {}, address)); }),
				node('code', {}, each.wireguard_key),
				node('button', { 'class': 'btn cbi-button-remove', 'click': ui.createHandlerFn(this, 'ask', each), 'disabled': this.readonly }, _('Remove'))
			];
		}.bind(this)), _('No phone is let in yet.'));
	},

	ask: function(each) {
		ui.showModal(_('Remove this phone?'), [
			node('p', {}, _('%s is let in no more, and its config is of no use then.').format(each.name)),
			node('div', { 'class': 'right' },
				node('button', { 'class': 'btn', 'click': ui.hideModal }, _('Cancel')), ' ',
				node('button', { 'class': 'btn cbi-button-negative', 'click': ui.createHandlerFn(this, 'remove', each.name) }, _('Remove')))
		]);
	},

	remove: function(name) {
		return waybill.leafRemove(name).then(function(answer) {
			ui.hideModal();

			if (answer.error)
				waybill.tell('danger', answer.error);

			return this.refresh();
		}.bind(this));
	},

	add: function() {
		const name = this.name.value.trim(), endpoint = this.endpoint.value.trim();

		if (!waybill.isName(name))
			return waybill.tell('warning', _('A name has 1 to 63 letters, digits and hyphens.'));

		return waybill.leafAdd(name, endpoint, this.internet.checked, this.dns.value.trim()).then(function(answer) {
			if (answer.error)
				return waybill.tell('danger', answer.error);

			this.name.value = '';
			this.given(answer);

			return this.refresh();
		}.bind(this));
	},

	/* Shown this once: the secret key is kept nowhere. */
	given: function(answer) {
		const file = URL.createObjectURL(new Blob([ answer.config ], { type: 'text/plain' }));
		const close = function() {
			URL.revokeObjectURL(file);
			ui.hideModal();
		};

		/* A picture in an image element runs nothing and loads nothing. */
		ui.showModal(_('For the phone'), [
			node('p', {}, _('Scan this with the WireGuard app of %s: add a tunnel, scan from QR code. It is shown only now, for it holds the secret key of the phone.').format(answer.name)),
			answer.qr ? node('p', { 'style': 'text-align:center' }, node('img', {
				'src': 'data:image/svg+xml;base64,' + btoa(answer.qr), 'alt': _('QR code of the config'), 'style': 'width:min(100%, 22em); background:#fff'
			})) : null,
			node('details', {}, node('summary', {}, _('As text')), node('pre', {}, answer.config)),
			node('div', { 'class': 'right' },
				node('a', { 'class': 'btn', 'href': file, 'download': answer.name + '.conf' }, _('Save as a file')), ' ',
				node('button', { 'class': 'btn cbi-button-positive', 'click': close }, _('Done')))
		].filter(function(each) { return each; }));
	},

	render: function(answers) {
		const status = answers[1];
		const type = function(attributes) {
			return node('input', Object.assign({ 'type': 'text', 'class': 'cbi-input-text', 'disabled': this.readonly }, attributes));
		}.bind(this);
		const line = function(title, field, help) {
			return node('div', { 'class': 'cbi-value' },
				node('label', { 'class': 'cbi-value-title' }, title),
				node('div', { 'class': 'cbi-value-field' }, field, help ? node('div', { 'class': 'cbi-value-description' }, help) : null));
		};

		this.readonly = !L.hasViewPermission() || null;
		this.name = type({ 'maxlength': 63, 'placeholder': _('for instance anna') });
		this.endpoint = type({ 'placeholder': _('for instance roof.example.org') });
		this.dns = type({ 'placeholder': _('for instance 9.9.9.9') });
		this.internet = type({ 'type': 'checkbox', 'class': null });
		this.place = node('div', {}, this.list(answers[0]));

		return node('div', {},
			node('h2', {}, _('Phones')),
			node('p', {}, _('A phone or laptop with the WireGuard app takes part in the mesh from anywhere. It needs nothing of Waybill.')),
			this.place,
			status.running ? node('div', { 'class': 'cbi-section' },
				node('h3', {}, _('Let a phone in')),
				line(_('Name'), this.name),
				line(_('Where it reaches this router'), this.endpoint,
					_('A host name or an address, and a port if it is another than that of WireGuard links. Empty: the one of the community settings.')),
				line(_('All its traffic'), this.internet, _('What is for the Internet goes by the gateway of this household, too. Else the phone reaches the mesh alone.')),
				line(_('Name server'), this.dns, _('Empty: this router, where it answers for names at port 53.')),
				node('div', { 'class': 'cbi-page-actions' }, node('button', {
					'class': 'btn cbi-button-apply', 'click': ui.createHandlerFn(this, 'add'), 'disabled': this.readonly
				}, _('Let it in')))) : null);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
