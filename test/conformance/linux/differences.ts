import { MAP, MREMAP } from '../../../src/mm/syscalls/abi.ts';
import { UffdFeature } from '../../../src/mm/userfaultfd/state.ts';
import { type Script, type Step, wantsHuge } from './script.ts';

/** A step that differs, and the outcomes up to it. */
type Place = {
  step: Step;
  script: Script;
  index: number;
  theirs: string;
  ours: string;
  before: readonly string[];
};

/** A way in which we are right to differ from the kernel that runs here. */
export type KnownDifference = {
  name: string;
  /** Why ours is right all the same. */
  reason: string;
  /** What follows in the script can't be compared. */
  ends?: boolean;
  matches(at: Place): boolean;
};

const isPlainMove = ({ call, args }: Step): boolean =>
  call === 'mremap' && (args[3]! & MREMAP.FIXED) !== 0 && pages(args[1]!) === pages(args[2]!);
const pages = (bytes: number): number => Math.ceil(bytes / 4096);

/** Was something moved into or next to a range that had been registered without the remap event? */
function movesIntoRegistered(script: Script): boolean {
  const events = script.some(
    ({ call, args }) => call === 'handler' && (args[1]! & UffdFeature.EventRemap) !== 0,
  );
  const registered = script
    .filter(({ call }) => call === 'register')
    .map(({ args }) => [args[0]!, args[0]! + args[1]!]);
  return script.some(({ call, args: [, , bytes = 0, flags = 0, to = 0] }) => {
    if (events || call !== 'mremap' || (flags & MREMAP.FIXED) === 0) return false;
    return registered.some(([from, end]) => to <= end! && to + bytes >= from!);
  });
}

/** Events of a log that another has not. */
function eventsMissing(from: string, log: string): string[] {
  const left = eventsOf(log);
  return eventsOf(from).filter(event => {
    const at = left.indexOf(event);
    if (at >= 0) left.splice(at, 1);
    return at < 0;
  });
}

/** Does an event tell of removing what a MADV_FREE was refused for? */
function tellsOfRefusedFree(event: string, script: Script, outcomes: readonly string[]): boolean {
  const [name, start, end] = event.trim().split(' ');
  return script.some(({ call, args }, i) => {
    if (name !== 'remove' || call !== 'madvise' || args[2] !== FREE || outcomes[i] !== '-22') return false;
    return args[0]! <= Number(`0x${start}`) && Number(`0x${end}`) <= args[0]! + pages(args[1]!) * 4096;
  });
}

const eventsOf = (log: string): string[] => log.split(/(?= (?:fault|remap|remove|unmap|event) )/).slice(1);
const sorted = (log: string): string =>
  log
    .split(/(?= (?:fault|remap|remove|unmap|event) )/)
    .sort()
    .join('');

/** Advice, by the numbers of madvise(2). */
const COLD = 20;
const PAGEOUT = 21;
const FREE = 8;

/** Advice that has to do with single pages, and so may split a huge one. */
export const splitsHuge = ({ call, args }: Step): boolean =>
  call === 'madvise' && [FREE, COLD, PAGEOUT].includes(args[2]!);

/** Word for word the same, but where one side has a page of zeros. */
function differInZeros(theirs: string, ours: string): boolean {
  const [a, b] = [theirs.split(' '), ours.split(' ')];
  return a.length === b.length && a.every((word, i) => word === b[i] || word === '0' || b[i] === '0');
}
const withoutSwap = (maps: string): string =>
  maps.replaceAll(/ (?:Rss|Pss|Pss_Dirty|\w+_Clean|\w+_Dirty|Anonymous|Locked|Swap)=\d+/g, '');

/** KiB that all mappings have in memory, but for zero pages. */
const rss = (maps: string): number =>
  [...maps.matchAll(/ Rss=(\d+)/g)].reduce((sum, [, kib]) => sum + Number(kib), 0);

/** Mappings of shared memory without what of it is mapped. */
const withoutShared = (maps: string): string =>
  maps.replaceAll(/\[\S+ ...s [^\]]*\]/g, mapping =>
    mapping.replaceAll(/ (?:Rss|Pss|Pss_Dirty|\w+_Clean|\w+_Dirty|Locked)=\d+/g, ''),
  );
const SHARED_AND_ANONYMOUS = MAP.SHARED | MAP.ANONYMOUS;
const isShared = ({ call, args }: Step): boolean =>
  call === 'mmap' && (args[3]! & SHARED_AND_ANONYMOUS) === SHARED_AND_ANONYMOUS;

const withoutDirt = (maps: string): string => maps.replaceAll(/ (?:Pss_Dirty|\w+_Clean|\w+_Dirty)=\d+/g, '');

const GIVE_ANON_VMAS = ['mremap', 'copy', 'copyfrom', 'zeropage', 'poison', 'move'];

export const KNOWN_DIFFERENCES: readonly KnownDifference[] = [
  {
    name: 'mremap of several mappings',
    reason: 'from 6.17 a FIXED move may span mappings; ours follows 6.12, which refuses with EFAULT',
    ends: true,
    matches: ({ script, index, before, ours }) =>
      [...before, ours].some((outcome, i) => i <= index && outcome === '-14' && isPlainMove(script[i]!)),
  },
  {
    name: 'bounds of mappings',
    reason:
      'Linux gives a mapping an anon_vma when a fill of it is refused, and merges what mremap copies before it ' +
      'takes the source away; ours does neither, the second so that nothing can fail once a page has moved',
    matches: ({ step, script, index, theirs, ours }) =>
      step.call === 'maps' &&
      script.slice(0, index).some(({ call }) => GIVE_ANON_VMAS.includes(call)) &&
      withoutBounds(theirs) === withoutBounds(ours),
  },
  {
    name: 'mremap beside memory that is registered',
    reason:
      'without the remap event, Linux takes the registration from all of the mapping that the moved part is ' +
      'merged into; ours takes it from the moved part alone',
    ends: true,
    matches: ({ script, index }) => index > 0 && movesIntoRegistered(script.slice(0, index)),
  },
  {
    name: 'a page that was freed lazily',
    reason: 'after MADV_FREE a page may be zeros or what it was; which one depends on when it is reclaimed',
    ends: true,
    matches: ({ step, script, index, theirs, ours }) =>
      (step.call === 'read' || step.call === 'dump') &&
      script.slice(0, index).some(({ call, args }) => call === 'madvise' && args[2] === FREE) &&
      differInZeros(theirs, ours),
  },
  {
    name: 'pages that this machine has swapped out',
    reason: 'MADV_PAGEOUT finds swap when somebody has set it up meanwhile; ours runs without here',
    matches: ({ step, script, index, theirs, ours }) =>
      script.slice(0, index).some(({ call, args }) => call === 'madvise' && args[2] === PAGEOUT) &&
      (step.call === 'mincore' || (step.call === 'maps' && withoutSwap(theirs) === withoutSwap(ours))),
  },
  {
    name: 'zeros of a huge page that was split',
    reason:
      'where FREE, COLD, PAGEOUT or MOVE of a part splits a huge page, Linux maps the zero page instead of those of ' +
      'its pages that hold nothing but zeros; ours keeps them. What a page holds is the same',
    matches: ({ step, script, index, theirs, ours }) => {
      if (step.call !== 'maps' || !wantsHuge(script) || withoutSwap(theirs) !== withoutSwap(ours))
        return false;
      const before = script.slice(0, index);
      return (
        before.some(splitsHuge) || (before.some(({ call }) => call === 'move') && rss(theirs) < rss(ours))
      );
    },
  },
  {
    name: 'MOVE from where there is no page table',
    reason:
      'R-5: Linux then says ENOENT though the destination is taken; ours looks at the destination first, as it does ' +
      'wherever there is a table. Both are so',
    matches: ({ step, theirs, ours }) => step.call === 'move' && theirs === '-2 -2' && ours === '-17 -17',
  },
  {
    name: 'dirt of lazily freed pages that MOVE takes',
    reason:
      'R-9: what is moved is dirty in ours, as in Linux until 6.15; from then on it stays as clean as it was',
    matches: ({ step, script, index, theirs, ours }) =>
      step.call === 'maps' &&
      script.slice(0, index).some(({ call }) => call === 'move') &&
      script.slice(0, index).some(({ call, args }) => call === 'madvise' && args[2] === FREE) &&
      withoutDirt(theirs) === withoutDirt(ours),
  },
  {
    name: 'order of the events of a shrinking mremap',
    reason:
      'Linux keeps the event of the end that is cut off until the remap event is out; ours sends each when it ' +
      'happens. The ranges do not touch, so a manager may take them in either order (V-51)',
    matches: ({ step, theirs, ours }) => step.call === 'log' && sorted(theirs) === sorted(ours),
  },
  {
    name: 'dirt of shared pages after MADV_FREE',
    reason:
      'Linux clears the dirty bit of this entry though the page is not freed lazily; ours leaves a shared page ' +
      'alone. The other entry keeps it either way',
    matches: ({ step, script, index, theirs, ours }) =>
      step.call === 'maps' &&
      script.slice(0, index).some(({ call }) => call === 'fork') &&
      script.slice(0, index).some(({ call, args }) => call === 'madvise' && args[2] === FREE) &&
      withoutDirt(theirs) === withoutDirt(ours),
  },
  {
    name: 'pages mapped around a read',
    reason:
      'where a read of shared memory faults, Linux maps up to 15 neighbours too that are in memory already; ours ' +
      'maps the one. What is mapped, not what is there, differs',
    matches: ({ step, script, index, theirs, ours }) =>
      step.call === 'maps' &&
      script.slice(0, index).some(isShared) &&
      withoutShared(theirs) === withoutShared(ours),
  },
  {
    name: 'remove event of a refused MADV_FREE',
    reason:
      'of shared memory, Linux first tells the manager that it is removed and then says EINVAL; ours says EINVAL',
    matches: ({ step, script, theirs, ours, before }) => {
      if (step.call !== 'log' || eventsMissing(ours, theirs).length > 0) return false;
      const extra = eventsMissing(theirs, ours);
      return extra.length > 0 && extra.every(event => tellsOfRefusedFree(event, script, before));
    },
  },
  {
    name: 'write protection of shared memory',
    reason: 'ours has none, and says EINVAL to who registers for it',
    ends: true,
    matches: ({ step, script, index, theirs, ours }) =>
      step.call === 'register' &&
      (step.args[2]! & 2) !== 0 &&
      script.slice(0, index).some(isShared) &&
      theirs.startsWith('0 ') &&
      ours === '-22',
  },
  {
    name: 'RLIMIT_MEMLOCK',
    reason:
      'ours has no such limit: what may be locked is bounded by the memory of the group. A process that may not ' +
      'lock more gets ENOMEM or EPERM from mlock, and EAGAIN from mremap',
    ends: true,
    matches: ({ theirs }) => theirs.endsWith(' limited'),
  },
  {
    name: 'the code of a poison SIGBUS',
    reason: 'V-60: a kernel without memory-failure handling says BUS_ADRERR; ours says that content is lost',
    matches: ({ theirs, ours }) => ours.includes('poison') && ours.replaceAll('poison', 'bus') === theirs,
  },
];

/**
 * What `maps` tells, with mappings that touch and differ in their bounds alone made one. Whether memory is
 * accounted (`ac`) is left out: mprotect clears it where there is no anon_vma.
 */
export function withoutBounds(maps: string): string {
  const merged: { end: string; kind: string; sums: Record<string, number>; start: string }[] = [];
  for (const [, text] of maps.matchAll(/\[([^\]]*)\]/g)) {
    const [range = '', rights, ...rest] = text!.split(' ');
    const [start = '', end = ''] = range.split('-');
    const kind = [rights, ...rest.filter(word => !SUM.test(word) && word !== 'ac')].join(' ');
    let last = merged.at(-1);
    if (last?.end !== start || last.kind !== kind) merged.push((last = { start, end, kind, sums: {} }));
    last.end = end;
    for (const [, name = '', value] of rest.map(word => SUM.exec(word) ?? []))
      last.sums[name] = (last.sums[name] ?? 0) + Number(value);
  }
  // Proportional sizes are rounded down mapping by mapping.
  return JSON.stringify(
    merged.map(({ sums: { Pss: _, Pss_Dirty: __, '': ___, ...sums }, ...m }) => [
      m,
      Object.entries(sums).sort(),
    ]),
  );
}

/** A figure that adds up over mappings. */
const SUM = /^((?!KernelPageSize|MMUPageSize|THPeligible)\w+)=(\d+)$/;

/** The known difference that a step shows, if it is one. `outcomes` are ours, up to the step at least. */
export function explain(
  script: Script,
  index: number,
  theirs: string,
  outcomes: readonly string[],
): KnownDifference | undefined {
  const step = script[index];
  const ours = outcomes[index];
  if (step === undefined || ours === undefined) return undefined;
  const before = outcomes.slice(0, index);
  return KNOWN_DIFFERENCES.find(known => known.matches({ step, script, index, theirs, ours, before }));
}
