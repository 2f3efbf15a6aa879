// Four booted guests in one Host whose equal pages are merged: how many frames do they use, against one guest's?

import { Host, Sandbox } from '../src/sdk/index.ts';

const GUESTS = 4;
const CEILING = 2.0;
const GOAL = 1.4;
const GUEST = { image: 'tiny', memory: '128M' } as const;
/** A page must look the same in two passes before it is merged; a third merges what a second one missed. */
const PASSES = 4;

const sleep = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms));

/** Frames that are neither free nor the Host's own before its first guest. */
async function framesOf(guests: number, ksm: 'off' | 'same-owner'): Promise<number> {
  const host = await Host.create({ memory: '1G', swap: 'none' });
  try {
    const { mm } = host.machineHost;
    const before = mm.pageAlloc.freeFrames;
    mm.ksm.set('pages_to_scan', 2000);
    const all = await Promise.all(
      Array.from({ length: guests }, () => Sandbox.create(GUEST.image, { ...GUEST, host, ksm })),
    );
    const start = mm.ksm.stats().full_scans;
    // What boot leaves behind is reported and given back within a few seconds.
    for (let i = 0; i < 5 || (ksm !== 'off' && mm.ksm.stats().full_scans < start + PASSES); i++)
      await sleep(1000);
    for (const vm of all) {
      const { stdout } = await vm.commands.run('echo $((6*7))');
      if (stdout !== '42\n') throw new Error(`a guest answers ${stdout}`);
    }
    const used = before - mm.pageAlloc.freeFrames;
    if (ksm !== 'off') {
      const { pages_shared, pages_sharing, pages_unshared, pages_volatile } = mm.ksm.stats();
      console.log('  ', { pages_shared, pages_sharing, pages_unshared, pages_volatile });
    }
    return used;
  } finally {
    await host.close();
  }
}

export async function run(): Promise<boolean> {
  const one = await framesOf(1, 'off');
  console.log(`  one guest alone: ${one} frames`);
  const apart = await framesOf(GUESTS, 'off');
  console.log(`  ${GUESTS} guests, nothing merged: ${apart} frames, ${(apart / one).toFixed(2)}x`);
  const alone = await framesOf(1, 'same-owner');
  console.log(`  one guest, merged within itself: ${alone} frames`);
  const merged = await framesOf(GUESTS, 'same-owner');
  const ratio = merged / one;
  const met = ratio <= CEILING;
  console.log(
    `ksm guests: ${merged} frames, ${ratio.toFixed(2)}x one guest's (${(merged / alone).toFixed(2)}x one merged within itself), floor ${CEILING}x, goal ${GOAL}x: ${met ? 'met' : 'NOT MET'}`,
  );
  return met;
}
