import { Exit } from '../../src/cpu/interface.ts';
import { compileInterpreter } from '../../src/cpu/interpreter.ts';
import { FlatMachine, RAM_BASE } from '../../src/cpu/testing.ts';
import { AT, Status } from '../../src/cpu/vcpu.ts';
import { CODE_ADDRESS, centerOf, type Image, recordOf } from './image.ts';

// Our side: the image in flat memory, in supervisor mode without translation.

export type OurResult = {
  data: Uint8Array;
  /** Retired, with the driver's. */
  instructions: number;
  /** Records whose block did not come back, and why. */
  failures: Map<number, string>;
};

/** No cause has this number. */
const NO_TRAP = -1;
/** An upper bound for one record; counted loops run six times. */
const MAX_PER_RECORD = 10_000;

export class OurCpu {
  readonly #module = compileInterpreter(false);

  run(image: Image): OurResult {
    const m = this.#load(image);
    const failures = new Map<number, string>();
    const { cpu, vcpu } = m;
    const limit = image.records * MAX_PER_RECORD;
    const skip = (why: string) => {
      const record = recordOf(Number(m.x(image.frame.base)), image);
      failures.set(record, why);
      m.setX(image.frame.base, BigInt(centerOf(record, image)));
      cpu.setPc(vcpu, image.next);
      m.arena.words[vcpu + AT.scause] = NO_TRAP;
    };
    while (cpu.instret(vcpu) < limit) {
      const exit = cpu.run(vcpu, 1 << 28);
      if (exit === Exit.Budget) continue;
      if (exit !== Exit.Sbi) skip(`left with exit ${exit}`);
      else if (m.arena.words[vcpu + AT.scause] !== NO_TRAP) skip(this.#trap(m));
      else return { data: this.#data(m, image), instructions: cpu.instret(vcpu), failures };
    }
    skip('does not end');
    return { data: this.#data(m, image), instructions: cpu.instret(vcpu), failures };
  }

  #load(image: Image): FlatMachine {
    const last = image.segments.at(-1)!;
    const pages = Math.ceil((last.address + last.bytes.length - CODE_ADDRESS) / 4096);
    const shift = (RAM_BASE - CODE_ADDRESS) / 4096;
    const m = new FlatMachine({
      pages,
      slots: pages,
      module: this.#module,
      ports: inner => ({
        ...inner,
        resolve: (vcpu, gfn, access) => inner.resolve(vcpu, (gfn + shift) as typeof gfn, access),
      }),
    });
    for (const s of image.segments) m.arena.bytes.set(s.bytes, m.byte(s.address + shift * 4096));
    m.cpu.setPc(m.vcpu, image.entry);
    const w = m.arena.words;
    w[m.vcpu + AT.sstatus] = Status.FS;
    w[m.vcpu + AT.stvec] = image.exit;
    w[m.vcpu + AT.scause] = NO_TRAP;
    return m;
  }

  #trap(m: FlatMachine): string {
    const word = (field: number) => (m.arena.words[m.vcpu + field]! >>> 0).toString(16);
    return `trapped: scause ${word(AT.scause)} sepc ${word(AT.sepc)} stval ${word(AT.stval)}`;
  }

  #data(m: FlatMachine, image: Image): Uint8Array {
    const at = m.byte(image.dataAddress + RAM_BASE - CODE_ADDRESS);
    return m.arena.bytes.slice(at, at + image.dataBytes);
  }
}
