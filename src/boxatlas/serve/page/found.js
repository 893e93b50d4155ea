// What can be said of detections without a page: overlaps, what one saw alone, masks.

/** Overlap (intersection over union) of two boxes [x, y, width, height]. */
export function iou(a, b) {
  const wide = Math.min(a[0] + a[2], b[0] + b[2]) - Math.max(a[0], b[0]);
  const high = Math.min(a[1] + a[3], b[1] + b[3]) - Math.max(a[1], b[1]);
  const shared = Math.max(wide, 0) * Math.max(high, 0);
  const all = a[2] * a[3] + b[2] * b[3] - shared;
  return all > 0 ? shared / all : 0;
}

/** Those of `mine` that no list of `others` has: the same class, overlapping by half. */
export function alone(mine, others, least = 0.5) {
  if (!others.length) return [];
  return mine.filter((one) => !others.some((list) =>
    list.some((two) => two.name === one.name && iou(one.bbox, two.bbox) >= least)));
}

/** Detections of an answer of the API, with class names, the surest first. */
export function named(answer) {
  const names = new Map(answer.categories.map((one) => [one.id, one.name]));
  return answer.annotations.map((one) => ({ ...one, name: names.get(one.category_id) }))
    .sort((a, b) => b.score - a.score);
}

/** A colour for a class, the same in every picture and for every detector. */
export function colour(name) {
  let hash = 2166136261;
  for (const letter of name) hash = Math.imul(hash ^ letter.codePointAt(0), 16777619) >>> 0;
  return `hsl(${hash % 360} ${70 + (hash >> 9) % 25}% ${42 + (hash >> 17) % 16}%)`;
}

/** COCO's run lengths as text -> Uint8Array of 0 and 1, column by column. */
export function unpacked(rle) {
  const [height, width] = rle.size;
  const counts = [];
  for (let at = 0; at < rle.counts.length;) {
    let value = 0, shift = 0, more = true;
    while (more) {
      const part = rle.counts.charCodeAt(at++) - 48;
      value |= (part & 31) << shift;
      more = (part & 32) !== 0;
      shift += 5;
      if (!more && part & 16) value |= -1 << shift;
    }
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  const mask = new Uint8Array(height * width);
  let at = 0, on = 0;
  for (const count of counts) {
    if (on) mask.fill(1, at, at + count);
    at += count;
    on = 1 - on;
  }
  return mask;
}
