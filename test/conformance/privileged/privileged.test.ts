import { expect, test } from 'vitest';
import { runPrivileged } from './privileged.ts';
import { findQemuSystem } from './qemu-system.ts';

test.skipIf(findQemuSystem() === undefined)('supervisor programs trap and translate as on QEMU', async () => {
  const lines: string[] = [];
  const differences = await runPrivileged({ seed: 7, instructions: 20_000, print: line => lines.push(line) });
  expect(differences, lines.join('\n')).toBe(0);
});
