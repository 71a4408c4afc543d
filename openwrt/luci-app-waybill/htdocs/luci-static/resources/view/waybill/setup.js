'use strict';
'require view';
'require poll';
'require ui';
'require waybill';
'require waybill.invitation as invitation';

const node = waybill.node;

/* As short as a word that people write down may be. */
const PASSWORD_MIN = 8;

/* The page of the first start: name, invitation, policy and password, all at once, and then it is done. */
return view.extend({
	load: function() {
		return waybill.setup();
	},

	/* What is wrong with what was filled in, or null. */
	mistake: function(values) {
		if (!waybill.isName(values.name))
			return _('A name has 1 to 63 letters, digits and hyphens.');

		if (values.code && !waybill.isInvitation(values.code))
			return _('This is no invitation: it begins with waybill-invite1: and has letters, digits, - and _ behind that.');

		if (values.policy === 'price' && !/^[0-9]{1,9}(\.[0-9]{1,6})?$/.test(values.price))
			return _('A price is a number of tokens, such as 0.05.');

		if (!this.preset.password && values.password.length < PASSWORD_MIN)
			return _('The password needs %d characters at least.').format(PASSWORD_MIN);

		if (!this.preset.password && values.password !== values.again)
			return _('The passwords are not the same.');

		return null;
	},

	values: function() {
		const policy = this.policies.filter(function(each) { return each.checked; })[0];

		return {
			name: this.name.value.trim(),
			code: this.code ? this.code.value() : '',
			policy: policy ? policy.value : 'own',
			price: this.price.value.trim(),
			password: this.password.value,
			again: this.again.value
		};
	},

	/* One after the other, so that what failed can be tried again, and what is done is done. */
	finish: function() {
		const values = this.values(), mistake = this.mistake(values);
		/* Who asks for another and brings none joins later: that of the image may be of no use any more. */
		const is_joining = values.code || (this.preset.invitation && !this.code);
		const must = function(answer) {
			if (answer.error)
				throw new Error(answer.error);

			return answer;
		};

		if (mistake)
			return waybill.tell('warning', mistake);

		return Promise.resolve().then(function() {
			return this.preset.password ? null : waybill.setupPassword(values.password).then(must);
		}.bind(this)).then(function() {
			this.preset.password = true;

			return is_joining && !this.preset.joined ? waybill.join(values.code, values.name).then(must) : null;
		}.bind(this)).then(function(joined) {
			if (joined)
				this.preset.joined = true;

			return waybill.setupDone(values.name, values.policy, values.price).then(must);
		}.bind(this)).then(function() {
			this.done();
		}.bind(this), function(error) {
			waybill.tell('danger', error.message);
		});
	},

	done: function() {
		/* The menu that the browser remembers has this page in it. */
		if (ui.menu && ui.menu.flushCache)
			ui.menu.flushCache();

		/* LuCI said on top that there is no password, when this page began. */
		document.querySelectorAll('.alert-message a[href$="/admin/system/admin"]').forEach(function(each) {
			each.closest('.alert-message').remove();
		});

		const state = node('div', { 'class': 'spinning' }, _('Waiting for the ledger to take this router in…'));

		waybill.show(this.page, [
			node('h2', {}, _('Done')),
			node('p', {}, _('Log in as root with the password of this router from now on.')),
			node('p', {}, _('Make a backup now: System, Backup / Flash Firmware, and keep it safe. It has the key of this router: without that its tokens are lost, and whoever else has it can spend them.')),
			this.preset.joined ? state : node('p', {}, _('Until it joins a community, this router takes no part in a mesh.')),
			waybill.link(this.preset.joined ? 'status' : 'join', this.preset.joined ? _('See how this router is') : _('Join a community'))
		]);

		if (this.preset.joined)
			poll.add(function() {
				return waybill.status().then(function(status) {
					const membership = status.membership || {};

					if (membership.member || waybill.isWaiting(membership)) {
						state.className = membership.member ? '' : 'spinning';
						waybill.show(state, node('span', {}, membership.member
							? _('This router is a member.') : membership.waits || _('Waiting for the ledger to take this router in…')));

						return;
					}

					state.className = '';
					waybill.show(state, waybill.note('warning', _('Not a member'), membership.waits,
						_('Ask whoever runs the community for another invitation, and join with it.'),
						waybill.link('join', _('Join a community'))));
				});
			}, 3);
	},

	choice: function(value, title, help, is_checked) {
		const input = node('input', { 'type': 'radio', 'name': 'policy', 'value': value, 'checked': is_checked ? '' : null });

		this.policies.push(input);

		return node('label', { 'style': 'display:block; margin:.5em 0' }, input, ' ', node('strong', {}, title), node('br'), help);
	},

	line: function(title, field, help) {
		return node('div', { 'class': 'cbi-value' },
			node('label', { 'class': 'cbi-value-title' }, title),
			node('div', { 'class': 'cbi-value-field' }, field, help ? node('div', { 'class': 'cbi-value-description' }, help) : null));
	},

	render: function(preset) {
		if (preset.error)
			return waybill.note('danger', _('This router cannot be set up here'), preset.error);

		const readonly = !L.hasViewPermission() || null;
		const type = function(kind, attributes) {
			return node('input', Object.assign({ 'type': kind, 'class': 'cbi-input-text', 'disabled': readonly }, attributes));
		};
		const where = node('div');

		this.preset = preset;
		this.policies = [];
		this.name = type('text', { 'value': preset.name, 'maxlength': 63 });
		this.price = type('text', { 'value': preset.fee && preset.fee !== '0' ? preset.fee : '0.05', 'inputmode': 'decimal', 'style': 'width:6em' });
		this.password = type('password', { 'autocomplete': 'new-password' });
		this.again = type('password', { 'autocomplete': 'new-password' });

		const other = function() {
			this.code = invitation.field(readonly);
			waybill.show(where, [ this.code.node, preset.invitation ? node('p', {}, _('Without one the router can join later.')) : null ]);
		}.bind(this);

		if (preset.joined)
			waybill.show(where, node('span', {}, _('This router is in a community already.')));
		else if (preset.invitation)
			waybill.show(where, [
				node('p', {}, preset.community
					? _('An invitation of %s came with this router.').format(preset.community)
					: _('An invitation came with this router.')),
				node('button', { 'class': 'btn', 'click': other }, _('Use another'))
			]);
		else
			other();

		const policy = preset.ask === '0' ? 'free' : preset.fee && preset.fee !== '0' ? 'price' : 'own';

		return this.page = node('div', {},
			node('h2', {}, preset.community ? _('Set up this router for %s').format(preset.community) : _('Set up this router')),
			node('div', { 'class': 'cbi-section' },
				this.line(_('Name'), this.name, _('What people call this router: letters, digits and hyphens.')),
				this.line(_('Invitation'), where, preset.invitation || preset.joined ? '' : _('Without one the router can join later.')),
				this.line(_('What it carries for others'), node('div', {},
					this.choice('own', _('Own use first'), _('Others pay what the way out costs this household for them, and nothing more.'), policy === 'own'),
					this.choice('price', _('Share for a price'), node('span', {}, _('Others pay that, and on top, in tokens per GiB:'), ' ', this.price), policy === 'price'),
					this.choice('free', _('Share for free'), _('Others pay nothing, whatever it costs this household.'), policy === 'free')),
					_('In each case half of a link that is full is for this household.')),
				preset.password ? null : this.line(_('Password'), this.password, _('Of root, who may change everything on this router. There is none yet.')),
				preset.password ? null : this.line(_('The same again'), this.again)),
			node('div', { 'class': 'cbi-page-actions' }, node('button', {
				'class': 'btn cbi-button-apply', 'click': ui.createHandlerFn(this, 'finish'), 'disabled': readonly
			}, _('Finish'))));
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
