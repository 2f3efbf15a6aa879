import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { Random } from '../../../src/base/random.ts';
import { Conditions, RaceConditions } from './conditions.ts';
import { withoutBounds } from './differences.ts';
import { Generator } from './generate.ts';
import { buildDriver, Comparison, type Driver, randomScripts, runLinux } from './linux.ts';
import { needsUserfault, type Probe, parseProbe, whyNoHuge, whyNoUserfault } from './machine.ts';
import { Ours } from './ours.ts';
import { formatScript, isRace, parseScript } from './script.ts';
import { compact, expanded, runTheirs } from './theirs.ts';

const driver = await buildDriver();

test('a script reads back as it was written', () => {
  const script = new Generator(new Random(3)).script(60);
  expect(parseScript(formatScript(script))).toEqual(script);
  expect(() => parseScript('0.mmap 3; write 4')).toThrow('not a step: write 4');
});

test('mappings that touch and are alike but for their bounds are one', () => {
  const one = 'maps [0-3000 rw- Rss=8 rd wr]';
  expect(withoutBounds('maps [0-1000 rw- Rss=4 rd wr] [1000-3000 rw- Rss=4 rd wr]')).toBe(withoutBounds(one));
  expect(withoutBounds('maps [0-1000 rw- Rss=4 rd wr] [1000-3000 r-- Rss=4 rd]')).not.toBe(
    withoutBounds(one),
  );
});

const ALL = 0x1ffff;
test.each<[string, Probe, string | undefined]>([
  ['offers it all', { open: 0, api: 0, features: ALL }, undefined],
  ['has none', { open: 38, api: 0, features: 0 }, 'no userfaultfd in this kernel'],
  ['forbids it', { open: 1, api: 0, features: 0 }, 'userfaultfd is refused here (EPERM)'],
  ['fails otherwise', { open: 24, api: 0, features: 0 }, 'userfaultfd is refused here (errno 24)'],
  ['speaks another API', { open: 0, api: 22, features: 0 }, 'the handshake of userfaultfd fails (EINVAL)'],
  ['is older', { open: 0, api: 0, features: 0xffff & ~0x4000 }, 'userfaultfd without Poison, Move'],
])('on a machine that %s, scripts with user faults run or say why not', (_, answer, why) => {
  expect(whyNoUserfault(answer)).toBe(why);
});

test('the answer of the probe reads as it was printed; anything else is that of no userfaultfd', () => {
  expect(parseProbe('userfaultfd 0 0 1ffff\n')).toEqual({ open: 0, api: 0, features: ALL });
  expect(parseProbe('userfaultfd 1 0 0\n')).toEqual({ open: 1, api: 0, features: 0 });
  expect(parseProbe('')).toEqual({ open: 38, api: 0, features: 0 });
});

test('scripts without a descriptor need no userfaultfd', () => {
  expect(needsUserfault(parseScript('0.mmap 0 0x1000 3 0x32; 0.mlock 0 0x1000; 0.log; 0.dump'))).toBe(false);
  expect(needsUserfault(parseScript('0.mmap 0 0x1000 3 0x32; 0.handler 1 0'))).toBe(true);
});

afterAll(() => driver?.remove());

test.skipIf(driver === undefined).each(['forkKeepsWritable', 'fillWithoutRecheck'] as const)(
  'with %s some script ends otherwise, so they can tell',
  async rule => {
    const comparison = new Comparison(driver!, new Ours({ [rule]: true }));
    const scripts = randomScripts(new Random(5), 150).filter(script => !isRace(script));
    const differences = await comparison.run(scripts);
    await comparison.close();
    expect(differences.some(difference => difference !== undefined)).toBe(true);
  },
);

test.skipIf(driver === undefined)('random scripts end as on the kernel of this machine', async () => {
  const lines: string[] = [];
  const print = (line: string) => lines.push(line);
  const differences = await runLinux(driver!, { seed: 7, scripts: 250, print });
  expect(differences, lines.join('\n')).toBe(0);
});

test.skipIf(driver === undefined)('without userfaultfd the rest runs, and is told apart', async () => {
  const lines: string[] = [];
  const print = (line: string) => lines.push(line);
  const refused = { open: 1, api: 0, features: 0 };
  const differences = await runLinux(driver!, { seed: 8, scripts: 40, print }, { userfault: refused });
  expect(differences, lines.join('\n')).toBe(0);
  expect(lines.at(-1)).toMatch(/^linux: \d+ scripts with user faults: not run: userfaultfd is refused here/);
});

test.skipIf(driver === undefined)(
  'without huge pages, scripts that want them are told as not run',
  async () => {
    const lines: string[] = [];
    const print = (line: string) => lines.push(line);
    const differences = await runLinux(driver!, { seed: 9, scripts: 60, print }, { huge: 'none here' });
    expect(differences, lines.join('\n')).toBe(0);
    expect(lines).toContainEqual(
      expect.stringMatching(/^linux: \d+ scripts with huge pages: not run: none here$/),
    );
  },
);

test.each([
  [2, [['0', 'ok']]],
  [99, [undefined]],
])(
  'a script is run again while the kernel has no huge page for it, %i times; then it is not compared',
  async (runs, told) => {
    const folder = mkdtempSync(join(tmpdir(), 'faultline-'));
    const program = join(folder, 'driver');
    const lacking = `if [ $n -lt ${runs} ]; then echo '0;no huge page;'; else echo '0;ok;'; fi`;
    const count = `n=$(cat ${folder}/n 2>/dev/null || echo 0); echo $((n + 1)) > ${folder}/n`;
    writeFileSync(program, `#!/bin/sh\n${count}\nwhile read script; do ${lacking}; done`, { mode: 0o755 });
    try {
      expect(await runTheirs(program, [parseScript('0.thp 1; 0.write 0 1')])).toEqual(told);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);

test('pages that say the same are told once, and read back', () => {
  const told = 'dump [0] bus*3 7,0,0 0*2 [4000] 1,0,0 11,0,0';
  expect(expanded(told)).toBe('dump [0] bus bus bus 7,0,0 0 0 [4000] 1,0,0 11,0,0');
  expect(compact(expanded(told))).toBe(told);
});

test.each([
  [{ enabled: 'always [madvise] never', use_zero_page: '1\n' }, undefined],
  [
    { enabled: 'always madvise [never]', use_zero_page: '1\n' },
    "transparent huge pages are 'always madvise [never]' here",
  ],
  [{ enabled: 'always [madvise] never', use_zero_page: '0\n' }, 'there is no huge zero page here'],
  [{ use_zero_page: '1\n' }, 'no transparent huge pages in this kernel'],
] as const)('scripts with huge pages run where memory that asks for them gets them: %o', (files, why) => {
  const all: Record<string, string> = { 'hugepages-2048kB/enabled': 'always [inherit] never', ...files };
  const read = (name: string) => {
    if (all[name] === undefined) throw new Error('no such file');
    return all[name];
  };
  expect(whyNoHuge(read)).toBe(why);
});

test.skipIf(driver === undefined)('without swap, scripts that race are told as not run', async () => {
  const lines: string[] = [];
  const print = (line: string) => lines.push(line);
  const differences = await runLinux(driver!, { seed: 9, scripts: 60, print }, { race: 'no swap here' });
  expect(differences, lines.join('\n')).toBe(0);
  expect(lines.at(-1)).toMatch(/^linux: \d+ scripts that race: not run: no swap here$/);
});

const cannotRace = driver === undefined || (await refused(driver));

async function refused({ conditions, folder }: Driver): Promise<boolean> {
  const race = new RaceConditions(conditions, folder);
  const why = await race.why();
  await race.close();
  return why !== undefined;
}

test.skipIf(cannotRace)('scripts end alike beside a thread that pages out, merges and forks', async () => {
  const lines: string[] = [];
  const print = (line: string) => lines.push(line);
  const differences = await runLinux(driver!, { seed: 10, scripts: 40, racing: true, print });
  expect(differences, lines.join('\n')).toBe(0);
  for (const who of ['linux', 'ours']) {
    const line = lines.find(l => l.startsWith(`beside racing scripts, ${who}: `));
    expect(Number(/(\d+) pages swapped out/.exec(line ?? '')?.[1]), line).toBeGreaterThan(20);
  }
});

test.skipIf(cannotRace)('with forgetDirty some racing script ends otherwise, so they can tell', async () => {
  const comparison = new Comparison(driver!, new Ours({ forgetDirty: true }));
  const differences = await comparison.run(randomScripts(new Random(5), 10, true));
  await comparison.close();
  expect(differences.some(difference => difference !== undefined)).toBe(true);
});

test.skipIf(cannotRace)(
  'swap and ksmd are as before after a run, and after whoever asked was killed',
  async () => {
    const ksm = (name: string) => readFileSync(`/sys/kernel/mm/ksm/${name}`, 'utf8');
    const settings = () => ['run', 'pages_to_scan', 'sleep_millisecs', 'smart_scan'].map(ksm).join('');
    const swaps = () => readFileSync('/proc/swaps', 'utf8');
    const before = settings();
    const conditions = new Conditions(driver!.conditions, driver!.folder);
    const { area } = (await conditions.on()) as { area: string };
    expect([ksm('run'), swaps().includes(area)]).toEqual(['1\n', true]);
    await conditions.off();
    expect([settings(), swaps().includes(area)]).toEqual([before, false]);
    await conditions.on();
    // A process that dies lets go of its pipes, and this is all that the other side is told.
    await conditions.close();
    expect([settings(), swaps().includes(area), existsSync(area)]).toEqual([before, false, false]);
  },
);
