import { assemble } from '../../../src/cpu/assemble.ts';
import { runBare } from '../../../src/sdk/bare.ts';
import { elf, type Segment } from '../elf.ts';

// What one hart does to another's translations and code, as bare programs of two harts that count what they must
// not see. Rounds are at most 2047: a round's number is an immediate.

const BASE = 0x8000_0000;
const SECOND = BASE + 0x2000;
const FLAGS = BASE + 0x10_0000;
const ROOT = BASE + 0x20_0000;
const PAGES = BASE + 0x30_0000;
const CODE = BASE + 0x40_0000;
/** Where the second hart sees one of the pages. */
const VIRTUAL = 0x4000_0000;
const ROUNDS = 2000;
/** Offsets from s1, which both have. */
const [READY, STOP, BAD, ROUND] = [0, 8, 16, 64];
const Pte = { table: 1, page: 0xc7, superpage: 0xcf } as const;

const call = (ext: number, fid: number): string => `li a7, ${ext}\nli a6, ${fid}\necall`;
const fence = (fid: number, ...range: number[]): string =>
  [2, 0, ...range].map((value, i) => `li a${i}, ${value}\n`).join('') + call(0x52464e43, fid);

/** The first hart: starts the second, waits for it, and in each round, n in s3, does `round`. */
const first = (round: string): string =>
  `
    li s1, ${FLAGS}
    li a0, 1
    li a1, ${SECOND}
    li a2, 0
    ${call(0x48534d, 0)}
    wait: ld t0, ${READY}(s1)
    beqz t0, wait
    li s3, 1
    round:
    ${round}
    addi s3, s3, 1
    li t0, ${ROUNDS}
    bne s3, t0, round
    li t0, 1
    sd t0, ${STOP}(s1)
    ld a0, ${BAD}(s1)
    snez
    ${call(0x4442434e, 2)}
    li a0, 0
    li a1, 0
    ${call(0x53525354, 0)}
    stay: wfi
    j stay`.replace('snez', 'sltu a0, x0, a0');

/** The second: says that it is there, and again and again does `look`, which goes to `bad` for what must not be. */
const second = (setup: string, look: string): string => `
    li s1, ${FLAGS}
    ${setup}
    li t0, 1
    sd t0, ${READY}(s1)
    look:
    ${look}
    ld t1, ${STOP}(s1)
    beqz t1, look
    ${call(0x48534d, 1)}
    bad: ld t2, ${BAD}(s1)
    addi t2, t2, 1
    sd t2, ${BAD}(s1)
    j look`;

/** `addi a0, x0, n` with the round's number, into t0. */
const INSTRUCTION = 'slli t0, s3, 20\naddi t0, t0, 0x513';

type Program = { readonly first: string; readonly second: string; readonly data?: readonly Segment[] };

/** The mapping moves to the next of eight pages, and the page that it was is given up once the fence has returned. */
const remap: Program = {
  first: first(`
    li t1, ${PAGES}
    andi t2, s3, 7
    slli t2, t2, 12
    add t3, t1, t2
    sd s3, 0(t3)
    srli t4, t3, 2
    addi t4, t4, ${Pte.page}
    li t5, ${ROOT + 0x2000}
    sd t4, 0(t5)
    fence 0x33
    ${fence(1, VIRTUAL, 4096)}
    li t1, ${PAGES}
    addi t2, s3, -1
    andi t2, t2, 7
    slli t2, t2, 12
    add t3, t1, t2
    li t4, -1
    sd t4, 0(t3)`),
  second: second(
    `li t0, 0x8000000000000000
     li t1, ${ROOT / 4096}
     add t0, t0, t1
     csrw satp, t0
     sfence.vma x0, x0
     li s2, ${VIRTUAL}`,
    'ld t0, 0(s2)\nblt t0, x0, bad',
  ),
  data: [{ address: ROOT, bytes: tables(), flags: 'rw' }],
};

/** All of RAM as it is, and VIRTUAL as the first of the pages. */
function tables(): Uint8Array {
  const words = new BigUint64Array(3 * 512);
  const entry = (address: number, flags: number) => BigInt((address / 4096) * 1024 + flags);
  words[BASE / 2 ** 30] = entry(BASE, Pte.superpage);
  words[VIRTUAL / 2 ** 30] = entry(ROOT + 0x1000, Pte.table);
  words[512] = entry(ROOT + 0x2000, Pte.table);
  words[1024] = entry(PAGES, Pte.page);
  return new Uint8Array(words.buffer);
}

/** The second hart's own loop is patched; once the fence has returned it must be executed as it is. */
const patch: Program = {
  first: first(`
    ${INSTRUCTION}
    li t1, ${CODE + 4}
    sw t0, 0(t1)
    fence 0x33
    ${fence(0)}
    sd s3, ${ROUND}(s1)`),
  second: `li s1, ${FLAGS}\nli t0, ${CODE}\njr t0`,
  data: [
    {
      address: CODE,
      bytes: new Uint8Array(
        assemble(
          `look: ld s2, ${ROUND}(s1)
           addi a0, x0, 0
           blt a0, s2, bad
           li t0, 1
           sd t0, ${READY}(s1)
           ld t1, ${STOP}(s1)
           beqz t1, look
           ${call(0x48534d, 1)}
           bad: ld t2, ${BAD}(s1)
           addi t2, t2, 1
           sd t2, ${BAD}(s1)
           j look`,
          CODE,
        ).buffer,
      ),
      flags: 'rx',
    },
  ],
};

/** The second hart writes code, and says so; the first executes fence.i and then it. No hart asks for another's fence. */
const write: Program = {
  first: first(`
    sd s3, ${ROUND}(s1)
    theirs: ld t0, ${ROUND + 64}(s1)
    bne t0, s3, theirs
    fence.i
    li t1, ${CODE}
    jalr ra, 0(t1)
    beq a0, s3, good
    ld t2, ${BAD}(s1)
    addi t2, t2, 1
    sd t2, ${BAD}(s1)
    good: nop`),
  second: second(
    `li s4, ${CODE}\nli s3, 0`,
    `ld t0, ${ROUND}(s1)
     beq t0, s3, same
     mv s3, t0
     ${INSTRUCTION}
     sw t0, 0(s4)
     fence 0x33
     sd s3, ${ROUND + 64}(s1)
     same: nop`,
  ),
  data: [{ address: CODE, bytes: new Uint8Array(assemble('addi a0, x0, 0\nret').buffer), flags: 'rx' }],
};

export const FENCES = { remap, patch, write } as const;

/** True if a hart saw what it must not see. `breaks`: rules to switch off. */
export async function goesWrong(program: Program, breaks: readonly string[] = []): Promise<boolean> {
  const text: number[] = [];
  const segments: Segment[] = [program.first, program.second].map((source, hart) => {
    const address = hart === 0 ? BASE : SECOND;
    return { address, bytes: new Uint8Array(assemble(source, address).buffer), flags: 'rx' };
  });
  const options = { memory: '32M', cpus: 2, runners: 2, breaks } as const;
  await runBare(
    elf(BASE, [...segments, ...(program.data ?? [])]),
    options,
    bytes => void text.push(...bytes),
  );
  if (text.length !== 1) throw new Error('the program did not say how it went');
  return text[0] !== 0;
}
