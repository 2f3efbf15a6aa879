import { XXH_PRIMES } from './page-ops-hash.ts';

// XXH64 with seed 0 of input whose length is a multiple of 32, as the specification words it. BigInt
// here, because this twin is read and compared, not hurried.

const MASK = (1n << 64n) - 1n;
const [P1, P2, P3, P4] = XXH_PRIMES.map(([lo, hi]) => (BigInt(hi) << 32n) | BigInt(lo)) as [
  bigint,
  bigint,
  bigint,
  bigint,
];

const mul = (a: bigint, b: bigint): bigint => (a * b) & MASK;
const rotl = (x: bigint, by: bigint): bigint => ((x << by) | (x >> (64n - by))) & MASK;
const round = (acc: bigint, input: bigint): bigint => mul(rotl((acc + mul(input, P2)) & MASK, 31n), P1);

/** The hash as two signed words, low first. */
export function hashPage(page: Uint8Array): [number, number] {
  const lanes = [(P1 + P2) & MASK, P2, 0n, (MASK + 1n - P1) & MASK];
  const word = (at: number): bigint => {
    let value = 0n;
    for (let i = 7; i >= 0; i--) value = (value << 8n) | BigInt(page[at + i] as number);
    return value;
  };
  for (let at = 0; at < page.length; at += 32) {
    for (let i = 0; i < 4; i++) lanes[i] = round(lanes[i] as bigint, word(at + i * 8));
  }
  const [a, b, c, d] = lanes as [bigint, bigint, bigint, bigint];
  let hash = (rotl(a, 1n) + rotl(b, 7n) + rotl(c, 12n) + rotl(d, 18n)) & MASK;
  for (const lane of lanes) hash = (mul(hash ^ round(0n, lane), P1) + P4) & MASK;
  hash = (hash + BigInt(page.length)) & MASK;
  hash = mul(hash ^ (hash >> 33n), P2);
  hash = mul(hash ^ (hash >> 29n), P3);
  hash ^= hash >> 32n;
  return [Number(hash & 0xffffffffn) | 0, Number(hash >> 32n) | 0];
}
