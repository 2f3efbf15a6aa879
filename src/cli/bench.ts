import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FaultlineError } from '../base/error.ts';
import { runTool } from '../host/node/run-tool.ts';
import { Sandbox } from '../sdk/sandbox.ts';
import { putProgram } from './add-file.ts';
import {
  type BenchReport,
  hostFacts,
  printReport,
  slowdownOf,
  TESTS,
  type TestFigure,
} from './bench-report.ts';
import { Progress } from './report.ts';

/** The tests lie two directories up, from the source as from the built package. */
const SOURCE = fileURLToPath(new URL('../../bench/guest/bench.c', import.meta.url));
const FLAGS = ['-O2', '-static', '-fno-tree-vectorize'];
const IN_GUEST = '/bin/bench';
const BOOT_MS = 120_000;
/** A native pass says as much in less time: nothing has to warm up. */
const NATIVE_SHARE = 0.3;

export type BenchFlags = { seconds: number; json?: boolean; quiet?: boolean };

/** `faultline bench`: what guests get out of this host, in some twenty seconds. */
export async function bench(flags: BenchFlags): Promise<number> {
  const progress = new Progress(flags.quiet ?? false);
  const interrupt = new AbortController();
  const onSignal = () => interrupt.abort(Object.assign(new Error('interrupted'), { code: 'E_INTERRUPTED' }));
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  const work = mkdtempSync(join(tmpdir(), 'faultline-bench-'));
  try {
    const report = await measure(work, flags.seconds, progress, interrupt.signal);
    progress.done();
    if (flags.json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
    else printReport(report);
    return 0;
  } finally {
    progress.done();
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
    rmSync(work, { recursive: true, force: true });
  }
}

async function measure(
  work: string,
  seconds: number,
  progress: Progress,
  signal: AbortSignal,
): Promise<BenchReport> {
  progress.update('bench: compiling the tests');
  const program = await compile('riscv64-linux-gnu-gcc', join(work, 'bench'));
  const native = await compile('gcc', join(work, 'native')).catch(() => undefined);
  progress.update('bench: booting tiny');
  const start = performance.now();
  const vm = await Sandbox.create('tiny', {
    memory: '128M',
    timeoutMs: BOOT_MS,
    signal,
    onProgress: line => progress.update(`bench: ${line}`),
  });
  try {
    const bootSeconds = (performance.now() - start) / 1000;
    const interrupted = new Promise<never>((_, reject) =>
      signal.addEventListener('abort', () => reject(signal.reason)),
    );
    const tests = await Promise.race([runTests(vm, program, native, seconds, progress), interrupted]);
    const slowdown = slowdownOf(tests);
    return {
      host: hostFacts(),
      bootSeconds,
      tests,
      ...(slowdown === undefined ? {} : { slowdown }),
      loadAverage: loadavg()[0]!,
    };
  } finally {
    await vm.kill();
  }
}

async function runTests(
  vm: Sandbox,
  program: string,
  native: string | undefined,
  seconds: number,
  progress: Progress,
): Promise<TestFigure[]> {
  const refused = await putProgram(vm, IN_GUEST, readFileSync(program));
  if (refused !== undefined)
    throw new FaultlineError('E_AGENT', `the guest could not take the tests: ${refused}`);
  const figures: TestFigure[] = [];
  for (const [at, { name, measures }] of TESTS.entries()) {
    progress.update(`bench: ${measures}, ${at + 1} of ${TESTS.length}`);
    const guest = await vm.commands.run([IN_GUEST, '-t', String(seconds), name]);
    const here = native === undefined ? undefined : await runNative(native, name, seconds * NATIVE_SHARE);
    const { rate, unit } = parseRate(name, guest.stdout);
    figures.push({ name, measures, unit, guest: rate, ...(here === undefined ? {} : { native: here }) });
  }
  return figures;
}

async function runNative(program: string, name: string, seconds: number): Promise<number | undefined> {
  const done = await runTool(program, ['-t', String(seconds), name]);
  return done.code === 0 ? parseRate(name, Buffer.from(done.stdout).toString()).rate : undefined;
}

/** Of bench.c's line for a test. */
function parseRate(name: string, text: string): { rate: number; unit: string } {
  const match = new RegExp(`^BENCH ${name} +(\\S+) (\\S+)`, 'm').exec(text);
  if (match === null) throw new FaultlineError('E_INTERNAL', `the test ${name} gave no figure`);
  return { rate: Number(match[1]), unit: match[2]! };
}

async function compile(compiler: string, out: string): Promise<string> {
  const done = await runTool(compiler, [...FLAGS, '-o', out, SOURCE]);
  if (done.code === 0) return out;
  throw new FaultlineError('E_INTERNAL', `the tests do not compile: ${done.stderr.trim().split('\n')[0]}`, {
    hint: 'apt-get install libc6-dev-riscv64-cross',
  });
}
