'use strict';
'require baseclass';

/*
 * Reads a QR code (ISO/IEC 18004) out of a picture: three finders, the alignment pattern in the fourth corner, the modules between
 * them, and the errors corrected. Bytes alone are read, as invitations are. For browsers that have no reader of their own, and for
 * all of them over plain HTTP.
 */

/* By the two bits of the format: bytes of correction in each block, and blocks, of versions 1 to 40. */
const LEVELS = [
	[ /* M */
		'10 16 26 18 24 16 18 22 22 26 30 22 22 24 24 28 28 26 26 26 26 28 28 28 28 28 28 28 28 28 28 28 28 28 28 28 28 28 28 28',
		'1 1 1 2 2 4 4 4 5 5 5 8 9 9 10 10 11 13 14 16 17 17 18 20 21 23 25 26 28 29 31 33 35 37 38 40 43 45 47 49'
	], [ /* L */
		'7 10 15 20 26 18 20 24 30 18 20 24 26 30 22 24 28 30 28 28 28 28 30 30 26 28 30 30 30 30 30 30 30 30 30 30 30 30 30 30',
		'1 1 1 1 1 2 2 2 2 4 4 4 4 4 6 6 6 6 7 8 8 9 9 10 12 12 12 13 14 15 16 17 18 19 19 20 21 22 24 25'
	], [ /* H */
		'17 28 22 16 22 28 26 26 24 28 24 28 22 24 24 30 28 28 26 28 30 24 30 30 30 30 30 30 30 30 30 30 30 30 30 30 30 30 30 30',
		'1 1 2 4 4 4 5 6 8 8 11 11 16 16 18 16 19 21 25 25 25 34 30 32 35 37 40 42 45 48 51 54 57 60 63 66 70 74 77 81'
	], [ /* Q */
		'13 22 18 26 18 24 18 22 20 24 28 26 24 20 30 24 28 28 26 30 28 30 30 30 30 28 30 30 30 30 30 30 30 30 30 30 30 30 30 30',
		'1 1 2 2 4 4 6 6 8 8 8 10 12 16 12 17 16 18 21 20 23 23 25 27 29 34 34 35 38 40 43 45 48 51 53 56 59 62 65 68'
	]
].map(function(level) { return level.map(function(line) { return line.split(' ').map(Number); }); });

const MASKS = [
	function(x, y) { return (x + y) % 2; }, function(x, y) { return y % 2; }, function(x, y) { return x % 3; },
	function(x, y) { return (x + y) % 3; }, function(x, y) { return (Math.floor(x / 3) + Math.floor(y / 2)) % 2; },
	function(x, y) { return x * y % 2 + x * y % 3; }, function(x, y) { return (x * y % 2 + x * y % 3) % 2; },
	function(x, y) { return ((x + y) % 2 + x * y % 3) % 2; }
];

/* Finders that are looked at, and ways to put three of them together. */
const FINDERS_MAX = 24, TRIPLES_MAX = 10;

/* The field of 256 elements. */
const EXP = [], LOG = [];

for (let at = 0, value = 1; at < 255; at++) {
	EXP[at] = EXP[at + 255] = value;
	LOG[value] = at;
	value = value * 2 ^ (value > 127 ? 285 : 0);
}

function times(a, b) { return a && b ? EXP[LOG[a] + LOG[b]] : 0; }

/* The value of a polynomial, its lowest coefficient first. */
function valueAt(polynomial, x) {
	return polynomial.reduceRight(function(sum, each) { return times(sum, x) ^ each; }, 0);
}

/* Corrects a block (Berlekamp and Massey, Chien, Forney); false if there are too many errors. */
function correct(block, redundant) {
	const syndromes = [];

	for (let power = 0; power < redundant; power++)
		syndromes.push(block.reduce(function(sum, each) { return times(sum, EXP[power]) ^ each; }, 0));

	if (!syndromes.some(Boolean))
		return true;

	let locator = [ 1 ], before = [ 1 ], length = 0, shift = 1, scale = 1;

	for (let step = 0; step < redundant; step++) {
		let off = syndromes[step];

		for (let at = 1; at <= length; at++)
			off ^= times(locator[at] || 0, syndromes[step - at]);

		if (!off) {
			shift++;
			continue;
		}

		const kept = locator.slice(), factor = times(off, EXP[255 - LOG[scale]]);

		for (let at = 0; at < before.length; at++)
			locator[at + shift] = (locator[at + shift] || 0) ^ times(factor, before[at]);

		for (let at = 0; at < locator.length; at++)
			locator[at] = locator[at] || 0;

		if (2 * length <= step) {
			length = step + 1 - length;
			before = kept;
			scale = off;
			shift = 1;
		}
		else {
			shift++;
		}
	}

	const evaluator = [];

	for (let at = 0; at < redundant; at++) {
		evaluator[at] = 0;

		for (let each = 0; each <= at; each++)
			evaluator[at] ^= times(locator[each] || 0, syndromes[at - each]);
	}

	const slope = locator.map(function(each, at) { return at % 2 ? each : 0; });
	let found = 0;

	for (let at = 0; at < block.length; at++) {
		const power = block.length - 1 - at, inverse = EXP[255 - power % 255];

		if (valueAt(locator, inverse))
			continue;

		const below = times(valueAt(slope, inverse), EXP[power % 255 === 0 ? 0 : power % 255]);

		found++;

		if (!below)
			return false;

		/* The slope is the derivative times x. */
		block[at] ^= times(valueAt(evaluator, inverse), times(EXP[power % 255], EXP[255 - LOG[below]]));
	}

	return length <= redundant / 2 && found === length;
}

/* Whether a module is none of the data: finders, timing, alignment, format and version. */
function isFixed(size) {
	const version = (size - 17) / 4, places = version > 1 ? [ 6 ] : [], count = Math.floor(version / 7) + 2;
	const step = Math.floor((version * 8 + count * 3 + 5) / (count * 4 - 4)) * 2;

	for (let at = size - 7; version > 1 && places.length < count; at -= step)
		places.splice(1, 0, at);

	return function(x, y) {
		if (x === 6 || y === 6 || (x < 9 && y < 9) || (x > size - 9 && y < 9) || (x < 9 && y > size - 9))
			return true;

		if (version > 6 && ((x < 6 && y > size - 12) || (y < 6 && x > size - 12)))
			return true;

		return places.some(function(a) {
			return Math.abs(x - a) < 3 && places.some(function(b) {
				/* There is none where a finder is. */
				return Math.abs(y - b) < 3 && !(a === 6 && (b === 6 || b === size - 7)) && !(b === 6 && a === size - 7);
			});
		});
	};
}

/* Level and mask: what is nearest to either copy of the format. */
function format(get, size) {
	let one = 0, other = 0, best = null, least = 4;

	for (let at = 0; at < 15; at++) {
		const first = at < 6 ? [ 8, at ] : at < 8 ? [ 8, at + 1 ] : at === 8 ? [ 7, 8 ] : [ 14 - at, 8 ];

		one |= get(first[0], first[1]) << at;
		other |= (at < 8 ? get(size - 1 - at, 8) : get(8, size - 15 + at)) << at;
	}

	for (let data = 0; data < 32; data++) {
		let rest = data;

		for (let at = 0; at < 10; at++)
			rest = rest << 1 ^ (rest >> 9) * 0x537;

		const code = (data << 10 | rest) ^ 0x5412;

		[ one, other ].forEach(function(said) {
			let off = 0;

			for (let bits = said ^ code; bits; bits &= bits - 1)
				off++;

			if (off < least) {
				least = off;
				best = { level: data >> 3, mask: data & 7 };
			}
		});
	}

	return best;
}

/* The text in a square of modules; null if there is none. */
function decode(get, size) {
	const said = format(get, size);

	if (!said)
		return null;

	const fixed = isFixed(size), all = [], mask = MASKS[said.mask];
	let byte = 0, bits = 0, up = true;

	for (let right = size - 1; right > 0; right -= 2, up = !up) {
		if (right === 6)
			right--;

		for (let row = 0; row < size; row++)
			for (let x = right; x > right - 2; x--) {
				const y = up ? size - 1 - row : row;

				if (fixed(x, y))
					continue;

				byte = byte << 1 | get(x, y) ^ (mask(x, y) ? 0 : 1);

				if (++bits === 8) {
					all.push(byte);
					byte = bits = 0;
				}
			}
	}

	const version = (size - 17) / 4, redundant = LEVELS[said.level][0][version - 1], count = LEVELS[said.level][1][version - 1];
	const shorter = count - all.length % count, length = Math.floor(all.length / count) - redundant, blocks = [];
	let next = 0;

	for (let each = 0; each < count; each++)
		blocks.push([]);

	for (let at = 0; at <= length; at++)
		blocks.forEach(function(block, each) {
			if (at < length || each >= shorter)
				block.push(all[next++]);
		});

	for (let at = 0; at < redundant; at++)
		blocks.forEach(function(block) { block.push(all[next++]); });

	if (!blocks.every(function(block) { return correct(block, redundant); }))
		return null;

	const data = [].concat.apply([], blocks.map(function(block) { return block.slice(0, block.length - redundant); }));
	const bytes = [];
	let place = 0;
	const take = function(wanted) {
		let number = 0;

		for (; wanted > 0; wanted--, place++)
			number = number << 1 | (data[place >> 3] >> 7 - (place & 7) & 1);

		return number;
	};

	while (data.length * 8 - place >= 12) {
		const mode = take(4);

		if (mode === 7)
			take(8);
		else if (mode === 4)
			for (let left = take(version < 10 ? 8 : 16); left > 0 && place < data.length * 8; left--)
				bytes.push(take(8));
		else
			break;
	}

	return bytes.length ? new TextDecoder().decode(new Uint8Array(bytes)) : null;
}

/* Which pixels are dark: darker than those around, or than all of them where `reach` is 0. */
function darkOf(image, reach) {
	const width = image.width, height = image.height, sums = new Float64Array((width + 1) * (height + 1));
	const grey = new Uint8Array(width * height), dark = new Uint8Array(width * height);
	let least = 255, most = 0;

	for (let y = 0, at = 0; y < height; y++)
		for (let x = 0, row = 0; x < width; x++, at++) {
			grey[at] = (image.data[at * 4] * 3 + image.data[at * 4 + 1] * 6 + image.data[at * 4 + 2]) / 10;
			row += grey[at];
			sums[(y + 1) * (width + 1) + x + 1] = sums[y * (width + 1) + x + 1] + row;
			least = Math.min(least, grey[at]);
			most = Math.max(most, grey[at]);
		}

	for (let y = 0, at = 0; y < height; y++)
		for (let x = 0; x < width; x++, at++) {
			if (!reach) {
				dark[at] = grey[at] * 2 < least + most ? 1 : 0;
				continue;
			}

			const left = Math.max(0, x - reach), right = Math.min(width, x + reach + 1);
			const top = Math.max(0, y - reach) * (width + 1), bottom = Math.min(height, y + reach + 1) * (width + 1);
			const mean = (sums[bottom + right] - sums[bottom + left] - sums[top + right] + sums[top + left]) / ((right - left) * (bottom - top) / (width + 1));

			dark[at] = grey[at] < mean * 0.94 ? 1 : 0;
		}

	return function(x, y) {
		return x < 0 || y < 0 || x >= width || y >= height ? 0 : dark[Math.floor(y) * width + Math.floor(x)];
	};
}

/* Whether five runs are those of a finder: 1, 1, 3, 1, 1. */
function isFinder(runs) {
	const unit = runs.reduce(function(sum, each) { return sum + each; }, 0) / 7;

	return unit >= 1 && runs.every(function(each, at) {
		return at === 2 ? Math.abs(each - 3 * unit) < 1.5 * unit : Math.abs(each - unit) < 0.7 * unit;
	});
}

/* The runs of a finder along a line through its middle, the middle's distance from there, and its width; null if it is none. */
function across(dark, x, y, dx, dy, max) {
	const walk = function(sign) {
		const runs = [ 0, 0, 0 ];
		let at = sign > 0 ? 0 : 1;

		for (let each = 0; each < 3; each++)
			for (; dark(x + sign * at * dx, y + sign * at * dy) === 1 - each % 2 && runs[each] < max; at++)
				runs[each]++;

		return runs;
	};
	const ahead = walk(1), behind = walk(-1);
	const runs = [ behind[2], behind[1], behind[0] + ahead[0], ahead[1], ahead[2] ];

	return isFinder(runs) ? { off: (ahead[0] - 1 - behind[0]) / 2, width: runs[0] + runs[1] + runs[2] + runs[3] + runs[4] } : null;
}

function finders(dark, width, height) {
	const found = [];

	for (let y = 0; y < height; y += height > 400 ? 2 : 1) {
		const ends = [];

		for (let x = 1; x <= width; x++)
			if (x === width || dark(x, y) !== dark(x - 1, y))
				ends.push(x);

		for (let at = 5; at < ends.length; at++) {
			const runs = [ 4, 3, 2, 1, 0 ].map(function(back) { return ends[at - back] - ends[at - back - 1]; });

			if (!dark(ends[at] - 1, y) || !isFinder(runs))
				continue;

			const x = ends[at - 2] - runs[2] / 2, down = across(dark, x, y, 0, 1, runs[2] * 2);
			const side = down && across(dark, x, y + down.off, 1, 0, runs[2] * 2);

			if (!side)
				continue;

			const finder = {
				x: x + side.off + 0.5, y: y + down.off + 0.5, width: (down.width + side.width) / 2, wide: side.width, high: down.width, seen: 1
			};
			const same = found.filter(function(other) { return Math.hypot(other.x - finder.x, other.y - finder.y) < other.width / 3; })[0];

			if (same) {
				[ 'x', 'y', 'width', 'wide', 'high' ].forEach(function(what) {
					same[what] = (same[what] * same.seen + finder[what]) / (same.seen + 1);
				});
				same.seen++;
			}
			else {
				found.push(finder);
			}
		}
	}

	found.sort(function(a, b) { return b.seen - a.seen; });

	return found.filter(function(each) { return each.seen * 5 >= found[0].seen; }).slice(0, FINDERS_MAX);
}

/* Three finders each that may be one code, the best first: corner, right of it, below it. */
function triples(found) {
	const all = [], most = found.length ? found[0].seen : 0;

	found.forEach(function(corner) {
		found.forEach(function(right) {
			found.forEach(function(below) {
				const ax = right.x - corner.x, ay = right.y - corner.y, bx = below.x - corner.x, by = below.y - corner.y;
				const a = Math.hypot(ax, ay), b = Math.hypot(bx, by), turn = ax * by - ay * bx;

				/* As seen from the front. */
				if (turn <= 0 || !a || !b)
					return;

				const widths = [ corner.width, right.width, below.width ];
				const score = Math.abs(ax * bx + ay * by) / (a * b) + Math.abs(a - b) / Math.max(a, b) +
					(Math.max.apply(null, widths) - Math.min.apply(null, widths)) / corner.width +
					0.6 * (1 - Math.min(corner.seen, right.seen, below.seen) / most);

				if (score < 1.6 && Math.min(a, b) > corner.width * 1.4)
					all.push({ score: score, corner: corner, right: right, below: below, a: a, b: b });
			});
		});
	});

	return all.sort(function(a, b) { return a.score - b.score; }).slice(0, TRIPLES_MAX);
}

/* Where each place of the square is in the picture, by four places of which both are known (a projection). */
function projection(known) {
	const rows = [];

	known.forEach(function(each) {
		const u = each[0], v = each[1], x = each[2], y = each[3];

		rows.push([ u, v, 1, 0, 0, 0, -u * x, -v * x, x ], [ 0, 0, 0, u, v, 1, -u * y, -v * y, y ]);
	});

	for (let at = 0; at < 8; at++) {
		let pivot = at;

		for (let row = at; row < 8; row++)
			if (Math.abs(rows[row][at]) > Math.abs(rows[pivot][at]))
				pivot = row;

		const line = rows[pivot];

		rows[pivot] = rows[at];
		rows[at] = line.map(function(each) { return each / line[at]; });

		for (let row = 0; row < 8; row++)
			if (row !== at)
				rows[row] = rows[row].map(function(each, column) { return each - rows[row][at] * rows[at][column]; });
	}

	const p = rows.map(function(row) { return row[8]; });

	return function(u, v) {
		const w = p[6] * u + p[7] * v + 1;

		return [ (p[0] * u + p[1] * v + p[2]) / w, (p[3] * u + p[4] * v + p[5]) / w ];
	};
}

/* The alignment pattern near the fourth corner, where `place` says it is or not far from there, by a mask of 5 by 5 modules; null if
   nothing is like it. */
function alignment(dark, place, size) {
	let best = null, most = 20.5;

	for (let du = -6; du <= 6; du += 0.25)
		for (let dv = -6; dv <= 6; dv += 0.25) {
			const at = place(size - 6.5 + du, size - 6.5 + dv), u = place(size - 5.5 + du, size - 6.5 + dv);
			const v = place(size - 6.5 + du, size - 5.5 + dv);
			let score = -Math.hypot(du, dv) / 16;

			for (let a = -2; a <= 2; a++)
				for (let b = -2; b <= 2; b++)
					score += dark(at[0] + a * (u[0] - at[0]) + b * (v[0] - at[0]), at[1] + a * (u[1] - at[1]) + b * (v[1] - at[1])) ===
						(Math.max(Math.abs(a), Math.abs(b)) === 1 ? 0 : 1) ? 1 : 0;

			if (score > most) {
				most = score;
				best = at;
			}
		}

	return best;
}

function readThree(dark, three) {
	const unit = [ three.corner, three.right, three.below ].map(function(each) { return each.width / 7; });
	/* What is measured along rows and columns is too wide where the code is turned. */
	const turn = Math.abs(three.right.x - three.corner.x) / three.a, lean = Math.max(turn, Math.sqrt(Math.max(0, 1 - turn * turn)));
	const guess = (three.a + three.b) / 2 / ((unit[0] + unit[1] + unit[2]) / 3 * lean) + 7, near = Math.round((guess - 17) / 4);
	const tries = [ near, near - 1, near + 1, near - 2, near + 2 ].filter(function(version) { return version >= 1 && version <= 40; });
	/* How far away each finder is, by its width; and by that where the fourth corner is. */
	const nearness = function(other) {
		const wide = three.corner.wide / other.wide, high = three.corner.high / other.high;

		/* What leans back shrinks twice in the one direction. */
		return Math.abs(Math.log(wide)) < Math.abs(Math.log(high)) ? wide : high;
	};
	const right = nearness(three.right), below = nearness(three.below);
	const fourth = function(right, below) {
		return [ 'x', 'y' ].map(function(axis) {
			return (right * three.right[axis] + below * three.below[axis] - three.corner[axis]) / (right + below - 1);
		});
	};

	if (right + below < 1.2)
		return null;

	for (let each = 0; each < tries.length; each++) {
		const size = tries[each] * 4 + 17;
		const put = function(at, found) {
			return projection([
				[ 3.5, 3.5, three.corner.x, three.corner.y ], [ size - 3.5, 3.5, three.right.x, three.right.y ],
				[ 3.5, size - 3.5, three.below.x, three.below.y ], [ at, at ].concat(found)
			]);
		};
		const places = [ put(size - 3.5, fourth(right, below)), put(size - 3.5, fourth(1, 1)) ];

		if (size > 21)
			places.slice().reverse().forEach(function(place) {
				const found = alignment(dark, place, size);

				if (found)
					places.unshift(put(size - 6.5, found));
			});

		for (let place = 0; place < places.length; place++) {
			const text = decode(function(x, y) {
				const at = places[place](x + 0.5, y + 0.5);

				return dark(at[0], at[1]);
			}, size);

			if (text !== null)
				return text;
		}
	}

	return null;
}

return baseclass.extend({
	/* The text of a QR code in a picture (an ImageData); null if none can be read. */
	read: function(image) {
		const larger = Math.max(image.width, image.height), reaches = [ Math.round(larger / 16), 0, Math.round(larger / 6) ];

		for (let each = 0; each < reaches.length; each++) {
			const dark = darkOf(image, reaches[each]), all = triples(finders(dark, image.width, image.height));

			for (let three = 0; three < all.length; three++) {
				const text = readThree(dark, all[three]);

				if (text !== null)
					return text;
			}
		}

		return null;
	}
});
