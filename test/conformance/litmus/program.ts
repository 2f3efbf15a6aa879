import { assemble } from '../../../src/cpu/assemble.ts';
import { elf } from '../elf.ts';
import type { Litmus } from './tests.ts';

// A litmus test as a bare program. Each hart goes through a batch of instances, side by side in memory, with no
// word between them but at the batch's ends; then the first counts the outcomes, and all begin again.
//
//   instance   x at 0, y at 64, z at 128; from 192 on, 16 bytes of each thread for t0 and t1

const BASE = 0x8000_0000;
const HART_BYTES = 0x2000;
const BARRIER = 0x8010_0000;
const COUNTERS = BARRIER + 4096;
const INSTANCES = 0x8020_0000;
/** Behind the barrier: how many instances each hart has before it. */
const PACE = 128;
const STRIDE = 256;
const RESULTS = 192;
const BATCH = 2048;
export const COUNTER_BYTES = 8;

const call = (ext: number, fid: number): string => `li a7, ${ext}\nli a6, ${fid}\necall`;

/** How many instances a program for `runs` runs. */
export const rounded = (runs: number): number => Math.ceil(runs / BATCH) * BATCH;

/** A program that counts the outcomes of so many instances, and prints the counters' bytes. */
export function litmusProgram(test: Litmus, runs: number): Uint8Array {
  const segments = test.threads.map((_, hart) => {
    const address = BASE + hart * HART_BYTES;
    const words = assemble(hartSource(test, hart, rounded(runs) / BATCH), address);
    return { address, bytes: new Uint8Array(words.buffer), flags: 'rx' as const };
  });
  return elf(BASE, segments);
}

function hartSource(test: Litmus, hart: number, batches: number): string {
  const harts = test.threads.length;
  return `
    ${hart === 0 ? startOthers(harts) : ''}
    li s2, ${INSTANCES}
    li s3, ${batches}
    li s4, ${BARRIER}
    li s6, 0
    li s7, ${COUNTERS}
    li a2, 1
    li a3, 2
    batch:
    li s1, ${BATCH}
    sd s1, ${PACE + 64 * hart}(s4)
    ${barrier('begin', harts)}
    mv a0, s2
    instance:
    ${keepPace(hart, harts)}
    ${test.threads[hart]!.join('\n')}
    sd t0, ${RESULTS + 16 * hart}(a0)
    sd t1, ${RESULTS + 16 * hart + 8}(a0)
    addi a0, a0, ${STRIDE}
    addi s1, s1, -1
    bnez s1, instance
    ${barrier('end', harts)}
    ${hart === 0 ? count(test) : ''}
    addi s3, s3, -1
    bnez s3, batch
    ${hart === 0 ? report(test) : call(0x48534d, 1)}
    stay: wfi
    j stay`;
}

const startOthers = (harts: number): string =>
  Array.from({ length: harts - 1 }, (_, i) => {
    const address = BASE + (i + 1) * HART_BYTES;
    return `li a0, ${i + 1}\nli a1, ${address}\nli a2, 0\n${call(0x48534d, 0)}`;
  }).join('\n');

/** All harts meet: s6 counts how often. */
const barrier = (name: string, harts: number): string => `
    fence 0x33
    addi s6, s6, 1
    li t5, 1
    amoadd.d t5, t5, (s4)
    addi t5, t5, ${1 - harts}
    bnez t5, wait.${name}
    sd x0, 0(s4)
    fence 0x33
    sd s6, 8(s4)
    wait.${name}: ld t5, 8(s4)
    blt t5, s6, wait.${name}
    fence 0x33`;

/** Every eight instances: waits for a hart that is behind, but not for long, as its thread may not run now. */
const keepPace = (hart: number, harts: number): string => `
    andi t5, s1, 7
    bnez t5, go
    sd s1, ${PACE + 64 * hart}(s4)
    li t4, 2000
    behind: ld t6, ${PACE + 64 * ((hart + 1) % harts)}(s4)
    addi t4, t4, -1
    beqz t4, go
    blt s1, t6, behind
    go: nop`;

/** Adds the batch's outcomes to the counters, and clears the locations. Two bits for each value observed. */
function count(test: Litmus): string {
  const values = test.observed.map(
    (what, i) => `ld t0, ${placeOf(what)}(a0)\nslli t0, t0, ${2 * i}\nadd t1, t1, t0`,
  );
  return `
    mv a0, s2
    li s1, ${BATCH}
    outcome:
    li t1, 0
    ${values.join('\n')}
    slli t1, t1, 3
    add t1, t1, s7
    ld t0, 0(t1)
    addi t0, t0, 1
    sd t0, 0(t1)
    sd x0, 0(a0)
    sd x0, 64(a0)
    sd x0, 128(a0)
    addi a0, a0, ${STRIDE}
    addi s1, s1, -1
    bnez s1, outcome`;
}

function placeOf(what: string): number {
  const [thread, register] = what.split(':');
  if (register === undefined) return 64 * 'xyz'.indexOf(what);
  return RESULTS + 16 * Number(thread) + 8 * Number(register.slice(1));
}

const report = (test: Litmus): string => `
    li a0, ${COUNTER_BYTES * 4 ** test.observed.length}
    li a1, ${COUNTERS}
    li a2, 0
    ${call(0x4442434e, 0)}
    li a0, 0
    li a1, 0
    ${call(0x53525354, 0)}`;
