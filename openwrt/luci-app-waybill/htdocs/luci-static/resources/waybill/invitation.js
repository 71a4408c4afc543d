'use strict';
'require baseclass';
'require waybill';

const node = waybill.node;

/*
 * The field for an invitation: pasted, or read from a QR code by the camera or out of a picture. Browsers lend the camera, and some of
 * them their reader of QR codes, to pages of HTTPS alone. Without, it is said what to do.
 */

/* How often a second a picture of the camera is looked at. */
const LOOKS_PER_S = 4;

/* A picture is no larger than this where it is read, in pixels: enough for any code that fills a quarter of it. */
const PICTURE_MAX = 1600;

function reader() {
	return 'BarcodeDetector' in window ? new window.BarcodeDetector({ formats: [ 'qr_code' ] }) : null;
}

/* The text of the first QR code in a picture, a video or a canvas; null if there is none. */
function read(source) {
	return reader().detect(source).then(function(found) {
		return found.length ? found[0].rawValue : null;
	});
}

/* What stands in a code may be a link that ends with the invitation. */
function clean(text) {
	const found = /waybill-invite1:[A-Za-z0-9_-]+/.exec(text);

	return found ? found[0] : text.replace(/\s+/g, '');
}

return baseclass.extend({
	clean: clean,

	/* The field; `value()` of what is returned is what was brought in, without blanks. */
	field: function(disabled) {
		const text = node('textarea', {
			'class': 'cbi-input-textarea', 'rows': 5, 'style': 'width:100%', 'spellcheck': 'false', 'autocomplete': 'off',
			'placeholder': 'waybill-invite1:…', 'aria-label': _('Invitation'), 'disabled': disabled
		});
		const said = node('p', { 'role': 'status' });
		const video = node('video', { 'style': 'display:none; width:100%; max-width:30em', 'playsinline': '', 'muted': '' });
		const picture = node('input', { 'type': 'file', 'accept': 'image/*', 'style': 'display:none' });
		let stream = null;

		const say = function(words) { waybill.show(said, node('span', {}, words)); };
		const take = function(found) {
			text.value = clean(found);
			text.dispatchEvent(new Event('change'));
			say(_('The code was read.'));
		};
		const stop = function() {
			if (stream)
				stream.getTracks().forEach(function(track) { track.stop(); });

			stream = null;
			video.style.display = 'none';
		};
		const look = function() {
			if (!stream)
				return;

			/* Left the page. */
			if (!video.isConnected)
				return stop();

			read(video).then(function(found) {
				if (found !== null) {
					stop();
					take(found);
				}
				else {
					window.setTimeout(look, 1000 / LOOKS_PER_S);
				}
			}, function() { window.setTimeout(look, 1000 / LOOKS_PER_S); });
		};
		const film = function(event) {
			event.preventDefault();

			if (stream)
				return stop();

			navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } }).then(function(opened) {
				stream = opened;
				video.srcObject = stream;
				video.style.display = '';
				say(_('Hold the code in front of the camera.'));

				return video.play().then(look);
			}).catch(function() {
				say(_('The browser does not lend its camera. Take a picture of the code, or paste its text.'));
			});
		};

		picture.addEventListener('change', function() {
			if (!picture.files.length)
				return;

			createImageBitmap(picture.files[0]).then(function(whole) {
				const scale = Math.min(1, PICTURE_MAX / Math.max(whole.width, whole.height));

				return createImageBitmap(whole, { resizeWidth: Math.round(whole.width * scale), resizeHeight: Math.round(whole.height * scale) });
			}).then(read).then(function(found) {
				if (found !== null)
					take(found);
				else
					say(_('There is no QR code in this picture that can be read. Take it again from straight above, with the code filling it.'));
			}, function() { say(_('This file is no picture.')); });
			picture.value = '';
		});

		const buttons = [];

		if (reader()) {
			if (navigator.mediaDevices && navigator.mediaDevices.getUserMedia)
				buttons.push(node('button', { 'class': 'btn', 'click': film, 'disabled': disabled }, _('Scan by camera')), ' ');

			buttons.push(node('button', { 'class': 'btn', 'disabled': disabled, 'click': function(event) {
				event.preventDefault();
				picture.click();
			} }, _('Read a picture')), picture);
		}

		return {
			node: node('div', {}, text, node('p', {}, buttons), video, said,
				reader() ? null : node('p', {}, node('em', {}, window.isSecureContext
					? _('This browser reads no QR codes. Point the camera app of a phone at the code, copy the text it shows, and paste it here.')
					: _('Over plain HTTP browsers read no QR codes. Point the camera app of a phone at the code, copy the text it shows, and paste it here.')))),
			value: function() { return clean(text.value); },
			input: text
		};
	}
});
