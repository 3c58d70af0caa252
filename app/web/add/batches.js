// Many files as uploads of a bearable size.

const BATCH_FILES = 200;
const BATCH_BYTES = 100e6;

/**
 * Small enough that a cut connection costs little; a larger single file is a batch of its own.
 * No batch has more bytes than `most` unless a single file has.
 */
export function inBatches(items, most = Infinity) {
  const bound = Math.min(BATCH_BYTES, most);
  const batches = [];
  let room = 0;
  for (const item of items) {
    const batch = batches.at(-1);
    if (batch && batch.length < BATCH_FILES && item.file.size <= room) {
      batch.push(item);
      room -= item.file.size;
    } else {
      batches.push([item]);
      room = bound - item.file.size;
    }
  }
  return batches;
}

export const bytesOf = (batch) => batch.reduce((sum, { file }) => sum + file.size, 0) || 1;
