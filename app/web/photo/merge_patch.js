// JSON merge patch (RFC 7396), from two values.

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** The merge patch that makes `next` of `old`; null stands for what goes. */
export function difference(old, next) {
  const patch = {};
  for (const name of Object.keys(old)) if (!(name in next)) patch[name] = null;
  for (const [name, value] of Object.entries(next)) {
    if (isObject(old[name]) && isObject(value)) {
      const inner = difference(old[name], value);
      if (Object.keys(inner).length) patch[name] = inner;
    } else if (JSON.stringify(old[name]) !== JSON.stringify(value)) {
      patch[name] = value;
    }
  }
  return patch;
}
