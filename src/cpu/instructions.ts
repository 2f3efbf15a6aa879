import type { Instruction } from './instruction.ts';
import { RV64A } from './rv-a.ts';
import { RV64FD } from './rv-fd.ts';
import { FENCE_LIGHT, RV64I } from './rv-i.ts';
import { RV64M } from './rv-m.ts';
import { FAST_CSR, SYSTEM } from './rv-system.ts';

/** The instruction set. A row's place here is its number everywhere else. */
export const INSTRUCTIONS: readonly Instruction[] = [
  ...RV64I,
  ...RV64M,
  ...RV64A,
  ...RV64FD,
  ...SYSTEM,
  FENCE_LIGHT,
  ...FAST_CSR,
];

const NUMBER = new Map(INSTRUCTIONS.map((row, number) => [row.name, number]));

/** The number of the row called `name`; throws on a name that isn't there. */
export function numberOf(name: string): number {
  const number = NUMBER.get(name);
  if (number === undefined) throw new Error(`no instruction is called ${name}`);
  return number;
}
