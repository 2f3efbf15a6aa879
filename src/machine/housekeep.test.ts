import { expect, test } from 'vitest';
import { Host } from './host.ts';

const PAGE = 4096;

test('the housekeeper merges equal pages once it is told to, and rests between its steps', () => {
  const host = Host.create({ frames: 2048, shared: false, swap: { kind: 'none' }, breaks: [] });
  const { mm } = host;
  const space = mm.createMm();
  const at = mm.mmap.map(space, 4 * PAGE);
  mm.madvise.advise(space, at, 4 * PAGE, 'mergeable');
  for (let p = 0; p < 4; p++) mm.access.write32(space, at + p * PAGE, 7);
  host.housekeep();
  expect(mm.ksm.stats().pages_scanned).toBe(0);
  mm.ksm.set('run', 1);
  mm.ksm.set('sleep_millisecs', 1_000_000);
  for (let i = 0; i < 5; i++) host.housekeep();
  expect(mm.ksm.stats().pages_scanned).toBe(4);
  const awake = Host.attach(host.share());
  awake.mm.ksm.set('sleep_millisecs', 0);
  for (let i = 0; i < 5; i++) awake.housekeep();
  expect(mm.ksm.stats()).toMatchObject({ pages_shared: 1, pages_sharing: 3 });
  mm.checkInvariants();
});
