import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../base/units.ts';
import { VmFlag, VmFlagHigh } from '../mm/layout.ts';
import { Swapping } from '../mm/swap/swapping-testing.ts';
import { proven } from '../mm/userfaultfd/manager-testing.ts';
import { VM_FLAG_CODES } from '../mm/vm-flags.ts';
import { KSM_FILES, ksmText } from './ksm-text.ts';
import { memcgText } from './memcg-text.ts';
import { meminfo } from './meminfo.ts';
import { smaps, smapsRollup } from './smaps.ts';
import { vmstatText } from './vmstat-text.ts';

/** The lines of this machine's own files, or undefined where there is no such file. */
function machine(path: string): string[] | undefined {
  try {
    return readFileSync(path, 'utf8').split('\n').slice(0, -1);
  } catch {
    return undefined;
  }
}

/** The form of a line of smaps: numbers right-aligned in their columns, whatever they are. */
const form = (line: string): string => line.replace(/ +\d+( kB)?$/, match => '#'.repeat(match.length));

/** Four pages: one written and shared with a child, one written, one read as zero, one in swap; and a fifth untouched. */
function fourPages() {
  const world = new Swapping();
  const { mm, at } = world.map(5, 200);
  const { access } = world.mm;
  access.write8(mm, at, 1);
  access.write8(mm, at + 3 * PAGE_SIZE, 1);
  world.pageOut(mm, at + 3 * PAGE_SIZE);
  const child = world.mm.fork(mm);
  access.write8(mm, at + PAGE_SIZE, 1);
  access.read8(mm, at + 2 * PAGE_SIZE);
  return { world, mm, at, child };
}

test('U-7 M-3 smaps of private memory: written, shared by fork, zero page, swap, hole', () => {
  const { world, mm } = fourPages();
  expect(smaps(world.mm, mm)).toBe(`\
10000000-10005000 rw-p 00000000 00:00 0 
Size:                 20 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                   8 kB
Pss:                   6 kB
Pss_Dirty:             6 kB
Shared_Clean:          0 kB
Shared_Dirty:          4 kB
Private_Clean:         0 kB
Private_Dirty:         4 kB
Referenced:            8 kB
Anonymous:             8 kB
KSM:                   0 kB
LazyFree:              0 kB
AnonHugePages:         0 kB
ShmemPmdMapped:        0 kB
FilePmdMapped:         0 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
Swap:                  4 kB
SwapPss:               2 kB
Locked:                0 kB
THPeligible:           0
VmFlags: rd wr mr mw me ac 
`);
});

test('smaps of shared memory: sh, the offset, and what all views hold', () => {
  const world = new Swapping();
  const { shmem, mmap, createMm } = { ...world.mm, createMm: () => world.mm.createMm() };
  const inode = shmem.create(8 * PAGE_SIZE);
  const [a, b] = [createMm(), createMm()];
  const at = [a, b].map(mm => mmap.map(mm, 4 * PAGE_SIZE, { shared: inode, offset: 2 * PAGE_SIZE }));
  world.mm.access.write8(a, at[0]!, 1);
  world.mm.access.read8(b, at[1]!);
  world.mm.access.read8(b, at[1]! + PAGE_SIZE);
  const lines = smaps(world.mm, b).split('\n');
  expect(lines[0]).toBe(
    '10000000-10004000 rw-s 00002000 00:01 1                                  /dev/zero (deleted)',
  );
  expect(lines.filter(line => /^(Rss|Pss|Shared_Clean|Private_Clean|Anonymous|VmFlags):/.test(line))).toEqual(
    [
      'Rss:                   8 kB',
      'Pss:                   6 kB',
      'Shared_Clean:          4 kB',
      'Private_Clean:         4 kB',
      'Anonymous:             0 kB',
      'VmFlags: rd wr sh mr mw me ms ',
    ],
  );
  expect(smapsRollup(world.mm, b)).toContain('Pss_Shmem:             6 kB');
});

test('smaps_rollup sums over the mappings, with the kinds of its proportional size', () => {
  const { world, mm, at } = fourPages();
  world.mm.mmap.protect(mm, at + 4 * PAGE_SIZE, PAGE_SIZE, { read: true });
  const lines = smapsRollup(world.mm, mm).split('\n');
  expect(lines.slice(0, 7)).toEqual([
    '10000000-10005000 ---p 00000000 00:00 0                                  [rollup]',
    'Rss:                   8 kB',
    'Pss:                   6 kB',
    'Pss_Dirty:             6 kB',
    'Pss_Anon:              6 kB',
    'Pss_File:              0 kB',
    'Pss_Shmem:             0 kB',
  ]);
  expect(smaps(world.mm, mm).match(/^Rss:/gm)).toHaveLength(2);
});

test('smaps and smaps_rollup have the form that this machine gives its own', ({ skip }) => {
  const { world, mm } = fourPages();
  for (const [path, text] of [
    ['/proc/self/smaps', smaps(world.mm, mm)],
    ['/proc/self/smaps_rollup', smapsRollup(world.mm, mm)],
  ] as const) {
    const theirs = machine(path);
    if (theirs === undefined) return skip(`not run: no ${path}`);
    const one = theirs.slice(1, theirs.findIndex((line, i) => i > 0 && /^[0-9a-f]+-/.test(line)) >>> 0);
    const codes = (line: string): string => (line.startsWith('VmFlags: ') ? 'VmFlags: ' : form(line));
    // Keys of protected memory are the processor's affair.
    const wanted = one.filter(line => !line.startsWith('ProtectionKey')).map(codes);
    const ours = text.split('\n').slice(1, -1).map(codes);
    expect(ours).toEqual(wanted.slice(0, ours.length));
    expect(text.split('\n')[0]!.indexOf('[')).toBe(path.endsWith('rollup') ? theirs[0]!.indexOf('[') : -1);
  }
});

test('a nameless mapping has the header that this machine gives one', ({ skip }) => {
  const theirs = machine('/proc/self/smaps')?.find(line =>
    /^[0-9a-f]+-[0-9a-f]+ rw-p 0+ 00:00 0 ?$/.test(line),
  );
  if (theirs === undefined) return skip('not run: no anonymous mapping to look at');
  const { world, mm } = fourPages();
  const ours = smaps(world.mm, mm).split('\n')[0] as string;
  expect(ours.replace(/^[0-9a-f]+-[0-9a-f]+/, '')).toBe(theirs.replace(/^[0-9a-f]+-[0-9a-f]+/, ''));
});

test('U-7 T-FLG-04 every flag shows its two letters alone, uf um uw ui hg nh mg among them; without the rule it fails', () => {
  proven({ smapsLowWord: true }, breaks => {
    const world = new Swapping({ breaks });
    const seen: string[] = [];
    for (const { code, bit, high } of VM_FLAG_CODES) {
      const { mm, at } = world.map(1);
      const vma = world.mm.mmap.find(mm, at);
      world.mm.vmas.setFlags(vma, high ? 0 : bit, high ? bit : 0);
      const shown = /VmFlags: (.*)\n/.exec(smaps(world.mm, mm))?.[1];
      if (shown === `${code} `) seen.push(code);
    }
    expect(seen).toEqual(VM_FLAG_CODES.map(({ code }) => code));
    for (const code of ['uf', 'um', 'uw', 'ui', 'hg', 'nh', 'mg']) expect(seen).toContain(code);
  });
});

test('U-7 codes stand in the order of the bits, as Linux prints them', () => {
  const place = ({ bit, high }: (typeof VM_FLAG_CODES)[number]): number =>
    Math.log2(bit >>> 0) + (high ? 32 : 0);
  const places = VM_FLAG_CODES.map(place);
  expect(places).toEqual(places.toSorted((a, b) => a - b));
  expect([VmFlag.UffdMissing, VmFlag.UffdWp, VmFlagHigh.UserFault]).toEqual([0x200, 0x1000, 1]);
});

test('M-37 vmstat has the names that Linux has, in its order', ({ skip }) => {
  const { world } = fourPages();
  const ours = vmstatText(world.mm).split('\n').slice(0, -1);
  expect(ours.every(line => /^[a-z_]+ \d+$/.test(line))).toBe(true);
  const value = (name: string): number =>
    Number(ours.find(line => line.startsWith(`${name} `))?.split(' ')[1]);
  expect([value('nr_anon_pages'), value('nr_swapcached'), value('pswpout')]).toEqual([2, 0, 1]);
  const theirs = machine('/proc/vmstat')?.map(line => line.split(' ')[0] as string);
  if (theirs === undefined) return skip('not run: no /proc/vmstat');
  const names = ours.map(line => line.split(' ')[0] as string);
  // A kernel without swap, KSM or huge pages lacks some of ours.
  expect(names.filter(name => theirs.includes(name))).toEqual(theirs.filter(name => names.includes(name)));
  expect(names.filter(name => !theirs.includes(name)).length).toBeLessThan(5);
});

test('meminfo has lines of the form of this machine, in its order', ({ skip }) => {
  const theirs = machine('/proc/meminfo');
  if (theirs === undefined) return skip('not run: no /proc/meminfo');
  const { world } = fourPages();
  const ours = meminfo(world.mm).split('\n').slice(0, -1);
  const names = ours.map(line => line.split(':')[0] as string);
  const same = theirs.filter(line => names.includes(line.split(':')[0] as string));
  expect(ours.map(form)).toEqual(same.map(form));
});

test('C-11 the files of a group read as those of Linux', () => {
  const { world, mm } = fourPages();
  const memcg = world.mm.layout.mm.memcg.get(mm);
  const read = (file: string): string | undefined => memcgText(world.mm, memcg, file);
  expect([read('memory.current'), read('memory.max'), read('memory.high'), read('memory.low')]).toEqual([
    '8192\n',
    '819200\n',
    'max\n',
    '0\n',
  ]);
  expect([read('memory.swap.current'), read('memory.swap.max'), read('memory.nothing')]).toEqual([
    '4096\n',
    'max\n',
    undefined,
  ]);
  expect(read('memory.events')).toBe('low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n');
  expect(read('memory.stat')).toBe(
    'anon 8192\nfile 0\nshmem 0\nfile_mapped 0\nswapcached 0\ninactive_anon 8192\nactive_anon 0\nunevictable 0\n' +
      'workingset_refault_anon 0\nworkingset_activate_anon 0\npgscan 0\npgsteal 0\npgactivate 0\npgdeactivate 0\n',
  );
  expect(read('memory.pressure')).toMatch(/^some avg10=0\.00 .*\nfull avg10=0\.00 .* total=0\n$/);
});

test('M-37 the counters of KSM read as those of /sys/kernel/mm/ksm, by names that Linux has', ({ skip }) => {
  const world = new Swapping();
  const { mm, at } = world.map(4);
  for (let i = 0; i < 4; i++) world.mm.access.write32(mm, at + i * PAGE_SIZE, 7);
  world.mm.madvise.advise(mm, at, 4 * PAGE_SIZE, 'mergeable');
  world.mm.ksm.set('run', 1);
  world.mm.ksm.fullScans(3);
  const read = (file: string): string | undefined => ksmText(world.mm, file);
  expect([read('pages_shared'), read('pages_sharing'), read('pages_unshared'), read('merge')]).toEqual([
    '1\n',
    '3\n',
    '0\n',
    undefined,
  ]);
  expect(KSM_FILES.map(read).every(text => /^-?\d+\n$/.test(text ?? ''))).toBe(true);
  expect(smaps(world.mm, mm)).toContain('KSM:                  16 kB\n');
  let theirs: string[];
  try {
    theirs = readdirSync('/sys/kernel/mm/ksm');
  } catch {
    return skip('not run: no /sys/kernel/mm/ksm');
  }
  expect(KSM_FILES.filter(file => !theirs.includes(file))).toEqual([]);
});
