import fc from 'fast-check';
import { expect } from 'vitest';
import { Errno } from '../base/errno.ts';
import type { Ptr } from '../sync/struct.ts';
import { UserFaultSigbus } from './access.ts';
import type { MmCore } from './core.ts';
import type { Advice } from './madvise.ts';

// A random script of calls, run on the mm and on a Map from pages to words; afterwards, and after every
// step, both agree and the invariants hold.

const PAGE = 4096;
const BASE = 0x4000000;
/** Across two tables of ptes. */
export const WINDOW = 40;
const FIRST = 512 - WINDOW / 2;
export const at = (page: number): number => BASE + (FIRST + page) * PAGE;

/** `hole`: whether its entry is none, as far as the calls tell. Armed, a hole is a user fault (U-9). */
type Cell = { value: number; write: boolean; read: boolean; armed: boolean; hole: 'yes' | 'no' | 'maybe' };
const fresh = { value: 0, armed: false, hole: 'yes' } as const;
/** Pages that are mapped. Undefined value after MADV_FREE: the old one or zero. */
type Model = Map<number, Cell & { or?: number | undefined }>;

export type Op =
  | { kind: 'map' | 'unmap'; page: number; count: number; readOnly: boolean }
  | { kind: 'protect'; page: number; count: number; rights: number }
  | { kind: 'write'; page: number; value: number }
  | { kind: 'fill'; page: number; count: number; value: number }
  | { kind: 'read'; page: number }
  | { kind: 'advise'; page: number; count: number; advice: Advice }
  | { kind: 'fork' }
  | { kind: 'exit' }
  | { kind: 'reclaim'; count: number };
type Step = Op & { space: number };

const page = fc.nat(WINDOW - 1);
const length = fc.integer({ min: 1, max: 16 });
const advices: Advice[] = ['dontneed', 'free', 'cold', 'pageout', 'mergeable', 'userfault', 'nouserfault'];
const value = fc.integer({ min: 1, max: 0xffff });
const kind = <K extends Op['kind']>(...kinds: K[]) => fc.constantFrom(...kinds);
const weighted = (weight: number, arbitrary: fc.Arbitrary<Op>) => ({ weight, arbitrary });
export const op: fc.Arbitrary<Op> = fc.oneof(
  weighted(2, fc.record({ kind: kind('map', 'unmap'), page, count: length, readOnly: fc.boolean() })),
  weighted(2, fc.record({ kind: kind('protect'), page, count: length, rights: fc.nat(2) })),
  weighted(6, fc.record({ kind: kind('write'), page, value })),
  weighted(6, fc.record({ kind: kind('fill'), page, count: length, value })),
  weighted(6, fc.record({ kind: kind('read'), page })),
  weighted(3, fc.record({ kind: kind('advise'), page, count: length, advice: fc.constantFrom(...advices) })),
  weighted(2, fc.record({ kind: kind('fork') })),
  weighted(1, fc.record({ kind: kind('exit') })),
  weighted(5, fc.record({ kind: kind('reclaim'), count: fc.integer({ min: 1, max: 64 }) })),
);
export const script = fc.array(fc.tuple(op, fc.nat(3)), { minLength: 30, maxLength: 100 });

type Space = { mm: Ptr<'mm'>; model: Model; unknown: Set<number> };

/** The address spaces of a run, each with what it should hold. */
export class Run {
  readonly mm: MmCore;
  readonly spaces: Space[] = [];
  readonly hungry: boolean;

  constructor(mm: MmCore, hungry = false) {
    this.mm = mm;
    this.hungry = hungry;
    const first = mm.createMm({ limitPages: 32 });
    this.spaces.push({ mm: first, model: new Map(), unknown: new Set() });
    this.map(this.spaces[0]!, 0, WINDOW, false);
  }

  step(step: Step): void {
    const space = this.spaces[step.space % this.spaces.length]!;
    const end = 'count' in step && 'page' in step ? Math.min(WINDOW, step.page + step.count) : 0;
    switch (step.kind) {
      case 'map':
        this.map(space, step.page, end, step.readOnly);
        break;
      case 'unmap':
        this.unmap(space, step.page, end);
        break;
      case 'protect':
        this.protect(space, step.page, end, step.rights);
        break;
      case 'write':
        this.write(space, step.page, step.value);
        break;
      case 'fill':
        for (let p = step.page; p < end; p++) this.write(space, p, step.value + p);
        break;
      case 'read':
        this.read(space, step.page);
        break;
      case 'advise':
        this.advise(space, step.page, end, step.advice);
        break;
      case 'fork':
        if (this.spaces.length < 4) this.fork(space);
        break;
      case 'exit':
        if (this.spaces.length > 1) this.exit(space);
        break;
      case 'reclaim':
        this.mm.vmscan.reclaim(this.mm.layout.mm.memcg.get(space.mm), step.count);
    }
  }

  /** As `step`, where memory may run out: then what the pages of the call hold is not known any more. */
  tryStep(step: Step): boolean {
    const space = this.spaces[step.space % this.spaces.length]!;
    const first = 'page' in step ? step.page : WINDOW;
    const end = 'count' in step ? Math.min(WINDOW, first + step.count) : first + 1;
    const pages = Array.from({ length: Math.max(0, end - first) }, (_, i) => first + i);
    try {
      this.step(step);
      return true;
    } catch (error) {
      if (!(error instanceof Errno)) throw error;
      const unknown = pages.some(p => space.unknown.has(p));
      expect(unknown ? 'unknown' : error.code).toMatch(/ENOMEM|EAGAIN|unknown/);
      for (const p of pages) space.unknown.add(p);
      return false;
    }
  }

  /** `work` must end as said; where memory may run out, any other error is the caller's to judge. */
  attempt(code: string | undefined, work: () => void): void {
    let thrown: unknown;
    try {
      work();
    } catch (error) {
      thrown = error;
    }
    if (thrown !== undefined && (!(thrown instanceof Errno) || (this.hungry && thrown.code !== code)))
      throw thrown;
    if (!this.hungry || thrown !== undefined) expect(thrown?.code).toBe(code);
  }

  fork(space: Space): void {
    const child = this.mm.fork(space.mm);
    const model = new Map([...space.model].map(([p, cell]) => [p, { ...cell }]));
    // A zero page that no anon_vma leads to is left out of a plain VMA's copy.
    for (const cell of model.values()) if (cell.hole === 'no' && !cell.armed) cell.hole = 'maybe';
    this.spaces.push({ mm: child, model, unknown: new Set(space.unknown) });
  }

  exit(space: Space): void {
    this.mm.exit(space.mm);
    this.spaces.splice(this.spaces.indexOf(space), 1);
  }

  unmap({ mm, model, unknown }: Space, first: number, end: number): void {
    this.mm.mmap.unmap(mm, at(first), (end - first) * PAGE);
    for (let p = first; p < end; p++) {
      model.delete(p);
      unknown.delete(p);
    }
  }

  map({ mm, model, unknown }: Space, first: number, end: number, readOnly: boolean): void {
    const protection = { read: true, write: !readOnly };
    this.mm.mmap.map(mm, (end - first) * PAGE, { address: at(first), fixed: 'replace', protection });
    for (let p = first; p < end; p++) {
      model.set(p, { ...fresh, read: true, write: !readOnly });
      unknown.delete(p);
    }
  }

  protect({ mm, model }: Space, first: number, end: number, rights: number): void {
    const [read, write] = [rights > 0, rights > 1];
    const gap = this.expectGap(model, first, end);
    this.attempt(gap < end ? 'ENOMEM' : undefined, () =>
      this.mm.mmap.protect(mm, at(first), (end - first) * PAGE, { read, write }),
    );
    for (let p = first; p < gap; p++) Object.assign(model.get(p)!, { read, write });
  }

  expectGap(model: Model, first: number, end: number): number {
    let p = first;
    while (p < end && model.has(p)) p++;
    return p;
  }

  write({ mm, model }: Space, p: number, value: number): void {
    const cell = model.get(p);
    const done = this.access(cell, cell?.write === true, () => this.mm.access.write32(mm, at(p) + 8, value));
    if (done) model.set(p, { ...cell!, value, or: undefined, hole: 'no' });
  }

  read({ mm, model, unknown }: Space, p: number): void {
    if (unknown.has(p)) return;
    const cell = model.get(p);
    let value = 0;
    const done = this.access(cell, cell?.read === true || cell?.write === true, () => {
      value = this.mm.access.read32(mm, at(p) + 8);
    });
    if (!done || cell === undefined) return;
    expect([cell.value, cell.or ?? cell.value]).toContain(value);
    // A page that MADV_FREE has not dropped yet may still go.
    const hole = cell.or === undefined && cell.hole === 'yes' ? 'no' : cell.hole;
    model.set(p, { ...cell, hole, ...(value === 0 ? { value, or: undefined } : {}) });
  }

  /** True if the access is allowed and not a user fault; what it finds out about a page is noted. */
  access(
    cell: (Cell & { or?: number | undefined }) | undefined,
    allowed: boolean,
    work: () => void,
  ): boolean {
    if (cell === undefined || !allowed || !cell.armed || cell.hole !== 'maybe') {
      const refused = cell === undefined || !allowed || (cell.armed && cell.hole === 'yes');
      this.attempt(refused ? 'EFAULT' : undefined, work);
      return !refused;
    }
    try {
      work();
    } catch (error) {
      if (!(error instanceof UserFaultSigbus)) throw error;
      Object.assign(cell, { value: 0, or: undefined, hole: 'yes' });
      return false;
    }
    return true;
  }

  /** Somebody else may have touched the page. */
  touched({ model }: Space, p: number): void {
    const cell = model.get(p);
    if (cell !== undefined && cell.hole === 'yes') cell.hole = 'maybe';
  }

  advise({ mm, model }: Space, first: number, end: number, advice: Advice): void {
    const mapped = this.expectGap(model, first, end) === end;
    this.attempt(mapped ? undefined : 'ENOMEM', () =>
      this.mm.madvise.advise(mm, at(first), (end - first) * PAGE, advice),
    );
    for (let p = first; p < end; p++) {
      const cell = model.get(p);
      if (cell === undefined) continue;
      if (advice === 'dontneed') model.set(p, { ...cell, value: 0, or: undefined, hole: 'yes' });
      if (advice === 'free') model.set(p, { ...cell, or: 0, hole: cell.hole === 'no' ? 'maybe' : cell.hole });
      if (advice === 'userfault' || advice === 'nouserfault') cell.armed = advice === 'userfault';
    }
  }

  /** Reads everything that may be read. */
  readAll(): void {
    for (const space of this.spaces) for (let p = 0; p < WINDOW; p++) this.read(space, p);
  }

  end(): void {
    for (const { mm } of this.spaces) this.mm.exit(mm);
    this.mm.checkInvariants();
    expect([this.mm.slabs.mm.used, this.mm.slabs.vma.used, this.mm.slabs.avc.used]).toEqual([0, 0, 0]);
    expect(this.mm.swap.slots.used).toBe(0);
  }
}
