'use strict';
'require baseclass';
'require waybill';
'require waybill.qr as qr';

const node = waybill.node;

/*
 * The field for an invitation: pasted, or read from a QR code by the camera or out of a picture. Browsers lend the camera to pages of
 * HTTPS alone; over plain HTTP, a phone's own camera app takes the picture.
 */

/* How often a second a picture of the camera is looked at. */
const LOOKS_PER_S = 4;

/* A picture is no larger than this where it is read, in pixels: enough for any code that fills a quarter of it. */
const PICTURE_MAX = 1600;

/* What a picture or a video shows, no larger than needed. */
function pixels(source, width, height) {
	const scale = Math.min(1, PICTURE_MAX / Math.max(width, height));
	const canvas = node('canvas', { 'width': Math.max(1, Math.round(width * scale)), 'height': Math.max(1, Math.round(height * scale)) });
	const drawn = canvas.getContext('2d');

	drawn.drawImage(source, 0, 0, canvas.width, canvas.height);

	return drawn.getImageData(0, 0, canvas.width, canvas.height);
}

/* The text of the QR code in a picture or a video; null if there is none. The browser's own reader, where there is one, is better. */
function read(source, width, height) {
	const own = function() { return qr.read(pixels(source, width, height)); };

	if (!('BarcodeDetector' in window))
		return Promise.resolve().then(own);

	return Promise.resolve().then(function() {
		return new window.BarcodeDetector({ formats: [ 'qr_code' ] }).detect(source);
	}).then(function(found) { return found.length ? found[0].rawValue : own(); }, own);
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

			read(video, video.videoWidth, video.videoHeight).then(function(found) {
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

			const image = new Image(), place = URL.createObjectURL(picture.files[0]);

			say(_('Looking for the code…'));
			image.onload = function() {
				read(image, image.naturalWidth, image.naturalHeight).then(function(found) {
					if (found !== null)
						take(found);
					else
						say(_('There is no QR code in this picture that can be read. Take it again from straight above, with the code filling it.'));
				}).finally(function() { URL.revokeObjectURL(place); });
			};
			image.onerror = function() {
				URL.revokeObjectURL(place);
				say(_('This file is no picture.'));
			};
			image.src = place;
			picture.value = '';
		});

		const buttons = [];

		if (navigator.mediaDevices && navigator.mediaDevices.getUserMedia)
			buttons.push(node('button', { 'class': 'btn', 'click': film, 'disabled': disabled }, _('Scan by camera')), ' ');

		buttons.push(node('button', { 'class': 'btn', 'disabled': disabled, 'click': function(event) {
			event.preventDefault();
			picture.click();
		} }, _('Read a picture of a QR code')), picture);

		return {
			node: node('div', {}, text, node('p', {}, buttons), video, said,
				window.isSecureContext ? null : node('p', {}, node('em', {},
					_('A phone asks whether to take the picture by its camera.')))),
			value: function() { return clean(text.value); },
			input: text
		};
	}
});
