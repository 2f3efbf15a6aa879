import { availableParallelism, cpus, totalmem } from 'node:os';
import { formatSize } from '../base/size.ts';

/** Those of bench.c's tests that say most in the least time. */
export const TESTS = [
  { name: 'intmix', measures: 'integers' },
  { name: 'mandel', measures: 'floating point' },
  { name: 'wordsum', measures: 'memory' },
  { name: 'syscall', measures: 'system calls' },
  { name: 'pgfault', measures: 'page faults' },
] as const;

export type HostFacts = {
  node: string;
  v8: string;
  processor: string;
  cores: number;
  memoryBytes: number;
  /** Threads can share memory, so that a guest runs on a worker of its own. */
  sharedMemory: boolean;
};

/** Units a second, in the guest and of the same program on this machine. */
export type TestFigure = { name: string; measures: string; unit: string; guest: number; native?: number };

export type BenchReport = {
  host: HostFacts;
  bootSeconds: number;
  tests: TestFigure[];
  /** How many times faster native code is, the geometric mean; without a compiler there is none. */
  slowdown?: number;
  /** Of the last minute, when all was done. */
  loadAverage: number;
};

export function hostFacts(): HostFacts {
  return {
    node: process.versions.node,
    v8: process.versions.v8,
    processor: cpus()[0]?.model.trim() ?? process.arch,
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    sharedMemory: typeof SharedArrayBuffer !== 'undefined',
  };
}

export function printReport(report: BenchReport): void {
  for (const line of reportLines(report)) process.stdout.write(`${line}\n`);
}

export function reportLines(report: BenchReport): string[] {
  const { host, bootSeconds, tests } = report;
  const shared = host.sharedMemory
    ? 'guests run on workers'
    : 'no shared memory: guests run on the main thread';
  return [
    `${host.processor}, ${host.cores} cores, ${formatSize(host.memoryBytes)}`,
    `Node ${host.node}, V8 ${host.v8}; ${shared}`,
    `boot of tiny until it serves commands: ${bootSeconds.toFixed(1)} s`,
    '',
    `${''.padEnd(16)}${'in a guest'.padStart(12)}${'native'.padStart(12)}  unit`,
    ...tests.map(line),
    '',
    summary(report),
    ...busy(report),
  ];
}

function line({ measures, unit, guest, native }: TestFigure): string {
  const rates = `${digits(guest).padStart(12)}${(native === undefined ? '-' : digits(native)).padStart(12)}`;
  const ratio = native === undefined ? '' : `  1/${times(native / guest)} of native`;
  return `${measures.padEnd(16)}${rates}  ${unit.padEnd(8)}${ratio}`.trimEnd();
}

const ratiosOf = (tests: TestFigure[]): number[] =>
  tests.flatMap(t => (t.native === undefined ? [] : [t.native / t.guest]));

/** The geometric mean of native over guest, of those tests that were measured both ways. */
export function slowdownOf(tests: TestFigure[]): number | undefined {
  const ratios = ratiosOf(tests);
  if (ratios.length === 0) return undefined;
  return Math.exp(ratios.reduce((sum, r) => sum + Math.log(r), 0) / ratios.length);
}

/** One sentence that compares with native code, where that could be measured. */
function summary({ tests, slowdown }: BenchReport): string {
  const ratios = ratiosOf(tests);
  if (slowdown === undefined)
    return 'Not compared with native code: gcc is missing here (apt-get install gcc).';
  return `Programs in a guest run at about 1/${times(slowdown)} of this host's own speed, from 1/${times(Math.min(...ratios))} to 1/${times(Math.max(...ratios))}.`;
}

/** A machine that does other things has less to give. */
function busy({ host, loadAverage }: BenchReport): string[] {
  if (loadAverage <= host.cores + 0.5) return [];
  return [
    `The host is busy: a load of ${loadAverage.toFixed(1)} on ${host.cores} cores; left alone it would give more.`,
  ];
}

const times = (ratio: number): string => (ratio < 9.95 ? ratio.toFixed(1) : ratio.toFixed(0));
const digits = (rate: number): string => (rate >= 1000 ? rate.toFixed(0) : rate.toPrecision(3));
