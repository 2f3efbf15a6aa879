import type { Code } from './code.ts';
import { I32, I64, type ModuleBuilder } from './encoder.ts';

// XXH64 (the xxHash fast digest algorithm, section "XXH64 algorithm description"), seed 0, of exactly
// one page: 128 stripes of four lanes, no tail.

const PAGE = 4096;

/** The five primes, as low and high words. */
export const XXH_PRIMES: readonly (readonly [number, number])[] = [
  [0x85ebca87, 0x9e3779b1],
  [0x27d4eb4f, 0xc2b2ae3d],
  [0x9e3779f9, 0x165667b1],
  [0xc2b2ae63, 0x85ebca77],
  [0x165667c5, 0x27d4eb2f],
];
const [P1, P2, P3, P4] = [0, 1, 2, 3];

export function defineHash(m: ModuleBuilder): void {
  const high = m.global(I32, 0);
  m.define('hash64', { params: [I32], results: [I32] }, c => {
    const lanes = [c.local(I64), c.local(I64), c.local(I64), c.local(I64)];
    const hash = c.local(I64);
    startLanes(c, lanes);
    consumePage(c, lanes);
    mergeLanes(c, lanes, hash);
    avalanche(c, hash);
    c.get(hash).i64(32).op('i64_shr_u', 'i32_wrap_i64').globalSet(high);
    c.get(hash).op('i32_wrap_i64');
  });
  m.define('hashHigh', { params: [], results: [I32] }, c => c.globalGet(high));
}

const prime = (c: Code, n: number): Code => c.i64w(XXH_PRIMES[n]![0], XXH_PRIMES[n]![1]);

/** Step 1: P1 + P2, P2, 0, -P1. */
function startLanes(c: Code, lanes: number[]): void {
  prime(c, P1);
  prime(c, P2).op('i64_add').set(lanes[0]!);
  prime(c, P2).set(lanes[1]!);
  c.i64(0).set(lanes[2]!);
  c.i64(0);
  prime(c, P1).op('i64_sub').set(lanes[3]!);
}

/** Takes the accumulator and the input from the stack, leaves round(acc, input). */
function round(c: Code): void {
  prime(c, P2).op('i64_mul', 'i64_add').i64(31).op('i64_rotl');
  prime(c, P1).op('i64_mul');
}

/** Step 2: 32 bytes a turn. Local 0 is the address. */
function consumePage(c: Code, lanes: number[]): void {
  const left = c.local(I32);
  c.i32(PAGE / 32).set(left);
  c.loop(again => {
    lanes.forEach((lane, i) => {
      c.get(lane)
        .get(0)
        .mem('i64_load', i * 8);
      round(c);
      c.set(lane);
    });
    c.get(0).i32(32).op('i32_add').set(0);
    c.get(left).i32(1).op('i32_sub').tee(left).brIf(again, true);
  });
}

/** Steps 3 and 4: converge the lanes and add the length. */
function mergeLanes(c: Code, lanes: number[], hash: number): void {
  const rotations = [1, 7, 12, 18];
  lanes.forEach((lane, i) => {
    c.get(lane).i64(rotations[i]!).op('i64_rotl');
    if (i > 0) c.op('i64_add');
  });
  c.set(hash);
  for (const lane of lanes) {
    c.get(hash).i64(0).get(lane);
    round(c);
    c.op('i64_xor');
    prime(c, P1).op('i64_mul');
    prime(c, P4).op('i64_add').set(hash);
  }
  c.get(hash).i64(PAGE).op('i64_add').set(hash);
}

/** Step 6. (Step 5 is the tail, which a page doesn't have.) */
function avalanche(c: Code, hash: number): void {
  const mix = (shift: number, p?: number) => {
    c.get(hash).get(hash).i64(shift).op('i64_shr_u', 'i64_xor');
    if (p !== undefined) prime(c, p).op('i64_mul');
    c.set(hash);
  };
  mix(33, P2);
  mix(29, P3);
  mix(32);
}
