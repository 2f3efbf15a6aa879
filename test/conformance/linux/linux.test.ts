import { afterAll, expect, test } from 'vitest';
import { Random } from '../../../src/base/random.ts';
import { withoutBounds } from './differences.ts';
import { Generator } from './generate.ts';
import { buildDriver, Comparison, randomScripts, runLinux } from './linux.ts';
import { Ours } from './ours.ts';
import { formatScript, parseScript } from './script.ts';

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

afterAll(() => driver?.remove());

test.skipIf(driver === undefined).each(['forkKeepsWritable', 'fillWithoutRecheck'] as const)(
  'with %s some script ends otherwise, so they can tell',
  async rule => {
    const comparison = new Comparison(driver!.program, new Ours({ [rule]: true }));
    const differences = await comparison.run(randomScripts(new Random(5), 150));
    expect(differences.some(difference => difference !== undefined)).toBe(true);
  },
);

test.skipIf(driver === undefined)('random scripts end as on the kernel of this machine', async () => {
  const lines: string[] = [];
  const print = (line: string) => lines.push(line);
  const differences = await runLinux(driver!.program, { seed: 7, scripts: 400, print });
  expect(differences, lines.join('\n')).toBe(0);
});
