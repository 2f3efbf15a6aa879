import ts from 'typescript';
import { expect, test } from 'vitest';
import { ruleNames, testsOf } from './citations.ts';
import { citationsIn, parseRequirements, readRequirements } from './list.ts';
import { complaints, rows } from './report.ts';
import { checkSeeds } from './seeds.ts';

test.each([
  ['U-11 and M-31, K-4', 'U-11 M-31 K-4'],
  ['T-FIP-03, -09, -10', 'T-FIP-03 T-FIP-09 T-FIP-10'],
  ['U-1..U-4', 'U-1 U-2 U-3 U-4'],
  ['U-12…14; R-5–7', 'U-12 U-13 U-14 R-5 R-6 R-7'],
  ['U-12/13', 'U-12 U-13'],
  ['after K-14, 3 times; T-NOT', 'K-14 T-NOT'],
  ['UTF-8 and x-1', ''],
])('%s cites %s', (text, ids) => {
  expect([...citationsIn(text)].join(' ')).toBe(ids);
});

const SOURCE = `
// B-2
test.skipIf(no)('U-1: one thing', () => {
  run({ faultWithoutRecheck: true }); // U-2
});
describe('x', () => it(\`U-3 \${x}\`, () => mutant('skipZap', go)));
test.todo('U-4');
`;

test('a test is found with what its title, body and comment cite, and the rules that it breaks', () => {
  const source = ts.createSourceFile('a.test.ts', SOURCE, ts.ScriptTarget.Latest, true);
  const rules = new Set(['faultWithoutRecheck', 'skipZap']);
  const found = testsOf(source, rules).map(t => [
    t.where,
    t.title,
    [...t.ids].join(' '),
    t.mutants.join(' '),
  ]);
  expect(found).toEqual([
    ['a.test.ts:3', 'U-1: one thing', 'B-2 U-1 U-2', 'faultWithoutRecheck'],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the title as it stands
    ['a.test.ts:6', 'U-3 ${x}', 'U-3', 'skipZap'],
  ]);
});

test('a row of part T counts only with a mutant, and unknown numbers are complained of', () => {
  const list = parseRequirements('- **T-UF-03** x\n- **U-1** y\n- **U-2** z — out of scope: never');
  const base = { where: 'a', title: 't', mutants: [] };
  const witnesses = [{ ...base, ids: new Set(['T-UF-03', 'U-1', 'U-9']) }];
  const all = rows(list, witnesses);
  expect(all.map(row => [row.requirement.id, row.by.length, row.weak.length])).toEqual([
    ['T-UF-03', 0, 1],
    ['U-1', 1, 0],
    ['U-2', 0, 0],
  ]);
  expect(complaints(all, witnesses)).toEqual([
    'a cites U-9, which is no requirement',
    '1 of 2 are out of scope: above 5 %',
  ]);
  expect(rows(list, [{ ...base, mutants: ['skipZap'], ids: new Set(['T-UF-03']) }])[0]!.by.length).toBe(1);
});

test('a hunk that names what is not there is complained of', () => {
  const row = '| a hunk | U-11, Q-7 | `mm/mmap.ts` noSuchFunction, `mm/none.ts` | `mmap.test.ts` | — |';
  expect(checkSeeds(new Set(['U-11']), row).complaints).toEqual([
    'docs/seeds.md, a hunk: no requirement Q-7',
    'docs/seeds.md, a hunk: no file mm/none.ts',
    'docs/seeds.md, a hunk: no noSuchFunction in the files named',
  ]);
});

test('the list parses, the seeds name what is there, and rules are found', () => {
  const list = readRequirements();
  expect(list.length).toBeGreaterThan(500);
  expect(checkSeeds(new Set(list.map(r => r.id))).complaints).toEqual([]);
  expect(ruleNames()).toContain('faultWithoutRecheck');
});
