/** Ctrl-], as telnet has it. */
const ESCAPE = 0x1d;

/**
 * Hands every key of this terminal on, raw; without a terminal, standard input as it comes. `left` resolves on
 * ctrl-] or, without a terminal, never.
 */
export function attachTerminal(onBytes: (bytes: Uint8Array) => void): {
  left: Promise<void>;
  detach(): void;
} {
  const { stdin } = process;
  const raw = stdin.isTTY === true;
  let leave!: () => void;
  const left = new Promise<void>(resolve => {
    leave = resolve;
  });
  const onData = (bytes: Buffer) => {
    if (raw && bytes.includes(ESCAPE)) leave();
    else onBytes(bytes);
  };
  if (raw) stdin.setRawMode(true);
  stdin.on('data', onData);
  stdin.resume();
  return {
    left,
    detach() {
      stdin.off('data', onData);
      if (raw) stdin.setRawMode(false);
      stdin.pause();
    },
  };
}
