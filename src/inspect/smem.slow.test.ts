import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../base/units.ts';
import { Swapping } from '../mm/swap/swapping-testing.ts';
import type { Ptr } from '../sync/struct.ts';
import { meminfo } from './meminfo.ts';
import { smaps } from './smaps.ts';

// Debian's smem reads a directory that is laid out like /, with our text in its /proc.

/** A process as smem wants it: its maps, its name, its command line. */
function writeProcess(proc: string, pid: number, name: string, text: string): void {
  const directory = join(proc, String(pid));
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'smaps'), text);
  writeFileSync(join(directory, 'stat'), `${pid} (${name}) S`);
  writeFileSync(join(directory, 'cmdline'), `${name}\0`);
}

test('M-3 smem makes of our smaps what the page tables say: USS, PSS, RSS and swap in KiB', ({ skip }) => {
  const world = new Swapping();
  const { mm, at } = world.map(64, 200);
  const touch = (who: Ptr<'mm'>, from: number, count: number): void => {
    for (let i = from; i < from + count; i++) world.mm.access.write8(who, at + i * PAGE_SIZE, 1);
  };
  touch(mm, 0, 30);
  world.mm.madvise.advise(mm, at, 10 * PAGE_SIZE, 'pageout');
  const child = world.mm.fork(mm);
  touch(child, 20, 5);
  const root = mkdtempSync(join(tmpdir(), 'smem-'));
  try {
    const proc = join(root, 'proc');
    writeProcess(proc, 11, 'parent', smaps(world.mm, mm));
    writeProcess(proc, 12, 'child', smaps(world.mm, child));
    writeFileSync(join(proc, 'meminfo'), meminfo(world.mm));
    const columns = ['-c', 'pid name swap uss pss rss', '-H', '-s', 'pid'];
    const found = spawnSync('smem', ['-S', root, ...columns], { encoding: 'utf8' });
    if (found.error !== undefined) return skip('not run: no smem');
    const rows = found.stdout
      .trim()
      .split('\n')
      .map(line => line.trim().split(/\s+/));
    // 10 in swap; of 20 resident, 15 are shared with the other side and 5 are each one's own.
    expect(rows).toEqual([
      ['11', 'parent', '40', '20', '50', '80'],
      ['12', 'child', '40', '20', '50', '80'],
    ]);
  } finally {
    rmSync(root, { recursive: true });
  }
});
