import { describe, expect, test } from 'vitest';
import { assemble } from './assemble.ts';
import { FLUSH_NAMES, FlushList, type FlushListPtr } from './flush-list.ts';
import { Access, Exit, Request } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, PTE, RAM_BASE, TestTables } from './testing.ts';
import { AT } from './vcpu.ts';

const module = compileInterpreter(false);
const { V, R, W, X, A, D } = PTE;
/** The list lies in a page that no program uses. */
const LIST_PAGE = 40;

/** A flat machine that notes which pages are looked up, and how; some of them lie in another page's frame. */
function watched(source: string, frames: Record<number, number> = {}) {
  const asked: string[] = [];
  const m: FlatMachine = new FlatMachine({
    module,
    ports: inner => ({
      ...inner,
      resolve(vcpu, gfn, access) {
        asked.push(
          `${access === Access.Exec ? 'x' : access === Access.Write ? 'w' : 'r'}${gfn - RAM_BASE / 4096}`,
        );
        return inner.resolve(
          vcpu,
          (frames[gfn - RAM_BASE / 4096] ?? gfn - RAM_BASE / 4096) + RAM_BASE / 4096,
          access,
        );
      },
    }),
  });
  m.program(source);
  const list = new FlushList(m.arena.words);
  const at = (m.byte(RAM_BASE) / 4 + LIST_PAGE * 1024) as FlushListPtr;
  list.join(at, m.vcpu);
  return {
    m,
    /** Asks for a flush of some of the machine's pages. */
    flush(...pages: number[]) {
      for (const page of pages) list.add(at, m.arena.firstFrame + page);
      m.cpu.vcpu.requests.or(m.vcpu, Request.FlushPages);
    },
    /** Runs to the next ecall; what was looked up meanwhile. */
    run(): string[] {
      expect(m.run()).toBe(Exit.Sbi);
      expect(m.cpu.vcpu.requests.load(m.vcpu)).toBe(0);
      return asked.splice(0);
    },
  };
}

describe('J-7: a flush that names pages drops their translations', () => {
  const LOOP = 'again: ld a1, 0(a0)\nsd a1, 0(a0)\nld a3, 0(a2)\nsd a3, 0(a2)\necall\nj again';

  function twoPages() {
    const w = watched(LOOP);
    w.m.setX(10, BigInt(RAM_BASE + 0x9000));
    w.m.setX(12, BigInt(RAM_BASE + 0xa000));
    expect(w.run()).toEqual(['x0', 'r9', 'w9', 'r10', 'w10']);
    expect(w.run()).toEqual([]);
    return w;
  }

  test('of reading and writing, and leaves those of other pages', () => {
    const w = twoPages();
    w.flush(9);
    expect(w.run()).toEqual(['r9', 'w9']);
    w.flush(11);
    expect(w.run()).toEqual([]);
    w.flush(10, 9, 12);
    expect(w.run()).toEqual(['r9', 'w9', 'r10', 'w10']);
  });

  test('all of them when more are named than the list holds, or there is no list', () => {
    const w = twoPages();
    w.flush(...new Array<number>(FLUSH_NAMES - 1).fill(11));
    expect(w.run()).toEqual([]);
    w.flush(...new Array<number>(FLUSH_NAMES).fill(11));
    expect(w.run()).toEqual(['x0', 'r9', 'w9', 'r10', 'w10']);
    w.m.cpu.vcpu.flushList.store(w.m.vcpu, 0 as FlushListPtr);
    w.flush();
    expect(w.run()).toEqual(['x0', 'r9', 'w9', 'r10', 'w10']);
  });

  test('names that a whole flush has served are not served again', () => {
    const w = twoPages();
    w.flush(9);
    w.m.cpu.vcpu.requests.or(w.m.vcpu, Request.FlushTlb);
    expect(w.run()).toEqual(['x0', 'r9', 'w9', 'r10', 'w10']);
    w.flush();
    expect(w.run()).toEqual([]);
  });

  test('of page tables, and of what the guest flushed itself', () => {
    const w = watched('again: ld a1, 0(a0)\nsfence.vma\necall\nj again');
    const tables = new TestTables(w.m);
    tables.map(0x1000n, RAM_BASE, V | R | X | A);
    tables.map(0x2000n, RAM_BASE + 0x9000, V | R | W | A | D);
    w.m.setField(AT.satp, tables.satp);
    w.m.setField(AT.pc, 0x1000n);
    w.m.setX(10, 0x2000n);
    w.run();
    expect(w.run()).toEqual([]);
    const root = tables.root / 4096 - RAM_BASE / 4096;
    w.flush(root);
    expect(w.run()).toEqual([`r${root}`]);
    w.flush(9);
    expect(w.run()).toEqual(['r9']);
    expect(w.run()).toEqual([]);
  });

  test('of a frame that two pages have: of both', () => {
    const w = watched('again: ld a1, 0(a0)\nld a1, 0(a2)\nsfence.vma\necall\nj again', {
      9: 5,
      10: 5,
    });
    w.m.setX(10, BigInt(RAM_BASE + 0x9000));
    w.m.setX(12, BigInt(RAM_BASE + 0xa000));
    expect(w.run()).toEqual(['x0', 'r9', 'r10']);
    w.flush(5);
    expect(w.run()).toEqual(['r9', 'r10']);
  });

  test('of a page that has moved to another frame: of the one that it is in', () => {
    const moved: Record<number, number> = { 9: 5 };
    const w = watched('ld a1, 0(a0)\necall\nagain: sd a1, 0(a0)\nsfence.vma\necall\nj again', moved);
    w.m.setX(10, BigInt(RAM_BASE + 0x9000));
    w.run();
    moved[9] = 6;
    expect(w.run()).toEqual(['w9']);
    w.flush(5);
    expect(w.run()).toEqual([]);
    w.flush(6);
    expect(w.run()).toEqual(['w9']);
  });
});

test('J-10: a flush ends the reservation if it names its frame, and else leaves it', () => {
  const outcome = (page: number) => {
    // Between the two the host asks; the flush is served when the vCPU goes on.
    const w = watched('lr.d a1, (a0)\necall\nsc.d a2, a1, (a0)\necall');
    w.m.setX(10, BigInt(RAM_BASE + 0x9000));
    w.run();
    w.flush(page);
    w.run();
    return w.m.x(12);
  };
  expect([outcome(8), outcome(9)]).toEqual([0n, 1n]);
});

describe('J-8: decoded pages', () => {
  const patched = (m: FlatMachine) => m.poke(RAM_BASE, assemble('addi a0, a0, 40', RAM_BASE));

  test('of a zapped frame are not executed again: the drop before the flush tells of them', () => {
    const w = watched('again: addi a0, a0, 1\necall\nj again');
    w.run();
    patched(w.m);
    w.m.cpu.dropCode(w.m.code, w.m.arena.firstFrame);
    w.flush(0);
    w.run();
    expect(w.m.x(10)).toBe(41n);
  });

  test('are made only of frames that are mapped now, and not of one whose flush is still to be asked for', () => {
    const w = watched('again: addi a0, a0, 1\necall\nj again');
    expect(w.run()).toEqual(['x0']);
    w.m.cpu.dropCode(w.m.code, w.m.arena.firstFrame);
    expect(w.run()).toEqual(['x0']);
  });

  test('that appeared after the drop go with the flush that names their frame, not with others', () => {
    for (const page of [0, 1]) {
      const w = watched('again: addi a0, a0, 1\necall\nj again');
      // The frame became code just now, and requests were not tested since.
      w.run();
      w.m.arena.words[w.m.vcpu + AT.codeAdded] = w.m.arena.firstFrame;
      patched(w.m);
      w.flush(page);
      w.run();
      expect(w.m.x(10)).toBe(page === 0 ? 41n : 2n);
    }
  });
});
