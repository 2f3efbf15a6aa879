import { readFileSync } from 'node:fs';
import { FaultlineError } from '../base/error.ts';
import type { Sandbox } from '../sdk/sandbox.ts';

/** `host:guest`: the file arrives with its execute permission. Throws E_USAGE, E_AGENT. */
export async function addFile(vm: Sandbox, pair: string): Promise<void> {
  const colon = pair.lastIndexOf(':');
  const [from, to] = [pair.slice(0, colon), pair.slice(colon + 1)];
  if (colon <= 0 || !to.startsWith('/'))
    throw new FaultlineError('E_USAGE', `--add ${pair}`, { hint: '--add ./program:/bin/program' });
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(from);
  } catch (cause) {
    throw new FaultlineError('E_USAGE', `--add: ${from} cannot be read`, {
      cause,
      hint: '--add ./program:/bin/program',
    });
  }
  const refused = await putProgram(vm, to, bytes);
  if (refused !== undefined)
    throw new FaultlineError('E_AGENT', `--add: the guest could not write ${to}: ${refused}`);
}

/** Writes a program into the guest; why not, if it can't. */
export async function putProgram(vm: Sandbox, to: string, bytes: Uint8Array): Promise<string | undefined> {
  const done = await vm.commands.run(['/bin/sh', '-c', 'cat > "$0" && chmod 755 "$0"', to], { stdin: bytes });
  return done.exitCode === 0 ? undefined : done.stderr.trim();
}
