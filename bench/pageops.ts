import { loadavg } from 'node:os';
import { Random } from '../src/base/random.ts';
import { createPageOps } from '../src/wasm/page-ops.ts';
import { PAGE_SAMPLES } from '../src/wasm/page-samples.ts';

// How long the operations on page contents take, in the cache, over shared memory as a Host has it.

const PAGE = 4096;
const PAGES = 64;
const SAMPLES = 40;

type Row = { name: string; p10: number; p50: number; note?: string };

/** Prints ns per page for each operation. */
export function run(): void {
  const memory = new WebAssembly.Memory({ initial: 16, maximum: 16, shared: true });
  const ops = createPageOps(memory, true);
  const bytes = new Uint8Array(memory.buffer);
  const at = (i: number) => (i % PAGES) * PAGE;
  const block = PAGES * PAGE;
  const out = block + 2 * PAGE;
  const scratch = block + 4 * PAGE;
  const rows: Row[] = [
    measure('zero', i => ops.zero(at(i))),
    measure('zero test, zero page', i => ops.isZero(at(i))),
    measure('compare, equal pages', i => ops.equal(at(i), at(i + 1))),
    measure('same-filled test, filled page', i => ops.sameFilled(at(i))),
    measure('copy', i => ops.copy(out, at(i))),
    measure('fill with a word', i => ops.fillWords(out, i, i)),
    measure('hash64', i => ops.hash64(at(i))),
  ];
  const random = new Random(1);
  for (const kind of ['zero', 'text', 'pointers', 'stretches', 'noise']) {
    for (let i = 0; i < PAGES; i++) PAGE_SAMPLES[kind]!(bytes.subarray(at(i), at(i) + PAGE), random);
    const lengths = Array.from({ length: PAGES }, (_, i) => ops.lz4Compress(at(i), block, 2 * PAGE, scratch));
    const ratio = (PAGE * PAGES) / lengths.reduce((a, b) => a + b);
    rows.push(
      measure(
        `lz4 compress, ${kind}`,
        i => ops.lz4Compress(at(i), block, 2 * PAGE, scratch),
        `ratio ${ratio.toFixed(2)}`,
      ),
    );
    const length = ops.lz4Compress(0, block, 2 * PAGE, scratch);
    rows.push(measure(`lz4 decompress, ${kind}`, () => ops.lz4Decompress(block, length, out, PAGE)));
  }
  print(rows);
}

/** ns per call over short samples; p10 is the nearest thing to a quiet machine. */
function measure(name: string, operation: (i: number) => unknown, note?: string): Row {
  const calls = 400;
  for (let i = 0; i < 2000; i++) operation(i);
  const times: number[] = [];
  for (let s = 0; s < SAMPLES; s++) {
    const start = performance.now();
    for (let i = 0; i < calls; i++) operation(i);
    times.push(((performance.now() - start) * 1e6) / calls);
  }
  times.sort((a, b) => a - b);
  const row = { name, p10: times[SAMPLES / 10]!, p50: times[SAMPLES / 2]! };
  return note === undefined ? row : { ...row, note };
}

function print(rows: Row[]): void {
  console.log(`ns per 4 KiB page (load average ${loadavg()[0]!.toFixed(2)})`);
  console.log(`${'operation'.padEnd(32)}${'p10'.padStart(8)}${'p50'.padStart(8)}`);
  for (const row of rows) {
    console.log(
      `${row.name.padEnd(32)}${row.p10.toFixed(0).padStart(8)}${row.p50.toFixed(0).padStart(8)}  ${row.note ?? ''}`,
    );
  }
}
