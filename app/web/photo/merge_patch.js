// JSON merge patch (RFC 7396), from two values.

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** The merge patch that makes `next` of `old`; null stands for what goes. */
export function difference(old, next) {
  // Without a prototype: `constructor` and `__proto__` are names like any other.
  const patch = Object.create(null);
  for (const name of Object.keys(old)) if (!Object.hasOwn(next, name)) patch[name] = null;
  for (const [name, value] of Object.entries(next)) {
    const before = Object.hasOwn(old, name) ? old[name] : undefined;
    if (isObject(before) && isObject(value)) {
      const inner = difference(before, value);
      if (Object.keys(inner).length) patch[name] = inner;
    } else if (JSON.stringify(before) !== JSON.stringify(value)) {
      patch[name] = value;
    }
  }
  return patch;
}
