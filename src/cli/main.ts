#!/usr/bin/env node
import { fileURLToPath } from 'node:url';
import { runScript } from '../host/node/script-cache.ts';
import { startWorker } from '../sdk/standby.ts';

// The command as it is built; from source, program.ts is what to run.

/** Whether a guest is to run that has threads of its own. */
function startsMachine([command, ...rest]: string[]): boolean {
  const flags = rest.slice(0, rest.includes('--') ? rest.indexOf('--') : rest.length);
  const isInline = flags[flags.indexOf('--runners') + 1] === '0' || flags.includes('--runners=0');
  return command === 'run' && !isInline && !['-h', '--help', '--bare'].some(flag => flags.includes(flag));
}

// Before all else: the machine's worker loads while this thread loads the program.
const worker = startsMachine(process.argv.slice(2)) ? startWorker() : undefined;
runScript(fileURLToPath(new URL('./program.cjs', import.meta.url)), worker);
