import { expect, test } from 'vitest';
import { type BenchReport, reportLines, slowdownOf } from './bench-report.ts';

const report = (change: Partial<BenchReport> = {}): BenchReport => ({
  host: {
    node: '20.20.2',
    v8: '11.3',
    processor: 'Some CPU',
    cores: 2,
    memoryBytes: 4 << 28,
    sharedMemory: true,
  },
  bootSeconds: 1.234,
  tests: [
    { name: 'intmix', measures: 'integers', unit: 'iter/s', guest: 30000, native: 600000 },
    { name: 'syscall', measures: 'system calls', unit: 'k/s', guest: 800, native: 4000 },
  ],
  slowdown: 10,
  loadAverage: 1,
  ...change,
});

test('the slowdown is the geometric mean of native over guest', () => {
  expect(slowdownOf(report().tests)).toBeCloseTo(10);
});

test('the report says what the host is, each rate beside the native one, and a sentence for all', () => {
  expect(reportLines(report()).join('\n')).toBe(`Some CPU, 2 cores, 1 GiB
Node 20.20.2, V8 11.3; guests run on workers
boot of tiny until it serves commands: 1.2 s

                  in a guest      native  unit
integers               30000      600000  iter/s    1/20 of native
system calls             800        4000  k/s       1/5.0 of native

Programs in a guest run at about 1/10 of this host's own speed, from 1/5.0 to 1/20.`);
});

test('without a compiler nothing is compared, and the report says so', () => {
  const tests = report().tests.map(({ native: _, ...rest }) => rest);
  const { slowdown: _, ...uncompared } = report({ tests });
  expect(slowdownOf(tests)).toBe(undefined);
  expect(reportLines(uncompared).slice(5)).toEqual([
    'integers               30000           -  iter/s',
    'system calls             800           -  k/s',
    '',
    'Not compared with native code: gcc is missing here (apt-get install gcc).',
  ]);
});

test('a busy host is told that it has more to give', () => {
  expect(reportLines(report({ loadAverage: 7.31 })).at(-1)).toBe(
    'The host is busy: a load of 7.3 on 2 cores; left alone it would give more.',
  );
});
