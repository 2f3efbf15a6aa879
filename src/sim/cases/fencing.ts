import { assert } from '../../base/assert.ts';
import { FenceRequests } from '../../cpu/fence-requests.ts';
import { FENCES, Mode, Request } from '../../cpu/interface.ts';
import { type LocalFences, OwedFences } from '../../cpu/owed-fences.ts';
import type { Tlb } from '../../cpu/tlb.ts';
import { asidOf } from '../../cpu/tlb-contexts.ts';
import { AT, VCPU_WORDS } from '../../cpu/vcpu.ts';
import type { KvmBreaks } from '../../kvm/breaks.ts';
import { Kvm } from '../../kvm/kvm.ts';
import { Harts } from '../../machine/harts.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { AnyCase, Case } from '../case.ts';
import { heapOnly } from '../heap-only.ts';

// Harts change a page table and fence (SBI RFENCE), while another goes from address space to address space: once they have
// returned, it finds what they wrote. Its TLB is one entry, of OURS.

type Breaks = Partial<KvmBreaks> & {
  /** The hart takes what it owes, then says where it is. */
  payFirst: boolean;
  /** The hart forgets what it owes. */
  neverPay: boolean;
  /** It forgets that it owes for several spaces. */
  forgetSeveral: boolean;
  /** It does not pay for the space that it is about to leave. */
  keepLeft: boolean;
};
type Core = { sync: Sync; kvm: Kvm; breaks: Partial<Breaks> };
type Setup = { vcpu: Ptr<'vcpu'>; pte: number; cached: number; fenced: number };

const [OURS, THEIRS, THIRD] = [1, 2, 3];
const [NOTHING, OLD, NEW] = [0, 7, 8];
const satpHigh = (asid: number): number => asid << 12;

/** The hart is in THEIRS, and was in OURS before. */
function setup({ sync, kvm }: Core): Setup {
  const { heap } = kvm.mm;
  const vcpu = heap.alloc(VCPU_WORDS) as Ptr<'vcpu'>;
  const [pte, cached, fenced] = [heap.alloc(1), heap.alloc(1), heap.alloc(1)];
  Atomics.store(sync.words, pte, OLD);
  Atomics.store(sync.words, cached, OLD);
  Atomics.store(sync.words, vcpu + AT.mode, Mode.InGuest);
  Atomics.store(sync.words, vcpu + AT.space, THEIRS);
  sync.words[vcpu + AT.satp + 1] = satpHigh(THEIRS);
  return { vcpu, pte, cached, fenced };
}

function tlb(
  { sync, breaks }: Core,
  { vcpu, cached }: Setup,
): Pick<Tlb, 'fence' | 'fencePage'> & LocalFences {
  const emptyIf = (holds: boolean) => (holds ? void Atomics.store(sync.words, cached, NOTHING) : undefined);
  const isOurs = () => asidOf(sync.words[vcpu + AT.satp + 1]!) === OURS;
  return {
    fence: (_vcpu, asid) => emptyIf(asid === OURS && !(breaks.keepLeft && isOurs())),
    fencePage: () => emptyIf(true),
    fenceOthers: () => emptyIf(!breaks.forgetSeveral && !isOurs()),
  };
}

function enter(core: Core, s: Setup, space: number, from: number): void {
  const { sync, breaks } = core;
  const owed = new OwedFences(sync.words);
  const fences = breaks.neverPay ? { fence() {}, fenceOthers() {} } : tlb(core, s);
  sync.y('V.enter');
  owed.enter(s.vcpu, breaks.payFirst ? from : space, fences);
  if (breaks.payFirst) Atomics.store(sync.words, s.vcpu + AT.space, space);
  sync.words[s.vcpu + AT.satp + 1] = satpHigh(space);
}

/** A stop-point of the hart. */
function serve(core: Core, s: Setup): void {
  const { sync } = core;
  const requests = Atomics.load(sync.words, s.vcpu + AT.requests);
  if (requests === 0) return;
  Atomics.and(sync.words, s.vcpu + AT.requests, ~(requests & FENCES));
  if ((requests & Request.FenceVma) !== 0) Atomics.store(sync.words, s.cached, NOTHING);
  else new FenceRequests(sync.words).serve(s.vcpu, tlb(core, s) as Tlb);
  sync.waiter.notify(s.vcpu + AT.requests, Number.POSITIVE_INFINITY);
}

/** An access in OURS. */
function use({ sync }: Core, { pte, cached, fenced }: Setup): void {
  const { words } = sync;
  const isFenced = Atomics.load(words, fenced) !== 0;
  if (Atomics.load(words, cached) === NOTHING) Atomics.store(words, cached, Atomics.load(words, pte));
  const found = Atomics.load(words, cached);
  sync.y('V.use');
  assert(!isFenced || found === NEW, 'a hart goes by what it cached before a fence that has returned');
}

function visit(core: Core, s: Setup): void {
  enter(core, s, OURS, THEIRS);
  serve(core, s);
  use(core, s);
}

function hart(core: Core, s: Setup, visits: number): void {
  visit(core, s);
  for (let i = 1; i < visits; i++) {
    enter(core, s, THEIRS, OURS);
    serve(core, s);
    visit(core, s);
  }
  Atomics.store(core.sync.words, s.vcpu + AT.mode, Mode.Outside);
  core.sync.waiter.notify(s.vcpu + AT.requests, Number.POSITIVE_INFINITY);
}

/** By the code that answers SBI. */
function fence({ kvm }: Core, { vcpu }: Setup, asid: number): void {
  const harts = new Harts(kvm, {} as never, [vcpu]);
  harts.fence([0], { kind: 'address', startLo: 0, startHi: 0, length: Number.POSITIVE_INFINITY, asid });
}

function fencer(core: Core, s: Setup): void {
  const { sync } = core;
  Atomics.store(sync.words, s.pte, NEW);
  fence(core, s, OURS);
  Atomics.store(sync.words, s.fenced, 1);
  sync.y('X.fenced');
}

const base = {
  profiles: ['modern'],
  arena: { frames: 1, heapBytes: 4096 * 4 },
  everyAtomic: true,
  core: (sync: Sync, { breaks }: { breaks: Partial<Breaks> }): Core => {
    return { sync, kvm: new Kvm(sync, heapOnly(sync), { dropCode() {} }, breaks), breaks };
  },
  setup,
  /** It comes back once more. */
  oracle: visit,
} as const;

const one: Case<Core, Setup, Breaks> = {
  ...base,
  name: 'fence-owed',
  title: 'a hart fences an address space that another enters and leaves (issue 4)',
  actors: { hart: (core, s) => hart(core, s, 2), fencer },
  reach: {
    'it is left to the hart': 'X.fenced < V.enter',
    'the hart has been there before': 'V.use < X.fenced',
  },
  mutants: [
    { name: 'who fences does not look again', breaks: { owesBlindly: true } },
    { name: 'the hart pays, then says where it is', breaks: { payFirst: true } },
    { name: 'the hart does not pay', breaks: { neverPay: true } },
  ],
};

/** A debt for a third space is there before, and after: so the word says that there are several. */
const several: Case<Core, Setup, Breaks> = {
  ...base,
  name: 'fence-owed-several',
  title: 'the same, as the hart leaves that space and comes back, with a third one fenced, too (issue 4)',
  setup(core) {
    const s = setup(core);
    enter(core, s, OURS, THEIRS);
    fence(core, s, THIRD);
    return s;
  },
  actors: {
    hart(core, s) {
      enter(core, s, THEIRS, OURS);
      hart(core, s, 1);
    },
    fencer(core, s) {
      fencer(core, s);
      fence(core, s, THIRD);
    },
  },
  reach: { 'the fence comes first': 'X.fenced < V.use', 'and last': 'V.use < X.fenced' },
  mutants: [
    { name: 'the hart pays for one space alone', breaks: { forgetSeveral: true } },
    { name: 'the hart does not pay for the space that it leaves', breaks: { keepLeft: true } },
  ],
};

export const cases: readonly AnyCase[] = [one, several];
