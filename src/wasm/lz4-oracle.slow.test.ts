import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { createPageOps } from './page-ops.ts';
import { PAGE_SAMPLES } from './page-samples.ts';

// The reference tool reads our blocks and we read its: lz4's "legacy" frame is a magic number and, per
// block, a length, so a block can be handed over as it is.

const PAGE = 4096;
const MAGIC = 0x184c2102;
const present = spawnSync('lz4', ['--version']).status === 0;

const frame = (block: Uint8Array): Buffer => {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(MAGIC, 0);
  header.writeUInt32LE(block.length, 4);
  return Buffer.concat([header, block]);
};

test.skipIf(!present)('the lz4 tool decodes our blocks, and we decode the tool’s', () => {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
  const bytes = new Uint8Array(memory.buffer);
  const ops = createPageOps(memory, false);
  const random = new Random(6);
  for (const [name, fill] of Object.entries(PAGE_SAMPLES)) {
    const page = new Uint8Array(PAGE);
    for (let i = 0; i < 4; i++) {
      fill(page, random);
      bytes.set(page, 0);
      const length = ops.lz4Compress(0, PAGE, 5000, 4 * PAGE);
      const theirs = spawnSync('lz4', ['-d', '-c'], {
        input: frame(bytes.slice(PAGE, PAGE + length)),
      }).stdout;
      expect(Buffer.compare(theirs, page), name).toBe(0);

      const packed = spawnSync('lz4', ['-l', '-9', '-c'], { input: page }).stdout;
      expect(packed.readUInt32LE(0)).toBe(MAGIC);
      bytes.set(packed.subarray(8), PAGE);
      expect(ops.lz4Decompress(PAGE, packed.readUInt32LE(4), 4 * PAGE, PAGE), name).toBe(PAGE);
      expect(ops.equal(0, 4 * PAGE), name).toBe(true);
    }
  }
});
