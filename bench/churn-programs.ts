import { Random } from '../src/base/random.ts';

/** The same computation in two languages, with what it comes to. */
export type Program = { c: string; python: string; answer: string };

const WORD = 64n;
const TABLE = 16;
const ROUNDS = 200;
const hex = (n: bigint): string => `0x${n.toString(16)}`;

/** One step on a word of 64 bits: as C, as Python, and done here. */
type Step = { c: string; python: string; apply(x: bigint, table: readonly bigint[]): bigint };

const wrap = (x: bigint): bigint => BigInt.asUintN(64, x);

const STEPS: ((r: Random) => Step)[] = [
  r => {
    const by = word(r);
    return { c: `x += ${hex(by)}ul;`, python: `x = (x + ${hex(by)}) & M`, apply: x => wrap(x + by) };
  },
  r => {
    const by = word(r) | 1n;
    return { c: `x *= ${hex(by)}ul;`, python: `x = (x * ${hex(by)}) & M`, apply: x => wrap(x * by) };
  },
  r => {
    const by = BigInt(1 + r.below(63));
    return { c: `x ^= x >> ${by};`, python: `x ^= x >> ${by}`, apply: x => x ^ (x >> by) };
  },
  r => {
    const by = BigInt(1 + r.below(63));
    const rest = WORD - by;
    return {
      c: `x = x << ${by} | x >> ${rest};`,
      python: `x = ((x << ${by}) | (x >> ${rest})) & M`,
      apply: x => wrap((x << by) | (x >> rest)),
    };
  },
  () => ({
    c: `x ^= table[x % ${TABLE}];`,
    python: `x ^= table[x % ${TABLE}]`,
    apply: (x, table) => x ^ table[Number(x % BigInt(TABLE))]!,
  }),
  r => {
    const bit = 1n << BigInt(r.below(64));
    const by = BigInt(1 + r.below(1000));
    return {
      c: `if (x & ${hex(bit)}ul) x -= ${by};`,
      python: `x = (x - ${by}) & M if x & ${hex(bit)} else x`,
      apply: x => ((x & bit) === 0n ? x : wrap(x - by)),
    };
  },
];

const word = (r: Random): bigint => (BigInt(r.u32()) << 32n) | BigInt(r.u32());
const listOf = <T>(count: number, make: () => T): T[] => Array.from({ length: count }, make);

/** A program that no other seed gives: functions of random steps over a table, called in turn. */
export function makeProgram(seed: number): Program {
  const r = new Random(seed);
  const first = word(r);
  const table = listOf(TABLE, () => word(r));
  const functions = listOf(3 + r.below(10), () => listOf(3 + r.below(12), () => r.pick(STEPS)(r)));
  let x = first;
  for (let round = 0; round < ROUNDS; round++)
    for (const steps of functions) for (const step of steps) x = step.apply(x, table);
  return {
    c: inC(first, table, functions),
    python: inPython(first, table, functions),
    answer: x.toString(16),
  };
}

function inC(first: bigint, table: bigint[], functions: Step[][]): string {
  const bodies = functions.map(
    (steps, i) =>
      `static unsigned long f${i}(unsigned long x) {\n${steps.map(s => `  ${s.c}\n`).join('')}  return x;\n}\n`,
  );
  return `#include <stdio.h>
static const unsigned long table[] = {${table.map(n => `${hex(n)}ul`).join(', ')}};
${bodies.join('')}int main(void) {
  unsigned long x = ${hex(first)}ul;
  for (int i = 0; i < ${ROUNDS}; i++) {
${functions.map((_, i) => `    x = f${i}(x);\n`).join('')}  }
  printf("%lx\\n", x);
}
`;
}

function inPython(first: bigint, table: bigint[], functions: Step[][]): string {
  const bodies = functions.map(
    (steps, i) => `def f${i}(x):\n${steps.map(s => `    ${s.python}\n`).join('')}    return x\n`,
  );
  return `M = (1 << 64) - 1
table = [${table.map(hex).join(', ')}]
${bodies.join('')}x = ${hex(first)}
for i in range(${ROUNDS}):
${functions.map((_, i) => `    x = f${i}(x)\n`).join('')}print('%x' % x)
`;
}
