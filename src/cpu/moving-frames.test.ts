import { describe, expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { FlushList, type FlushListPtr } from './flush-list.ts';
import { type CpuPorts, Miss, Request } from './interface.ts';
import { machine, runToEnd } from './programs-testing.ts';
import { type FlatMachine, RAM_BASE } from './testing.ts';

// J-8: memory moves to other frames at the stop-points of a run, and what it leaves behind is poison. Whoever kept a
// host pointer over a stop-point reads poison, or writes to it.

const PAGES = 128;
/** Pages that no program uses: their frames are where others move to. */
const [FIRST_SPARE, END_SPARE] = [32, 96];
/** Nor this one, where the list of flushed frames lies. */
const LIST_PAGE = 30;
const POISON = 0xdddddddd | 0;
const RAM_GFN = RAM_BASE / 4096;

/** Host memory whose pages move, with what a zap does about it: drop what is decoded, name the frame, ask. */
class MovingMemory {
  readonly m: FlatMachine;
  readonly #list: FlushList;
  readonly #at: FlushListPtr;
  readonly #frameOf: number[];
  readonly #spare: number[];
  readonly #live: number[];
  /** Called within each look-up of a page, before and after it is found. */
  onLookUp: (page: number) => void = () => {};
  moves = 0;

  constructor(seed: number) {
    this.m = machine(seed, { pages: PAGES, ports: inner => this.#ports(inner) });
    const all = Array.from({ length: PAGES }, (_, page) => page);
    this.#frameOf = all.map(page => this.m.arena.firstFrame + page);
    const isSpare = (page: number) => page >= FIRST_SPARE && page < END_SPARE;
    this.#live = all.filter(page => !isSpare(page) && page !== LIST_PAGE);
    this.#spare = all.filter(isSpare).map(page => this.m.arena.firstFrame + page);
    for (const pfn of this.#spare) this.#words(pfn).fill(POISON);
    this.#list = new FlushList(this.m.arena.words);
    this.#at = ((this.m.arena.firstFrame + LIST_PAGE) * 1024) as FlushListPtr;
    this.#list.join(this.#at, this.m.vcpu);
  }

  #words(pfn: number): Int32Array {
    return this.m.arena.words.subarray(pfn * 1024, (pfn + 1) * 1024);
  }

  #ports(inner: CpuPorts): CpuPorts {
    return {
      ...inner,
      resolve: (_vcpu, gfn) => {
        const page = gfn - RAM_GFN;
        if (page < 0 || page >= PAGES) return Miss.Mmio;
        // What is found may be gone when it is handed over: a request then says so.
        const found = this.#frameOf[page]!;
        this.onLookUp(page);
        return found;
      },
    };
  }

  /** Moves a page elsewhere; `whole` asks for a flush of everything instead of that frame. */
  move(page: number, whole: boolean): void {
    const from = this.#frameOf[page]!;
    const to = this.#spare.shift()!;
    this.#words(to).set(this.#words(from));
    this.#frameOf[page] = to;
    this.m.cpu.dropCode(this.m.code, from);
    this.#list.add(this.#at, from);
    this.m.cpu.vcpu.requests.or(this.m.vcpu, whole ? Request.FlushTlb : Request.FlushPages);
    // The vCPU is at a stop-point, and serves the request before it makes another access.
    this.#words(from).fill(POISON);
    this.#spare.push(from);
    this.moves++;
  }

  moveAll(whole: boolean): void {
    for (const page of this.#live) this.move(page, whole);
  }

  moveSome(r: Random): void {
    for (let n = r.below(4); n > 0; n--) this.move(r.pick(this.#live), r.oneIn(4));
  }

  /** Registers and memory as the guest has them, and whether anything was written to what was left behind. */
  state(): { record: string; memory: number; written: number } {
    let memory = 0;
    for (const page of this.#live)
      for (const word of this.#words(this.#frameOf[page]!)) memory = (Math.imul(memory, 31) + word) | 0;
    const written = this.#spare.filter(pfn => this.#words(pfn).some(word => word !== POISON)).length;
    return { record: this.m.state().record, memory, written };
  }
}

const SLICE = 150;

describe.each([1, 2, 3, 4])(
  'J-8 no host pointer outlives a stop-point: program %i ends in the same state',
  seed => {
    const still = new MovingMemory(seed);
    let lookUps = 0;
    still.onLookUp = () => lookUps++;
    runToEnd(still.m, () => SLICE);
    const whole = still.state();

    test('J-8 when all its memory moves within any one look-up', () => {
      expect(lookUps).toBeGreaterThan(15);
      for (let at = 0; at < lookUps; at++) {
        const moving = new MovingMemory(seed);
        let left = at;
        moving.onLookUp = () => {
          if (left-- === 0) moving.moveAll(at % 2 === 0);
        };
        runToEnd(moving.m, () => SLICE);
        expect(moving.state(), `look-up ${at}`).toEqual(whole);
      }
    });

    test('J-8 when all its memory moves before any one slice', () => {
      for (let at = 0; at < 40; at++) {
        const moving = new MovingMemory(seed);
        let left = at;
        runToEnd(moving.m, () => {
          if (left-- === 0) moving.moveAll(at % 2 === 0);
          return SLICE;
        });
        expect(moving.state(), `slice ${at}`).toEqual(whole);
      }
    });

    test('J-8 when some of it moves again and again', () => {
      const r = new Random(seed);
      const moving = new MovingMemory(seed);
      moving.onLookUp = page => {
        if (r.oneIn(3)) moving.moveSome(r);
        if (r.oneIn(6)) moving.move(page, r.oneIn(2));
      };
      runToEnd(moving.m, () => {
        moving.moveSome(r);
        return 1 + r.below(60);
      });
      expect(moving.state()).toEqual(whole);
      expect(moving.moves).toBeGreaterThan(300);
    });
  },
);
