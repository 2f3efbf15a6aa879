import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FaultlineError } from '../base/error.ts';
import { runTool } from '../host/node/run-tool.ts';

/** guest/agent lies two directories up, from the source as from the built package. */
const SOURCE = fileURLToPath(new URL('../../guest/agent/', import.meta.url));

const FLAGS = [
  '-O2 -Wall -Wextra -march=rv64gc -mabi=lp64d',
  '-static -nostdlib -ffreestanding -fno-pic -no-pie -fno-stack-protector',
  // Or it turns our own memcpy into a call of memcpy.
  '-fno-tree-loop-distribute-patterns',
  '-Wl,--build-id=none -Wl,-z,noexecstack -s',
]
  .join(' ')
  .split(' ');

const sources = (): string[] =>
  readdirSync(SOURCE)
    .filter(name => /\.[cSh]$/.test(name))
    .sort();

/** Hash of all that goes into the agent; part of an image's plan. */
export function agentSourceHash(): string {
  const hash = createHash('sha256').update(FLAGS.join(' '));
  for (const name of sources()) hash.update(`\0${name}\0`).update(readFileSync(join(SOURCE, name)));
  return hash.digest('hex');
}

/** Compiles the guest's agent: 10 KB, static, without a C library. Throws E_TOOL_MISSING, E_INTERNAL. */
export async function compileAgent(directory: string): Promise<Uint8Array<ArrayBuffer>> {
  const out = join(directory, 'agent');
  const units = sources().filter(name => !name.endsWith('.h'));
  const args = [...FLAGS, '-o', out, ...units.map(name => join(SOURCE, name))];
  const result = await runTool('riscv64-linux-gnu-gcc', args);
  if (result.code !== 0) {
    throw new FaultlineError(
      'E_INTERNAL',
      `the agent does not compile: ${result.stderr.trim().split('\n')[0]}`,
    );
  }
  return readFileSync(out);
}
