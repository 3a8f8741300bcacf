// How numbers and times are written. What the API says exactly, in decimal strings, is never rounded here
// unless a name says so.

/** Digits behind the point of a decimal string. */
export function digitsOf(text) {
  const point = text.indexOf(".");
  return point < 0 ? 0 : text.length - point - 1;
}

/** A decimal string in groups of three, with at least so many digits behind the point. */
export function grouped(text, digits = 0) {
  const [whole, part = ""] = text.split(".");
  const groups = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  const padded = part.padEnd(digits, "0");
  return padded ? `${groups}.${padded}` : groups;
}

/** A number rounded to so many digits behind the point, in groups of three. */
export function rounded(value, digits) {
  return Number.isFinite(value) ? grouped(value.toFixed(digits)) : "–";
}

/** A size or volume, rounded to what fits a column: 0.00012345, 1.2346, 12.3k, 4.56M. */
export function short(value) {
  const size = Math.abs(value);
  if (!Number.isFinite(size)) return "–";
  if (size >= 1e9) return `${(value / 1e9).toFixed(2)}B`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  if (size >= 100) return value.toFixed(1);
  if (size >= 1) return value.toFixed(3);
  return value === 0 ? "0" : value.toFixed(size >= 0.001 ? 5 : 8);
}

/** A size in a column: with the same digits as the others as far as it goes. */
export function size(value) {
  return value >= 1e4 ? short(value) : rounded(value, value < 1e-5 ? 8 : 5);
}

/** A change in percent, with its sign. */
export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  const text = Math.abs(share * 100).toFixed(2);
  return `${Number(text) === 0 ? "" : share > 0 ? "+" : "−"}${text} %`;
}

/** How long ago, in the largest unit that says enough. */
export function age(ms) {
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 120_000) return `${Math.round(ms / 1000)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  return `${Math.round(ms / 3_600_000)} h`;
}

/** The time of day in UTC, to the millisecond, of a time in RFC 3339. */
export function clock(text) {
  const [, whole, part = ""] = /T(\d\d:\d\d:\d\d)(?:\.(\d+))?/.exec(text) ?? [, text];
  return `${whole}.${part.padEnd(3, "0").slice(0, 3)}`;
}

/** Day and minute in UTC. */
export function minute(ms) {
  return new Date(ms).toISOString().slice(0, 16).replace("T", " ");
}
