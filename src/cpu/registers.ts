import { Csr } from './csr.ts';
import type { RegisterFile } from './instruction.ts';

const X =
  'zero ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6'.split(
    ' ',
  );
const F = (
  'ft0 ft1 ft2 ft3 ft4 ft5 ft6 ft7 fs0 fs1 fa0 fa1 fa2 fa3 fa4 fa5 fa6 fa7 ' +
  'fs2 fs3 fs4 fs5 fs6 fs7 fs8 fs9 fs10 fs11 ft8 ft9 ft10 ft11'
).split(' ');

/** A register's name in the calling convention. */
export const registerName = (file: RegisterFile, n: number): string => (file === 'x' ? X : F)[n] as string;

/** The number of a register by either of its names; -1 if it isn't one of that file. */
export function registerNumber(file: RegisterFile, name: string): number {
  const plain = /^([xf])(\d+)$/.exec(name);
  if (plain !== null) return plain[1] === file && Number(plain[2]) < 32 ? Number(plain[2]) : -1;
  if (file === 'x' && name === 'fp') return 8;
  return (file === 'x' ? X : F).indexOf(name);
}

/** Rounding modes by the number in an instruction's rm field. */
export const ROUNDING: readonly string[] = ['rne', 'rtz', 'rdn', 'rup', 'rmm', '', '', 'dyn'];

const CSR_NAMES = new Map<number, string>(Object.entries(Csr).map(([name, number]) => [number, name]));
export const csrName = (csr: number): string => CSR_NAMES.get(csr) ?? `0x${csr.toString(16)}`;
export const csrNumber = (name: string): number =>
  name in Csr ? Csr[name as keyof typeof Csr] : Number(name);
