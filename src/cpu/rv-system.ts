import { bits, exactly, FORMAT, type Instruction } from './instruction.ts';

// Zicsr, Zifencei and the privileged instructions: none has generated semantics, slow.ts does them.

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
