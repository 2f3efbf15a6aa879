import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { buildDeviceTree } from './device-tree.ts';

const hasDtc = spawnSync('dtc', ['--version']).status === 0;

test.skipIf(!hasDtc)('dtc reads the tree and has nothing to warn of', () => {
  const blob = buildDeviceTree({
    memoryBytes: 2 ** 28,
    harts: 2,
    bootargs: 'console=ttyS0',
    initrd: { start: 0x8800_0000, end: 0x8800_1000 },
    rngSeed: new Uint8Array(32).fill(7),
  });
  const { status, stdout, stderr } = spawnSync('dtc', ['-I', 'dtb', '-O', 'dts'], { input: blob });
  expect([status, stderr.toString()]).toEqual([0, '']);
  expect(stdout.toString()).toContain(
    'riscv,isa-extensions = "i\\0m\\0a\\0f\\0d\\0c\\0zicntr\\0zicsr\\0zifencei"',
  );
});
