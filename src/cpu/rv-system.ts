import type { CsrHow } from './emit.ts';
import { bits, exactly, FORMAT, type Instruction } from './instruction.ts';

// Zicsr, Zifencei and the privileged instructions: slow.ts does them all, and generated code the CSR
// accesses that are frequent: sstatus (interrupts off and on), sscratch, sepc, scause, stval.

const csr = (name: string, funct3: number): Instruction => ({
  name,
  ...bits(0x73, funct3),
  format: funct3 < 4 ? FORMAT.csr : FORMAT.csri,
});

export const SYSTEM: readonly Instruction[] = [
  csr('csrrw', 1),
  csr('csrrs', 2),
  csr('csrrc', 3),
  csr('csrrwi', 5),
  csr('csrrsi', 6),
  csr('csrrci', 7),
  { name: 'ecall', ...exactly(0x00000073), format: FORMAT.none },
  { name: 'ebreak', ...exactly(0x00100073), format: FORMAT.none },
  { name: 'sret', ...exactly(0x10200073), format: FORMAT.none },
  { name: 'wfi', ...exactly(0x10500073), format: FORMAT.none },
  { name: 'sfence.vma', match: 0x12000073, mask: 0xfe007fff, format: FORMAT.sfence },
  { name: 'fence.i', ...bits(0x0f, 1), format: FORMAT.none },
];

/** Stands in for the CSR instructions on some CSRs; the decoder picks it. Never matches a word. */
function fast(name: string, how: CsrHow, immediate: boolean): Instruction[] {
  const base = { match: 1, mask: 0, format: FORMAT.csr };
  return [
    { ...base, name: `${name}.storage`, emit: e => e.csrStorage(how, immediate) },
    { ...base, name: `${name}.status`, emit: e => e.csrStatus(how, immediate) },
  ];
}

export const FAST_CSR: readonly Instruction[] = [
  ...fast('csrrw', 'write', false),
  ...fast('csrrs', 'set', false),
  ...fast('csrrc', 'clear', false),
  ...fast('csrrwi', 'write', true),
  ...fast('csrrsi', 'set', true),
  ...fast('csrrci', 'clear', true),
];
