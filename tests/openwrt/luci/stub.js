'use strict';

/*
 * What the pages use of LuCI, for the tests, as far as they use it: LuCI itself is not there. What is dangerous is as dangerous as
 * there: a text that is not in a list is taken for markup. Whatever goes wrong is said in the document, under "wrong".
 */

const data = JSON.parse(document.getElementById('data').textContent);
const main = document.querySelector('main');
const wrong = function(what) {
	const line = document.createElement('p');

	line.className = 'wrong';
	line.textContent = what;
	main.appendChild(line);
};

window.addEventListener('error', function(event) { wrong('error: ' + event.message); });
window.addEventListener('unhandledrejection', function(event) { wrong('rejected: ' + (event.reason && event.reason.stack || event.reason)); });

/* As the browser has it: a case may change it. */
let current;

String.prototype.format = function() {
	const values = arguments;
	let at = 0;

	return this.replace(/%[sd]/g, function() { return values[at++]; });
};

window._ = function(text) { return (current.german && data.translation[text]) || text; };

window.E = function(tag, attributes, children) {
	const element = document.createElement(tag);

	Object.keys(attributes || {}).forEach(function(name) {
		const value = attributes[name];

		if (typeof(value) === 'function')
			element.addEventListener(name, value);
		else if (value !== null && value !== undefined)
			element.setAttribute(name, value);
	});

	if (Array.isArray(children))
		children.forEach(function(child) {
			element.appendChild(child instanceof Node ? child : document.createTextNode('' + child));
		});
	else if (children instanceof Node)
		element.appendChild(children);
	else if (children !== null && children !== undefined)
		element.innerHTML = '' + children;

	return element;
};

window.L = {
	url: function() { return '/cgi-bin/luci/' + Array.prototype.join.call(arguments, '/'); },
	hasViewPermission: function() { return current.owner; },
	resolveDefault: function(promise) { return Promise.resolve(promise).catch(function() { return undefined; }); }
};

const extend = function(methods) {
	const object = Object.assign({}, methods);

	return object;
};

const runtime = {
	view: { extend: extend },
	baseclass: { extend: extend },
	poll: { add: function(ask) { current.polled.push(ask); } },
	rpc: {
		declare: function(declared) {
			return function() {
				const values = arguments, sent = {};

				(declared.params || []).forEach(function(name, at) { sent[name] = values[at]; });
				current.sent.push({ object: declared.object, method: declared.method, values: sent });

				/* Copied: a page keeps nothing of ours. */
				let answer = current.answers[declared.method];

				/* One after the other, and the last again and again. */
				if (answer && answer.turns)
					answer = answer.turns.length > 1 ? answer.turns.shift() : answer.turns[0];

				if (answer === 'denied')
					return Promise.reject(new Error('RPC call to waybill/' + declared.method + ' failed with error -32002: Access denied'));

				return answer === undefined ? Promise.reject(new Error('no answer to ' + declared.method)) : Promise.resolve(JSON.parse(JSON.stringify(answer)));
			};
		}
	},
	ui: {
		createHandlerFn: function(self, method) {
			const values = Array.prototype.slice.call(arguments, 2);

			return function(event) { return (current.doing = self[method].apply(self, values.concat(event))); };
		},
		showModal: function(title, children) {
			runtime.ui.hideModal();
			current.place.appendChild(E('div', { 'class': 'modal' }, [ E('h4', {}, title) ].concat(children)));
		},
		hideModal: function() {
			const modal = current.place.querySelector('.modal');

			if (modal)
				modal.remove();
		},
		addNotification: function(title, child, kind) {
			current.place.appendChild(E('div', { 'class': 'told ' + kind }, child));
		}
	},
	uci: {
		load: function() { return Promise.resolve(); },
		sections: function(config, kind, each) {
			const found = (current.settings[config] || []).filter(function(section) { return section['.type'] === kind; });

			if (each)
				found.forEach(each);

			return found;
		},
		get: function(config, id, option) {
			const found = (current.settings[config] || []).filter(function(section) { return section['.name'] === id; })[0];

			return found && found[option];
		}
	}
};

/* Forms: what is in the settings is shown, and checked as if it had been typed. */
const option = function(section, kind, name, title, help) {
	const words = [];
	const self = {
		value: function(word, label) { words.push(word); },
		show: function(id) {
			const value = runtime.uci.get('waybill', id, name);
			const values = value === undefined ? [ '' ] : [].concat(kind === 'list' ? String(value).split(' ') : value);

			if (Array.isArray(value))
				values.splice.apply(values, [ 0, values.length ].concat(value));

			values.forEach(function(each) {
				const said = self.validate ? self.validate(id, each) : true;

				if (said !== true)
					current.refused.push(id + '.' + name + ': ' + said);

				if (each && words.length && words.indexOf(each) < 0)
					current.refused.push(id + '.' + name + ': ' + each + ' is none of ' + words.join(' '));
			});

			return E('div', { 'data-option': name }, [ title, help || '', self.cfgvalue ? self.cfgvalue(id) : values.join(' ') ]);
		}
	};

	return self;
};

const section = function(kind, many, name, title, help) {
	const options = [];

	return {
		kind: kind,
		option: function(widget, name, title, help) {
			const made = option(this, widget, name, title, help);

			options.push({ name: name, widget: widget, made: made });

			return made;
		},
		render: function() {
			const ids = many ? runtime.uci.sections('waybill', kind).map(function(each) { return each['.name']; }) : [ name ];

			current.options[kind] = options.map(function(each) { return each.name + ':' + each.widget; });

			return E('section', { 'data-kind': kind }, [ title || '', help || '' ].concat(ids.map(function(id) {
				return E('div', {}, options.map(function(each) { return each.made.show(id); }));
			})));
		}
	};
};

runtime.form = {
	Flag: 'truth', DynamicList: 'list', ListValue: 'choice', Value: 'text', GridSection: 'grid', NamedSection: 'named',
	Map: function(config, title, help) {
		const sections = [];

		this.section = function(type, first, second, third, fourth) {
			const made = type === 'grid' ? section(first, true, null, second, third) : section(second, false, first, third, fourth);

			sections.push(made);

			return made;
		};
		this.render = function() {
			return Promise.resolve(E('div', {}, [ title, help ].concat(sections.map(function(each) { return each.render(); }))));
		};
	}
};

/* Loads a page or what it needs, as LuCI does: by the lines of 'require'. */
const load = function(name, loaded) {
	if (runtime[name])
		return runtime[name];

	if (loaded[name])
		return loaded[name];

	const source = data.sources[name + '.js'] || data.sources[name.replace('.', '/') + '.js'];

	if (!source)
		throw new Error('there is no ' + name);

	const names = [], values = [];

	source.replace(/^'require ([a-z.]+)(?: as ([a-z]+))?';$/gm, function(line, what, as) {
		names.push(as || what);
		values.push(load(what, loaded));
	});

	return (loaded[name] = Function.apply(null, names.concat(source)).apply(null, values));
};

/* What a person does on a page, by what stands on the buttons. */
const press = function(words) {
	const button = Array.prototype.filter.call(current.place.querySelectorAll('button'), function(each) {
		return each.textContent === words && !each.disabled;
	})[0];

	if (!button)
		throw new Error('no button ' + words);

	current.doing = null;
	button.click();

	return Promise.resolve(current.doing);
};

const type = function(at, words) {
	const fields = current.place.querySelectorAll('input:not([type=radio]):not([type=checkbox]):not([type=file]), textarea');

	fields[at].value = words;
};

const run = function(test) {
	const place = E('article', { 'id': test.name });

	current = {
		place: place, german: test.german, owner: test.owner !== false, answers: Object.assign({}, data.answers, test.answers), settings: { waybill: test.settings || [], network: [ { '.type': 'interface', '.name': 'backhaul' }, { '.type': 'interface', '.name': 'wan' }, { '.type': 'interface', '.name': 'radio' }, { '.type': 'interface', '.name': 'dsl' }, { '.type': 'interface', '.name': 'down' } ] }, sent: [],
		polled: [], refused: [], options: {}
	};
	main.appendChild(place);

	const page = load('view/waybill/' + test.page, {});

	return Promise.resolve(page.load()).then(function(answers) { return page.render(answers); }).then(function(shown) {
		place.appendChild(shown);

		/* As if time had passed. */
		return Promise.all(current.polled.map(function(ask) { return ask(); }));
	}).then(function() {
		return (test.steps || []).reduce(function(before, step) {
			return before.then(function() {
				if (step.round)
					return Promise.all(current.polled.map(function(ask) { return ask(); }));

				return step.press ? press(step.press) : step.choose ? place.querySelector('[value=' + step.choose + ']').click() : type(step.field, step.words);
			});
		}, Promise.resolve());
	}).then(function() {
		const said = { sent: current.sent.filter(function(each) { return Object.keys(each.values).length; }), refused: current.refused, options: current.options };

		place.appendChild(E('pre', {}, [ JSON.stringify(said) ]));
	});
};

/* A QR code on a table, askew and with a stain on it, and a table without one. */
const scan = function(test) {
	const qr = load('waybill.qr', {}), image = new Image(), place = E('article', { 'id': test.name });

	main.appendChild(place);

	return new Promise(function(done, failed) {
		image.onload = done;
		image.onerror = failed;
		image.src = 'data:image/svg+xml;base64,' + btoa(test.svg);
	}).then(function() {
		const canvas = E('canvas', { 'width': 700, 'height': 600 }), drawn = canvas.getContext('2d');
		const picture = function() { return drawn.getImageData(0, 0, canvas.width, canvas.height); };

		drawn.fillStyle = '#a98';
		drawn.fillRect(0, 0, canvas.width, canvas.height);
		place.appendChild(E('p', {}, [ qr.read(picture()) === null ? 'none' : 'something' ]));
		drawn.setTransform(0.9, 0.35, -0.3, 0.95, 190, 30);
		drawn.drawImage(image, 0, 0, 400, 400);
		drawn.fillStyle = '#553';
		drawn.fillRect(200, 180, 25, 12);
		place.appendChild(E('pre', {}, [ '' + qr.read(picture()) ]));
	});
};

data.tests.reduce(function(before, test) {
	return before.then(function() { return test.svg ? scan(test) : run(test); }).catch(function(error) { wrong(test.name + ': ' + error.stack); });
}, Promise.resolve()).then(function() {
	main.appendChild(E('p', { 'id': 'done' }, [ 'done' ]));
});
