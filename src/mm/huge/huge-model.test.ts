import { expect, test } from 'vitest';
import { Random } from '../../base/random.ts';
import type { Ptr } from '../../sync/struct.ts';
import { HUGE_BYTES, HugeRig } from './huge-testing.ts';

const PAGES = 1536;
const LENGTHS = [1, 7, 512, 600] as const;

/** Address spaces over three areas that want to be huge, each with what its words must be. */
class Model {
  readonly #rig = new HugeRig({ areas: 3, frames: 4096, limitPages: 1400 });
  readonly #spaces: { mm: Ptr<'mm'>; words: Map<number, number> }[] = [
    { mm: this.#rig.mm, words: new Map() },
  ];
  readonly #random: Random;

  constructor(seed: number) {
    this.#random = new Random(seed);
  }

  step(): void {
    const { core, at } = this.#rig;
    const space = this.#spaces[this.#random.below(this.#spaces.length)]!;
    const page = this.#random.below(PAGES);
    const bytes = Math.min(LENGTHS[this.#random.below(4)]!, PAGES - page) * 4096;
    const { mm, words } = space;
    const advise = (advice: 'dontneed' | 'pageout' | 'cold' | 'nohugepage' | 'hugepage') =>
      core.madvise.advise(mm, at(page), bytes, advice);
    const choice = this.#random.below(12);
    if (choice < 4) this.#write(space);
    else if (choice === 4) {
      advise('dontneed');
      for (let p = page; p < page + bytes / 4096; p++) words.delete(p);
    } else if (choice === 5) advise('pageout');
    else if (choice === 6 && this.#spaces.length < 3)
      this.#spaces.push({ mm: core.fork(mm), words: new Map(words) });
    else if (choice === 7 && this.#spaces.length > 1) this.#exit(space);
    else if (choice === 8) core.khugepaged.collapse(mm, at(page) / 4096, true);
    else if (choice === 9) {
      core.mmap.protect(mm, at(page), bytes, { read: true });
      core.mmap.protect(mm, at(page), bytes, { read: true, write: true });
    } else if (choice === 10) {
      advise(page % 2 === 0 ? 'cold' : 'nohugepage');
      advise('hugepage');
    } else core.khugepaged.step(PAGES);
  }

  #write({ mm, words }: { mm: Ptr<'mm'>; words: Map<number, number> }): void {
    for (let i = 0; i < 5; i++) {
      const page = this.#random.below(PAGES);
      words.set(page, page * 1000 + words.size);
      this.#rig.core.access.write32(mm, this.#rig.at(page), words.get(page)!);
    }
  }

  #exit(space: { mm: Ptr<'mm'>; words: Map<number, number> }): void {
    this.#rig.core.exit(space.mm);
    this.#spaces.splice(this.#spaces.indexOf(space), 1);
  }

  /** Every word of every space that differs from what it must be. */
  check(): void {
    const { core, at } = this.#rig;
    core.checkInvariants();
    const wrong: number[] = [];
    for (const { mm, words } of this.#spaces) {
      for (let page = 0; page < PAGES; page += 3) {
        if (core.access.read32(mm, at(page)) !== (words.get(page) ?? 0)) wrong.push(page);
      }
    }
    expect(wrong).toEqual([]);
  }

  end(): void {
    while (this.#spaces.length > 0) this.#exit(this.#spaces[0]!);
    this.#rig.core.checkInvariants();
  }
}

test('C-21: huge pages that are written, discarded, swapped, forked, protected and collapsed keep their content', () => {
  expect(PAGES * 4096).toBe(3 * HUGE_BYTES);
  for (let seed = 1; seed <= 6; seed++) {
    const model = new Model(seed);
    for (let i = 1; i <= 60; i++) {
      model.step();
      if (i % 20 === 0) model.check();
    }
    model.end();
  }
});
