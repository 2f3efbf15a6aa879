import { expect, test } from 'vitest';
import { Errno } from '../../base/errno.ts';
import { workingMinimumPages } from './memcontrol.ts';
import { ReclaimRig } from './reclaim-testing.ts';

test('a charge beyond the limit reclaims first, and usage never exceeds the limit', () => {
  const rig = new ReclaimRig();
  const memcg = rig.memcontrol.create({ max: 64 });
  for (let i = 0; i < 200; i++) rig.page(memcg, i);
  const { usage, peak, oom } = rig.layout.memcg;
  expect([peak.load(memcg), usage.load(memcg) <= 64, oom.load(memcg)]).toEqual([64, true, 0]);
  expect(rig.device.kept.size).toBe(200 - usage.load(memcg));
});

test('without swap the charge that finds nothing to reclaim fails, and says so', () => {
  const rig = new ReclaimRig({ slots: 0 });
  const memcg = rig.memcontrol.create({ max: 40 });
  for (let i = 0; i < 40; i++) rig.page(memcg, i);
  expect(rig.memcontrol.charge(memcg, 1)).toBe(false);
  const { usage, failcnt, oom } = rig.layout.memcg;
  expect([usage.load(memcg), failcnt.load(memcg), oom.load(memcg)]).toEqual([40, 1, 1]);
});

test('with swap full the pages stay, and the charge fails', () => {
  const rig = new ReclaimRig({ slots: 8 });
  const memcg = rig.memcontrol.create({ max: 40 });
  for (let i = 0; i < 48; i++) rig.page(memcg, i);
  expect(rig.memcontrol.charge(memcg, 1)).toBe(false);
  expect([rig.layout.memcg.usage.load(memcg), rig.device.kept.size]).toEqual([40, 8]);
});

test('a lowered limit takes pages away; one below the working minimum is refused', () => {
  const rig = new ReclaimRig();
  const memcg = rig.memcontrol.create({ max: 200 });
  for (let i = 0; i < 200; i++) rig.page(memcg, i);
  rig.memcontrol.setMax(memcg, 60, workingMinimumPages(1, 0));
  expect(rig.layout.memcg.usage.load(memcg)).toBeLessThanOrEqual(60);
  expect(() => rig.memcontrol.setMax(memcg, 39, workingMinimumPages(1, 0))).toThrow(Errno);
  expect(() => rig.memcontrol.create({ max: 8 })).toThrow(Errno);
});

test('a limit that cannot be reached is EBUSY', () => {
  const rig = new ReclaimRig({ slots: 0 });
  const memcg = rig.memcontrol.create({ max: 100 });
  for (let i = 0; i < 100; i++) rig.page(memcg, i);
  expect(() => rig.memcontrol.setMax(memcg, 60, 40)).toThrow('EBUSY');
  expect(rig.layout.memcg.max.load(memcg)).toBe(100);
});

test('a destroyed group leaves its record to the next', () => {
  const rig = new ReclaimRig();
  const [a, b] = [rig.memcontrol.create({ max: 100 }), rig.memcontrol.create({ max: 100 })];
  rig.memcontrol.destroy(a);
  expect(rig.memcontrol.isLive(a)).toBe(false);
  expect([rig.memcontrol.create({ max: 50 }), rig.memcontrol.first()]).toEqual([a, b]);
});
