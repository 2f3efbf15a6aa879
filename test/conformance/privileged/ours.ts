import { Exit } from '../../../src/cpu/interface.ts';
import { compileInterpreter } from '../../../src/cpu/interpreter.ts';
import { FlatMachine, RAM_BASE } from '../../../src/cpu/testing.ts';
import { AT as CPU } from '../../../src/cpu/vcpu.ts';
import { dumpOf, type PrivilegedImage } from './image.ts';
import { CENTER, FLASH, MACHINE, MAGIC, RAM_END, RECORD_BYTES, RECORDS } from './layout.ts';

// Our side: RAM where the board has it, and the tables at the flash's address.

export type OurPrivilegedResult = { dump: Uint8Array; instructions: number; failures: Map<number, string> };

const RAM_PAGES = (RAM_END - MACHINE) / 4096;
const MAX_PER_RECORD = 100_000;

export class OurSupervisor {
  readonly #module = compileInterpreter(false);

  run(image: PrivilegedImage, frame: number): OurPrivilegedResult {
    const m = this.#load(image);
    const { cpu, vcpu } = m;
    const failures = new Map<number, string>();
    const skip = (why: string) => {
      const record = Math.floor((Number(m.x(frame)) - RECORDS) / RECORD_BYTES);
      failures.set(record, why);
      m.setX(frame, BigInt(RECORDS + record * RECORD_BYTES + CENTER));
      cpu.setPc(vcpu, image.next);
      m.arena.words[vcpu + CPU.privilege] = 1;
    };
    let last = 0;
    for (;;) {
      const exit = cpu.run(vcpu, MAX_PER_RECORD);
      if (exit === Exit.Sbi && m.x(17) === BigInt(MAGIC)) break;
      const record = Number(m.x(frame));
      if (exit !== Exit.Sbi && exit !== Exit.Budget) skip(`left with exit ${exit}`);
      else if (exit === Exit.Budget && record === last) skip('does not end');
      if (exit === Exit.Budget) last = record;
    }
    const at = m.byte(RAM_BASE);
    const dump = dumpOf(m.arena.bytes.subarray(at, at + RAM_END - MACHINE));
    return { dump, instructions: cpu.instret(vcpu), failures };
  }

  #load(image: PrivilegedImage): FlatMachine {
    const flashPages = image.flash.length / 4096;
    const toRam = RAM_BASE / 4096 + RAM_PAGES - FLASH / 4096;
    const isFlash = (gfn: number) => gfn >= FLASH / 4096 && gfn < FLASH / 4096 + flashPages;
    const isRam = (gfn: number) => gfn < RAM_END / 4096;
    const m = new FlatMachine({
      pages: RAM_PAGES + flashPages,
      slots: 256,
      module: this.#module,
      ports: inner => ({
        ...inner,
        resolve: (vcpu, gfn, access) => {
          if (isFlash(gfn)) return inner.resolve(vcpu, (gfn + toRam) as typeof gfn, access);
          return isRam(gfn) ? inner.resolve(vcpu, gfn, access) : -1;
        },
      }),
    });
    m.arena.bytes.set(image.ram, m.byte(RAM_BASE));
    m.arena.bytes.set(image.flash, m.byte(RAM_END));
    m.cpu.setPc(m.vcpu, image.entry);
    return m;
  }
}
