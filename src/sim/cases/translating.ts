import { assert } from '../../base/assert.ts';
import type { Pfn } from '../../base/units.ts';
import { CodeCache } from '../../cpu/code-cache.ts';
import { SLOT_BYTES } from '../../cpu/decoded.ts';
import { type Head, JOB_WORDS, Jobs, Translating } from '../../cpu/region/job.ts';
import { POST_WORDS, Post, type PostPtr } from '../../cpu/region/post.ts';
import type { CodePtr } from '../../cpu/vcpu.ts';
import type { Sync } from '../../sync/sync.ts';
import type { AnyCase, Case } from '../case.ts';

// The translator's thread, a runner and another hart: what was made of a page serves that page alone, and who takes a VM away
// waits for it. One page of code, in the only slot. A translation is the number that is in the page; it is published by
// being written down, and gone when the slot is filled anew.

type Breaks = {
  /** The runner takes whatever page is decoded in the slot for the one that it had translated. */
  anyStamp: boolean;
  /** The runner takes a slot that another hart has claimed for the page that was there. */
  claimedCounts: boolean;
  /** The other hart does not wait until the runner is outside before it uses the slot again. */
  reuseAtOnce: boolean;
  /** The runner takes what is not made yet. */
  tooSoon: boolean;
  /** Word of the job is left before it is there to be done. */
  leftFirst: boolean;
  /** Who takes the VM away takes back its job, but does not wait for one that is being done. */
  withoutWait: boolean;
  /** The translator goes to sleep by what was left when it had looked. */
  seenLate: boolean;
};
type Core = { sync: Sync; cache: CodeCache; post: Post; jobs: Jobs; breaks: Partial<Breaks> };
type Setup = {
  code: CodePtr;
  /** What is in the page, what the translator made of it, and what the runner published. */
  content: number;
  made: number;
  published: number;
  /** 1 while the runner is in its vCPU. */
  inside: number;
  /** 1 when the VM is gone, and when the translator's thread is to leave. */
  gone: number;
  stop: number;
};

const PAGE = 1 as Pfn;
const [OLD, NEW, NOTHING] = [7, 8, -1];

/** A code record as `CodeCache.create` makes it, without room for regions. */
function createCode(cache: CodeCache, alloc: (words: number) => number): CodePtr {
  const fields = cache.code;
  const code = alloc(fields.words) as CodePtr;
  fields.slots.set(code, 1);
  fields.base.set(code, alloc(SLOT_BYTES / 4) * 4);
  for (const part of ['map', 'frames', 'referenced', 'stamps'] as const) fields[part].set(code, alloc(2));
  fields.mapOrigin.set(code, fields.map.get(code));
  fields.job.set(code, alloc(JOB_WORDS));
  return code;
}

function decode({ cache }: Core, { code }: Setup): void {
  cache.publish(code, PAGE, cache.begin(code, PAGE));
}

function ask({ cache, jobs, post, breaks }: Core, { code }: Setup): void {
  const { translating } = cache.code;
  assert(translating.cas(code, Translating.Free, Translating.Held) === Translating.Free, 'nobody else asks');
  jobs.write(code, [{ slot: 0, pfn: PAGE, offset: 0, stamp: cache.stampOf(code, 0) }]);
  if (breaks.leftFirst) post.leave(code);
  translating.store(code, Translating.Asked);
  if (!breaks.leftFirst) post.leave(code);
}

/** Another hart writes to the page of code and executes it: dropped first, then changed, then decoded in the same slot. */
function change(core: Core, s: Setup): void {
  const { cache, sync, breaks } = core;
  cache.drop(s.code, PAGE);
  sync.y('H.change');
  Atomics.store(sync.words, s.content, NEW);
  cache.tryEvict(s.code);
  while (!breaks.reuseAtOnce && Atomics.load(sync.words, s.inside) === 1) sync.waiter.wait(s.inside, 1);
  cache.reclaim(s.code);
  decode(core, s);
}

/** One entry of the runner into its vCPU. */
function enter(core: Core, s: Setup): void {
  const { sync } = core;
  Atomics.store(sync.words, s.inside, 1);
  collect(core, s);
  Atomics.store(sync.words, s.inside, 0);
  sync.waiter.notify(s.inside, 1);
}

/** Publishes what there is to publish, where its page is still what it was. */
function collect(core: Core, { code, made, published }: Setup): void {
  const { sync, cache, jobs, breaks } = core;
  const { translating } = cache.code;
  const state = translating.load(code);
  if (state !== Translating.Made && !(breaks.tooSoon && state === Translating.Asked)) return;
  if (translating.cas(code, state, Translating.Held) !== state) return;
  if (isSame(core, code, jobs.read(code)[0]!)) {
    sync.y('R.publish');
    const translation = Atomics.load(sync.words, made);
    assert(translation !== NOTHING, 'what is not made is published');
    Atomics.store(sync.words, published, translation);
  }
  translating.store(code, Translating.Free);
}

function isSame({ cache, sync, breaks }: Core, code: CodePtr, { slot, stamp }: Head): boolean {
  if (breaks.anyStamp) return cache.holds(code, PAGE);
  const isClaimed = () => Atomics.load(sync.words, cache.code.frames.get(code) + slot) < 0;
  if (breaks.claimedCounts && cache.stampOf(code, slot) === stamp && isClaimed()) return true;
  return cache.isSame(code, slot, stamp);
}

function runner(core: Core, s: Setup): void {
  ask(core, s);
  enter(core, s);
  change(core, s);
  enter(core, s);
}

function work({ sync, cache }: Core, { code, content, made, gone }: Setup): void {
  assert(Atomics.load(sync.words, gone) === 0, 'the translator works for a VM that is gone');
  if (cache.code.translating.load(code) !== Translating.Asked) return;
  sync.y('X.read');
  Atomics.store(sync.words, made, Atomics.load(sync.words, content));
  assert(Atomics.load(sync.words, gone) === 0, 'a VM goes while its job is being done');
  cache.code.translating.store(code, Translating.Made);
  sync.y('X.made');
}

const base = {
  profiles: ['modern'],
  arena: { frames: 1, heapBytes: 65536 * 2 },
  everyAtomic: true,
  core(sync: Sync, { breaks }: { breaks: Partial<Breaks> }): Core {
    const post = new Post(sync.words, sync.waiter, sync.arena.heap as PostPtr);
    const published = sync.arena.heap + POST_WORDS;
    const cache = new CodeCache(sync.arena, () => void Atomics.store(sync.words, published, 0));
    return { sync, cache, post, jobs: new Jobs(sync.words, cache.code), breaks };
  },
  reset() {},
  setup(core: Core): Setup {
    let next = core.sync.arena.heap + POST_WORDS;
    const alloc = (words: number): number => {
      next += words;
      return next - words;
    };
    const published = alloc(1);
    const code = createCode(core.cache, alloc);
    const s = {
      ...{ code, published, content: alloc(1), made: alloc(1) },
      ...{ inside: alloc(1), gone: alloc(1), stop: alloc(1) },
    };
    core.sync.words[s.content] = OLD;
    core.sync.words[s.made] = NOTHING;
    decode(core, s);
    return s;
  },
} as const;

const publishing: Case<Core, Setup, Breaks> = {
  ...base,
  name: 'translating',
  title: 'the translator makes regions of a page that its guest changes meanwhile (issue 4)',
  actors: {
    runner,
    translator(core, s) {
      // There is one job, and it comes.
      for (let done = false; !done; ) {
        const seen = core.post.jobs();
        core.post.work(() => {
          work(core, s);
          done = true;
        });
        if (!done) core.post.sleep(seen);
      }
    },
  },
  reach: {
    'made before the change': 'X.made < H.change',
    'the page is read before the change, and made after': 'X.read < H.change < X.made',
    'read after the change': 'H.change < X.read',
    'published before the change': 'R.publish < H.change',
  },
  oracle(core, s) {
    collect(core, s);
    assert(core.cache.code.translating.load(s.code) === Translating.Free, 'a job was never done');
    assertOwn(core, s);
  },
  mutants: [
    { name: 'another page in the slot is taken for it', breaks: { anyStamp: true } },
    { name: 'what is not made is published', breaks: { tooSoon: true } },
    { name: 'word is left before the job is there', breaks: { leftFirst: true } },
  ],
};

/** What is published, if anything, is of what the page holds now. */
function assertOwn({ sync: { words } }: Core, { published, content }: Setup): void {
  const isOwn = words[published] === 0 || words[published] === words[content];
  assert(isOwn, 'a page is executed by a translation of another');
}

const slot: Case<Core, Setup, Breaks> = {
  ...base,
  name: 'translating-slot',
  title: 'a runner publishes a region while another hart changes its page, and uses the slot again (issue 4)',
  setup(core) {
    const s = base.setup(core);
    ask(core, s);
    core.sync.words[s.made] = OLD;
    core.cache.code.translating.store(s.code, Translating.Made);
    return s;
  },
  actors: { runner: enter, hart: change },
  reach: {
    'published before the change': 'R.publish < H.change',
    'published while the page goes': 'H.change < R.publish',
  },
  oracle: assertOwn,
  mutants: [
    { name: 'another page in the slot is taken for it', breaks: { anyStamp: true } },
    { name: 'a slot that is claimed is taken for it', breaks: { claimedCounts: true } },
    { name: 'the slot is used again while the runner is inside', breaks: { reuseAtOnce: true } },
  ],
};

const ending: Case<Core, Setup, Breaks> = {
  ...base,
  name: 'translating-end',
  title: 'a VM goes while the translator has a job of it (issue 4)',
  actors: {
    runner(core, s) {
      ask(core, s);
      if (core.breaks.withoutWait) takeBack(core, s.code);
      else core.post.withdraw(s.code);
      core.sync.y('R.free');
      Atomics.store(core.sync.words, s.gone, 1);
      Atomics.store(core.sync.words, s.stop, 1);
      core.post.ring();
    },
    translator(core, s) {
      for (;;) {
        const seen = core.post.jobs();
        if (Atomics.load(core.sync.words, s.stop) !== 0) return;
        core.post.work(() => work(core, s));
        core.post.sleep(core.breaks.seenLate ? core.post.jobs() : seen);
      }
    },
  },
  reach: { 'the job was done': 'X.made < R.free' },
  oracle(core) {
    assert(core.post.leave(1 as CodePtr), 'there is room for other jobs');
  },
  mutants: [
    { name: 'who takes the VM away does not wait', breaks: { withoutWait: true } },
    { name: 'the translator counts the jobs after it looked for them', breaks: { seenLate: true } },
  ],
};

/** `Post.withdraw` without the wait. */
function takeBack({ sync, post }: Core, code: CodePtr): void {
  for (let place = post.at; place < post.at + POST_WORDS; place++)
    Atomics.compareExchange(sync.words, place, code, 0);
}

export const cases: readonly AnyCase[] = [publishing, slot, ending];
