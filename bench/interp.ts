import { Random } from '../src/base/random.ts';
import { assemble } from '../src/cpu/assemble.ts';
import { FlatMachine, RAM_BASE } from '../src/cpu/testing.ts';

// Millions of guest instructions a second on small loops: `npm run bench -- interp`. One line each, best of five.

const LOOPS: Record<string, string> = {
  alu: `
    loop: addi t0, t0, 1
          xor t1, t1, t0
          slli t2, t1, 3
          add t1, t1, t2
          srli t3, t1, 5
          sub t4, t3, t0
          and t5, t4, t1
          bne t0, t6, loop`,
  memory: `
          li s0, 0x80010000
    loop: ld t0, 0(s0)
          add t0, t0, t1
          sd t0, 8(s0)
          lw t2, 16(s0)
          sw t2, 20(s0)
          addi t1, t1, 1
          bne t1, t6, loop`,
  calls: `
          j loop
    leaf: addi t0, t0, 1
          ret
    loop: call leaf
          call leaf
          addi t1, t1, 1
          bne t1, t6, loop`,
  multiply: `
    loop: mul t0, t1, t2
          mulhu t3, t1, t2
          addi t1, t1, 7
          add t2, t2, t3
          bne t0, t6, loop`,
  float: `
          li a0, 0x6000
          csrw sstatus, a0
          li a0, 3
          fcvt.d.l f1, a0
          fcvt.d.l f3, a0
    loop: fadd.d f2, f2, f1
          fmul.d f4, f3, f1
          fmadd.d f5, f3, f1, f4
          addi t0, t0, 1
          bne t0, t6, loop`,
};

/** A long loop of everything that integer code does, so that no branch predictor knows it by heart. */
function mixed(): string {
  const r = new Random(1);
  const x = () => `x${10 + r.below(10)}`;
  const lines: string[] = [];
  for (let i = 0; i < 200; i++) {
    const offset = r.below(500) * 4;
    const kind = r.below(10);
    if (kind < 2) lines.push(`${r.pick(['lw', 'ld', 'lbu'])} ${x()}, ${offset}(s0)`);
    else if (kind < 3) lines.push(`${r.pick(['sw', 'sd', 'sb'])} ${x()}, ${offset}(s0)`);
    else if (kind < 5)
      lines.push(
        `${r.pick(['beq', 'blt', 'bgeu'])} ${x()}, ${x()}, n${i}`,
        'nop',
        `n${i}: addi ${x()}, ${x()}, 3`,
      );
    else if (kind < 7) lines.push(`${r.pick(['addi', 'andi', 'addiw'])} ${x()}, ${x()}, ${r.below(2000)}`);
    else lines.push(`${r.pick(['add', 'sub', 'xor', 'sll', 'sltu', 'addw', 'or'])} ${x()}, ${x()}, ${x()}`);
  }
  return `li s0, 0x10000\nadd s0, s0, s1\nloop: ${lines.join('\n')}\nj loop`;
}
LOOPS.mixed = mixed();

const SLICE = 50_000;
const INSTRUCTIONS = 40_000_000;

function measure(source: string): number {
  const m = new FlatMachine();
  m.poke(RAM_BASE, assemble(source, RAM_BASE));
  m.setX(31, (1n << 63n) - 1n);
  m.setX(9, BigInt(RAM_BASE));
  let best = 0;
  for (let round = 0; round < 5; round++) {
    const start = process.cpuUsage().user;
    for (let done = 0; done < INSTRUCTIONS; done += SLICE) m.cpu.run(m.vcpu, SLICE);
    best = Math.max(best, INSTRUCTIONS / (process.cpuUsage().user - start));
  }
  return best;
}

/** Of the mixed loop: the short ones live and die by the predictor of indirect branches. */
const FLOOR = 350;

export function run(_args: string[]): boolean {
  let met = true;
  for (const [name, source] of Object.entries(LOOPS)) {
    const mips = measure(source);
    console.log(`${name.padEnd(10)} ${mips.toFixed(0).padStart(5)} MIPS`);
    if (name === 'mixed' && mips < FLOOR) met = false;
  }
  return met;
}
