// How long it takes until a guest with two busy harts stands still: from the call of `pause` until it has resolved.

import { Sandbox } from '../src/sdk/index.ts';
import { bar, load, median } from './lib.ts';

const PAUSES = 100;
/** The guest runs so long between two of them, at least. */
const BETWEEN_MS = 20;
const WARM_UP_MS = 5000;
const CEILING_MS = 1;

const sleep = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms));

/** Milliseconds of one pause, after which the guest has gone on. Throws if it moved meanwhile. */
async function once(vm: Sandbox): Promise<number> {
  const instret = () => vm.memory.counters().instret as number;
  const start = performance.now();
  await vm.pause();
  const ms = performance.now() - start;
  const before = instret();
  await sleep(2);
  if (instret() !== before) throw new Error('a paused guest retires instructions');
  await vm.resume();
  await sleep(BETWEEN_MS);
  if (instret() === before) throw new Error('a resumed guest retires nothing');
  return ms;
}

export async function run(): Promise<boolean> {
  const vm = await Sandbox.create('tiny', { memory: '128M', cpus: 2 });
  try {
    // Two loops that are translated, and make no system calls.
    const busy = vm.commands.run("for n in 1 2; do awk 'BEGIN { for (;;) x += 1 }' & done; wait");
    busy.catch(() => {});
    await sleep(WARM_UP_MS);
    const times: number[] = [];
    for (let i = 0; i < PAUSES; i++) times.push(await once(vm));
    times.sort((a, b) => a - b);
    const at = (share: number) => times[Math.floor(share * (PAUSES - 1))]!.toFixed(3);
    console.log(`  fastest ${at(0)} ms, nine of ten within ${at(0.9)}, worst ${at(1)}; load ${load()}`);
    return bar('median', median(times), { atMost: CEILING_MS, unit: 'ms' });
  } finally {
    await vm.kill();
  }
}
