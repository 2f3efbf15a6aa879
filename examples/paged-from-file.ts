// One GiB of memory that lies in a file: user faults bring in what is touched, and 8 MiB of frames are enough.
import { closeSync, ftruncateSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Arena, createPageOps, initMm, Sync, UffdFeature, UffdMode, Userfaultfd } from 'faultline/mm';

const [PAGE, GIB, FRAMES] = [4096, 2 ** 30, 2048];
const folder = mkdtempSync(join(tmpdir(), 'paged-'));
const file = openSync(join(folder, 'memory'), 'w+');
ftruncateSync(file, GIB);
// Every 101st page of the file holds its own number; the others are holes.
for (let page = 0; page < GIB / PAGE; page += 101) writeSync(file, Int32Array.of(page), 0, 4, page * PAGE);

const arena = Arena.create({ frames: FRAMES, heapBytes: 8 << 20, shared: false });
const core = initMm(new Sync(arena), { pageOps: createPageOps(arena.memory, false) });
const mm = core.createMm({ limitPages: FRAMES / 2 });
const start = core.mmap.map(mm, GIB);

// With UFFD_FEATURE_SIGBUS a hole is an exception in the thread that touches it, and the handler runs right there.
const userfault = Userfaultfd.create(core, mm);
userfault.api(UffdFeature.Sigbus);
userfault.register(start, GIB, UffdMode.Missing);
const buffer = new Uint8Array(PAGE);
const resident: number[] = [];
core.access.onSigbus((_mm, address) => {
  const page = address - (address % PAGE);
  // The oldest page makes room: it is clean, so the file has it still.
  if (resident.length === FRAMES / 4) core.madvise.advise(mm, resident.shift()!, PAGE, 'dontneed');
  readSync(file, buffer, 0, PAGE, page - start);
  resident.push(page);
  return core.mfill.copy(userfault.ctx, page, buffer, PAGE) === 0;
});

let wrong = 0;
for (let page = 0; page < GIB / PAGE; page += 101) {
  if (core.access.read32(mm, start + page * PAGE) !== page) wrong++;
  if (page % 1010 === 0 && core.access.read32(mm, start + (page + 1) * PAGE) !== 0) wrong++;
}
console.log(
  `wrong: ${wrong}, most frames at once: ${core.memcgFiles.peak(core.layout.mm.memcg.get(mm)) / PAGE}`,
);
closeSync(file);
rmSync(folder, { recursive: true });
