import { assemble } from '../../../src/cpu/assemble.ts';
import {
  AT,
  CENTER,
  LOG_ENTRIES,
  MACHINE,
  MAGIC,
  OUT,
  RAM_END,
  RECORD_BYTES,
  RECORDS,
  SUPERVISOR,
} from './layout.ts';

// The code around the blocks. `frame` points at the record's middle all the time, in user mode too, so the
// handler needs no sscratch. The handler logs a trap and goes on behind the instruction, except:
//
//   breakpoint       the block's end
//   ecall from user  goes on in supervisor mode
//   fetch fault      goes on at x1, where the jump came from
//   interrupt        is cleared

const FS = 0x6000;

const numbers = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, i) => from + i);

export const driver = (frame: number, records: number): string => {
  const [a, b, c] = numbers(5, 8)
    .filter(n => n !== frame)
    .map(n => `x${n}`) as [string, string, string];
  const L = `x${frame}`;
  const at = (offset: number) => `${offset - CENTER}(${L})`;
  const xs = numbers(1, 31).filter(n => n !== frame);
  const each = (registers: number[], line: (n: number) => string) => registers.map(line).join('\n');
  const end = RECORDS + records * RECORD_BYTES + CENTER;
  return `
        li ${L}, ${RECORDS + CENTER}
loop:   ld ${a}, ${at(AT.satp)}
        csrw satp, ${a}
        sfence.vma
        csrwi sie, 0
        csrci sip, 2
        li ${a}, ${FS}
        csrs sstatus, ${a}
        ${each(numbers(0, 31), n => `fld f${n}, ${at(AT.f + 8 * n)}`)}
        ld ${a}, ${at(AT.fcsr)}
        csrw fcsr, ${a}
        ${['stvec', 'sscratch', 'scause', 'stval', 'scounteren', 'sstatus']
          .map(csr => `ld ${a}, ${at(AT[csr as 'stvec'])}\n csrw ${csr}, ${a}`)
          .join('\n')}
        ld ${a}, ${at(AT.entry)}
        csrw sepc, ${a}
        sd x0, ${at(AT.traps)}
        ${each(xs, n => `ld x${n}, ${at(AT.x + 8 * n)}`)}
        sret

finish: ${OUT.map((csr, i) => `csrr ${a}, ${csr}\n sd ${a}, ${at(AT.out + 8 * i)}`).join('\n')}
        li ${a}, ${FS}
        csrs sstatus, ${a}
        csrr ${a}, fcsr
        sd ${a}, ${at(AT.fcsr)}
        ${each(numbers(0, 31), n => `fsd f${n}, ${at(AT.f + 8 * n)}`)}
        csrci sip, 2
        csrwi sie, 0
        ld ${a}, ${at(AT.saved)}
        ld ${b}, ${at(AT.saved + 8)}
        ld ${c}, ${at(AT.saved + 16)}
        ${each(xs, n => `sd x${n}, ${at(AT.x + 8 * n)}`)}
next:   li ${a}, ${RECORD_BYTES}
        add ${L}, ${L}, ${a}
        li ${a}, ${end}
        beq ${L}, ${a}, done
        j loop
done:   li a7, ${MAGIC}
        ecall
        j done

handler:
        sd ${a}, ${at(AT.saved)}
        sd ${b}, ${at(AT.saved + 8)}
        sd ${c}, ${at(AT.saved + 16)}
        csrr ${a}, scause
        li ${b}, 3
        bne ${a}, ${b}, log
        j finish
log:    ld ${b}, ${at(AT.traps)}
        addi ${c}, ${b}, 1
        sd ${c}, ${at(AT.traps)}
        li ${c}, ${LOG_ENTRIES}
        bgeu ${b}, ${c}, full
        slli ${b}, ${b}, 5
        add ${b}, ${b}, ${L}
        sd ${a}, ${AT.log - CENTER}(${b})
        csrr ${c}, sepc
        sd ${c}, ${AT.log + 8 - CENTER}(${b})
        csrr ${c}, stval
        sd ${c}, ${AT.log + 16 - CENTER}(${b})
        csrr ${c}, sstatus
        sd ${c}, ${AT.log + 24 - CENTER}(${b})
full:   blt ${a}, x0, irq
        li ${b}, 12
        beq ${a}, ${b}, fetch
        li ${b}, 1
        beq ${a}, ${b}, fetch
        csrr ${c}, sepc
        addi ${c}, ${c}, 4
        li ${b}, 8
        bne ${a}, ${b}, skip
        slli ${c}, ${c}, 32
        srli ${c}, ${c}, 32
        li ${a}, 0x100
        csrs sstatus, ${a}
skip:   csrw sepc, ${c}
back:   ld ${a}, ${at(AT.saved)}
        ld ${b}, ${at(AT.saved + 8)}
        ld ${c}, ${at(AT.saved + 16)}
        sret
fetch:  csrw sepc, x1
        j back
irq:    csrci sip, 2
        j back`;
};

const VECTORS = ['vector: j handler', 'j handler'].join('\n');

export type Supervisor = { words: Uint32Array; stvec: number; entry: number; next: number };

/** Words from SUPERVISOR on. `stvec` is good for both modes; `next` goes on to the next record. */
export const supervisor = (frame: number, records: number): Supervisor => {
  const text = driver(frame, records);
  const words = assemble(`${VECTORS}\n${text}`, SUPERVISOR);
  // The label's place is where the code from it on begins.
  const behind = assemble(`${VECTORS}\n${text.replace('next:', '.word 0\nnext:')}`, SUPERVISOR);
  const next = behind.findIndex((word, i) => word === 0 && words[i] !== 0);
  return { words, stvec: SUPERVISOR, entry: SUPERVISOR + 8, next: SUPERVISOR + 4 * next };
};

const NAME = 0x800;
const SCRATCH = 0x900;
/** A call of the debugger: opcode in a0, address of its arguments in a1. */
const SEMIHOST = '.word 0x01f01013, 0x00100073, 0x40705013';

const call = (operation: number, args: (number | string)[]): string => `
        li t0, ${MACHINE + SCRATCH}
        ${args
          .map(
            (value, i) =>
              `${typeof value === 'string' ? `mv t1, ${value}` : `li t1, ${value}`}\n sd t1, ${8 * i}(t0)`,
          )
          .join('\n')}
        li a0, ${operation}
        mv a1, t0
        ${SEMIHOST}`;

/**
 * Machine mode, for QEMU: delegates what our host does, returns from ecalls, and at the last one writes
 * everything from RECORDS to RAM_END, and the written tables before it, to the file `output`.
 */
export const machine = (tables: { address: number; bytes: number }): Uint8Array => {
  const source = `
        csrr t0, 0xf14
        beqz t0, first
park:   wfi
        j park
first:  li t0, ${MACHINE + 0x200}
        csrw 0x305, t0
        li t0, -1
        csrw 0x3b0, t0
        li t0, 0x1f
        csrw 0x3a0, t0
        li t0, 0xb1ff
        csrw 0x302, t0
        li t0, 0x222
        csrw 0x303, t0
        csrwi 0x304, 0
        csrwi 0x306, 7
        csrwi 0x30a, 0
        li t0, 0x1800
        csrc 0x300, t0
        li t0, 0x6800
        csrs 0x300, t0
        li t0, ${SUPERVISOR + 8}
        csrw 0x341, t0
        .word 0x30200073`;
  const handler = `
        csrrw t0, 0x340, t0
        csrr t0, 0x342
        addi t0, t0, -9
        bnez t0, dead
        li t0, ${MAGIC}
        beq a7, t0, dump
        csrr t0, 0x341
        addi t0, t0, 4
        csrw 0x341, t0
        csrrw t0, 0x340, t0
        .word 0x30200073
dump:   ${call(1, [MACHINE + NAME, 5, 6])}
        mv s0, a0
        ${call(5, ['s0', tables.address, tables.bytes])}
        ${call(5, ['s0', RECORDS, RAM_END - RECORDS])}
dead:   li t0, 0x100000
        li t1, 0x5555
        sw t1, 0(t0)
stay:   j stay`;
  const bytes = new Uint8Array(0x1000);
  bytes.set(new Uint8Array(assemble(source, MACHINE).buffer), 0);
  bytes.set(new Uint8Array(assemble(handler, MACHINE + 0x200).buffer), 0x200);
  bytes.set(new TextEncoder().encode('output'), NAME);
  return bytes;
};
