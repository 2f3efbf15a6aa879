/** Ctrl-], as telnet has it. */
const ESCAPE = 0x1d;
/** Ctrl-D: what a terminal calls the end of input that is piped into it. */
const END_OF_INPUT = 0x04;

/**
 * Hands every key of this terminal on, raw; without a terminal, standard input as it comes. `left` resolves on
 * ctrl-] or, without a terminal, never. `endOfInput`: what is piped in ends as a terminal's input does.
 */
export function attachTerminal(
  onBytes: (bytes: Uint8Array) => void,
  { endOfInput = false }: { endOfInput?: boolean } = {},
): {
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
    const leaveAt = raw ? bytes.indexOf(ESCAPE) : -1;
    const typed = leaveAt < 0 ? bytes : bytes.subarray(0, leaveAt);
    if (typed.length > 0) onBytes(typed);
    if (leaveAt >= 0) leave();
  };
  const onEnd = () => onBytes(Uint8Array.of(END_OF_INPUT));
  if (raw) stdin.setRawMode(true);
  stdin.on('data', onData);
  if (!raw && endOfInput) stdin.on('end', onEnd);
  stdin.resume();
  return {
    left,
    detach() {
      stdin.off('data', onData).off('end', onEnd);
      if (raw) stdin.setRawMode(false);
      stdin.pause();
    },
  };
}
