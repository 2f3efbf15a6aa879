/** Where the engine tells of no change, a word is looked at again after this long. */
const POLL_MS = 1;

type WaitAsync = (words: Int32Array, at: number, value: number) => { async: boolean; value: unknown };

/** Resolves once the word is, or may be, another than `seen`: told by a notification where the engine can. */
export async function changed(words: Int32Array, at: number, seen: number): Promise<void> {
  const { waitAsync } = Atomics as unknown as { waitAsync?: WaitAsync };
  if (waitAsync !== undefined && words.buffer instanceof SharedArrayBuffer) {
    const result = waitAsync(words, at, seen);
    if (result.async) await result.value;
    return;
  }
  if (Atomics.load(words, at) !== seen) return;
  await new Promise(resolve => setTimeout(resolve, POLL_MS));
}
