// Files of the visitor's machine, which may be changed or taken away at any time.

/** Whether `file` can still be read; a request with one that cannot fails without an answer. */
export async function canRead(file) {
  const reader = file.stream().getReader();
  try {
    await reader.read();
    return true;
  } catch {
    return false;
  } finally {
    reader.cancel().catch(() => {});
  }
}
