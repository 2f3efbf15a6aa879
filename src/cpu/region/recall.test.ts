import { beforeEach, describe, expect, test } from 'vitest';
import { productionWaiter } from '../../sync/waiter.ts';
import { assemble } from '../assemble.ts';
import { CODE_AT } from '../code-cache.ts';
import type { Cpu } from '../cpu.ts';
import { Exit } from '../interface.ts';
import { compileInterpreter } from '../interpreter.ts';
import { FlatMachine, RAM_BASE } from '../testing.ts';
import { LIMITS } from './layout.ts';
import { POST_WORDS, Post, type PostPtr } from './post.ts';

const module = compileInterpreter(false, true, 2);
const SUM = 'li s0, 60000\nagain: addi a0, a0, 1\naddi s0, s0, -1\nbnez s0, again\necall';
const [FIRST, SECOND] = [RAM_BASE, RAM_BASE + 4096];

/** A machine and the thread that translates for it. `kept`: what that told for other processes. */
class Pair {
  readonly m: FlatMachine;
  readonly kept: Uint8Array[] = [];
  #post!: Post;
  readonly #translator: Cpu;

  constructor(known: readonly Uint8Array[] = [], limits = LIMITS) {
    this.m = new FlatMachine({
      module,
      post: (arena, alloc) => {
        this.#post = new Post(arena.words, productionWaiter(arena), alloc(POST_WORDS) as PostPtr);
        return this.#post;
      },
    });
    const keepTranslation = (bytes: Uint8Array) => void this.kept.push(bytes);
    this.#translator = this.m.secondCpu({ module, limits, keepTranslation });
    for (const bytes of known) this.#translator.translator.know(bytes);
    this.#post.serve(true);
  }

  /** Whether the translator's thread is there. */
  attend(serves: boolean): void {
    this.#post.serve(serves);
  }

  serve(): void {
    this.#post.work(code => this.#translator.translator.serve(code));
  }

  put(at: number, source = SUM): void {
    this.m.poke(at, assemble(source, at));
    this.m.cpu.dropCode(this.m.code, this.m.byte(at) / 4096);
  }

  /** Runs a program that sums up in a0, with the translator at work between slices; how many regions it has and made. */
  sum(at: number): { sum: bigint; recalled: number; made: number } {
    const before = this.m.cpu.translated(this.m.code);
    this.m.cpu.setPc(this.m.vcpu, at);
    this.m.setX(10, 0n);
    for (let exit: Exit = Exit.Budget; exit === Exit.Budget; this.serve()) exit = this.m.run(2000);
    const after = this.m.cpu.translated(this.m.code);
    const recalled = after.regions_recalled - before.regions_recalled;
    return { sum: this.m.x(10), recalled, made: after.regions - before.regions };
  }
}

describe('a page with the content of one that was translated', () => {
  let pair: Pair;
  beforeEach(() => {
    pair = new Pair();
    pair.put(FIRST);
    expect(pair.sum(FIRST)).toEqual({ sum: 60_000n, recalled: 0, made: 1 });
  });

  test('has its regions once it is decoded, and nothing is translated again', () => {
    pair.put(SECOND);
    const visits = () => pair.m.cpu.events(pair.m.vcpu).region_exits_lookup;
    const before = visits();
    expect(pair.sum(SECOND)).toEqual({ sum: 60_000n, recalled: 1, made: 0 });
    expect(visits()).toBeGreaterThan(before);
  });

  test('and has them again after it was dropped', () => {
    pair.put(FIRST);
    expect(pair.sum(FIRST)).toEqual({ sum: 60_000n, recalled: 1, made: 0 });
  });

  test('in another process, too, though its frames are others', () => {
    const other = new Pair(pair.kept);
    other.put(SECOND);
    expect(other.sum(SECOND)).toEqual({ sum: 60_000n, recalled: 1, made: 0 });
    expect(other.kept).toEqual([]);
  });

  test('but not in another process, if it was translated when the VM had long booted', () => {
    const first = new Pair();
    first.m.arena.words[first.m.code + CODE_AT.settled] = 1;
    first.put(FIRST);
    expect([first.sum(FIRST).made, first.kept.length]).toEqual([1, 0]);
    first.put(SECOND);
    expect(first.sum(SECOND)).toEqual({ sum: 60_000n, recalled: 1, made: 0 });
  });

  test('does not have them where a byte differs, wherever in the page', () => {
    pair.put(SECOND);
    pair.m.poke(SECOND + 4092, [1]);
    expect(pair.sum(SECOND)).toEqual({ sum: 60_000n, recalled: 0, made: 1 });
  });

  test('does what the page now says where it was changed meanwhile', () => {
    pair.put(SECOND);
    pair.m.cpu.setPc(pair.m.vcpu, SECOND);
    pair.m.setX(10, 0n);
    // Decoded, asked for, and found; but then the page is another.
    for (let i = 0; i < 2; i++) pair.m.run(10);
    pair.serve();
    const left = () => pair.m.x(8);
    const [sum, rounds] = [pair.m.x(10), left()];
    pair.put(SECOND, SUM.replace('a0, a0, 1', 'a0, a0, 2'));
    for (let exit: Exit = Exit.Budget; exit === Exit.Budget; pair.serve()) exit = pair.m.run(2000);
    expect(pair.m.x(10) - sum).toBe(2n * rounds);
  });

  test('shares their module with all pages of the VM that have it', () => {
    const { words } = pair.m.arena;
    const regions = () => words[pair.m.code + CODE_AT.nextRegion]!;
    const before = regions();
    for (let page = 1; page <= 3; page++) {
      pair.put(RAM_BASE + page * 4096);
      expect(pair.sum(RAM_BASE + page * 4096)).toEqual({ sum: 60_000n, recalled: 1, made: 0 });
    }
    expect(regions()).toBe(before + 1);
  });

  test('has what else is hot in it translated, if not at once', () => {
    const putBoth = ({ m }: Pair) => {
      m.poke(FIRST, assemble(SUM, FIRST));
      m.poke(FIRST + 1024, assemble(SUM.replace('a0, a0, 1', 'a0, a0, 2'), FIRST + 1024));
    };
    const first = new Pair();
    putBoth(first);
    expect(first.sum(FIRST).made).toBe(1);
    const second = new Pair(first.kept);
    putBoth(second);
    // Hot in the slice in which its page is new.
    expect(second.sum(FIRST + 1024)).toEqual({ sum: 120_000n, recalled: 1, made: 1 });
  });

  test('that has several pages has of each page what is of that one', () => {
    const pages = [SUM, SUM.replace('a0, a0, 1', 'a0, a0, 2')] as const;
    const first = new Pair();
    first.attend(false);
    for (const [i, source] of pages.entries()) {
      first.put(RAM_BASE + i * 4096, source);
      first.sum(RAM_BASE + i * 4096);
    }
    first.attend(true);
    expect(first.sum(FIRST).made + first.sum(FIRST).made).toBe(2);
    expect(first.kept).toHaveLength(1);
    for (const [i, source] of pages.entries()) {
      const other = new Pair(first.kept);
      other.put(FIRST, source);
      expect(other.sum(FIRST)).toEqual({ sum: BigInt(60_000 * (i + 1)), recalled: 1, made: 0 });
    }
  });

  test('in a VM that has the place of one that went, by modules of its own', () => {
    const { m } = pair;
    pair.put(SECOND, SUM.replace('a0, a0, 1', 'a0, a0, 3'));
    expect(pair.sum(SECOND).made).toBe(1);
    pair.put(SECOND);
    expect(pair.sum(SECOND).recalled).toBe(1);
    // What a new one begins with; this machine's heap gives nothing out twice.
    const { words } = m.arena;
    words[m.code + CODE_AT.number]!++;
    words[m.code + CODE_AT.nextRegion] = 0;
    words[m.code + CODE_AT.nextEntry] = 1;
    m.cpu.dropCode(m.code, m.byte(SECOND) / 4096);
    expect(pair.sum(SECOND)).toEqual({ sum: 60_000n, recalled: 1, made: 0 });
    expect([words[m.code + CODE_AT.nextRegion], words[m.code + CODE_AT.nextEntry]! > 1]).toEqual([1, true]);
  });

  test('has them where several harts execute it, too', () => {
    pair.m.cpu.createVcpu(pair.m.code);
    pair.put(SECOND);
    expect(pair.sum(SECOND)).toEqual({ sum: 60_000n, recalled: 1, made: 0 });
  });

  test('has none where there is no room for them, and is left to heat', () => {
    const { kept } = pair;
    pair = new Pair(kept, { ...LIMITS, wasmBytes: 10 });
    pair.put(FIRST);
    expect(pair.sum(FIRST)).toEqual({ sum: 60_000n, recalled: 0, made: 0 });
  });
});

test('a process that was told rubbish translates by itself', () => {
  const pair = new Pair([new Uint8Array(0), new Uint8Array(5000).fill(255), new Uint8Array(16)]);
  pair.put(FIRST);
  expect(pair.sum(FIRST)).toEqual({ sum: 60_000n, recalled: 0, made: 1 });
});
