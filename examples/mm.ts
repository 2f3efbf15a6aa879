// An address space without a guest: map, touch, fork, copy on write, and a subscriber that is told of it.
import { Arena, createPageOps, initMm, type MmuNotifierOps, Sync } from 'faultline/mm';

const PAGE = 4096;
const arena = Arena.create({ frames: 1024, heapBytes: 1 << 20, shared: false });
const core = initMm(new Sync(arena), { pageOps: createPageOps(arena.memory, arena.shared) });

// Sixteen pages of anonymous memory. Nothing is there until it is touched.
const parent = core.createMm();
const address = core.mmap.map(parent, 16 * PAGE);
core.access.read32(parent, address); // the shared zero page
core.access.write32(parent, address + PAGE, 42); // a frame of its own
console.log(`touched:\n${core.describe(parent)}`);

// Whoever keeps translations of its own hears what is about to change, and drops them.
const ops: MmuNotifierOps = {
  name: 'example',
  pins: false,
  invalidateRangeStart(_subscriber, _mm, start, end) {
    console.log(`told: pages ${start - address / PAGE} to ${end - address / PAGE - 1} change`);
    return 0;
  },
};
const subscription = core.notifiers.register(parent, core.notifiers.registerOps(ops), 0);

// A fork shares every page until one side writes.
const child = core.fork(parent);
core.access.write32(parent, address + PAGE, 43);
console.log(
  `parent ${core.access.read32(parent, address + PAGE)}, child ${core.access.read32(child, address + PAGE)}`,
);

core.notifiers.unregister(subscription);
core.exit(child);
core.exit(parent);
core.checkInvariants();
