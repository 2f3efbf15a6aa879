import { expect, test } from 'vitest';
import { EXTENSIONS } from './generate.ts';
import { runIsa } from './isa.ts';
import { findQemuUser } from './qemu-user.ts';

const qemu = findQemuUser();

test.skipIf(qemu === undefined)('random blocks leave the state that QEMU leaves', async () => {
  const lines: string[] = [];
  const print = (line: string) => lines.push(line);
  const program = qemu!.program;
  const differences = await runIsa({ seed: 7, instructions: 33_000, extensions: EXTENSIONS, program, print });
  expect(differences, lines.join('\n')).toBe(0);
});
