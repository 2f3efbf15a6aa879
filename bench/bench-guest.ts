import type { Session } from './session.ts';

/** One pass of one test. */
export type Pass = {
  /** Units of work a second of this machine's clock. */
  rate: number;
  unit: string;
  /** Processor seconds of all threads, each second of that clock. */
  threads: number;
};

/**
 * Whose clocks time a pass: this machine's, read as the guest's marks arrive, or the program's own. A guest's clock
 * is as good as its emulator; for several processes at once only the program knows when all had begun.
 */
export type Clock = 'host' | 'own';

const LIMIT_SECONDS = 600;

/** A shell, in a guest or here, in which bench.c runs a test at a time. */
export class BenchGuest {
  readonly name: string;
  readonly #session: Session;
  readonly #program: string;
  readonly #clock: Clock;
  /** Units that last about as long as was asked for, by test. */
  readonly #work = new Map<string, number>();

  constructor(name: string, session: Session, program: string, clock: Clock = 'host') {
    this.name = name;
    this.#session = session;
    this.#program = program;
    this.#clock = clock;
  }

  /** Measures about `seconds` of a test, by `processes` at once; the first pass of a test finds out how much that is. */
  async measure(test: string, seconds: number, processes = 1): Promise<Pass> {
    const n = this.#work.get(test);
    const how = n === undefined ? `-t ${seconds} ${test}` : `-f ${test} ${n}`;
    this.#session.type(`${this.#program} -p ${processes} ${how}\n`);
    const pass = await this.#watch(test);
    this.#work.set(test, Math.max(1, Math.ceil((pass.work / pass.wall) * seconds)));
    return {
      rate: (pass.work * pass.factor * processes) / pass.wall,
      unit: pass.unit,
      threads: pass.cpu / pass.wall,
    };
  }

  async #watch(
    test: string,
  ): Promise<{ unit: string; work: number; factor: number; wall: number; cpu: number }> {
    await this.#session.next(new RegExp(`MARK S ${test} `), LIMIT_SECONDS);
    const start = this.#now();
    const [mark] = await this.#session.next(new RegExp(`MARK E ${test} |bench: .*`), LIMIT_SECONDS);
    if (mark.startsWith('bench:')) throw new Error(`${this.name}: ${mark}`);
    const end = this.#now();
    const line = new RegExp(`BENCH ${test} +\\S+ (\\S+) n=(\\d+) seconds=(\\S+) cpu=(\\S+) unit=(\\S+)\\s`);
    const [, unit, n, seconds, cpu, factor] = await this.#session.next(line, LIMIT_SECONDS);
    const own = this.#clock === 'own';
    return {
      unit: unit!,
      work: Number(n),
      factor: Number(factor),
      wall: own ? Number(seconds) : end.wall - start.wall,
      cpu: own ? Number(cpu) : end.cpu - start.cpu,
    };
  }

  #now(): { wall: number; cpu: number } {
    return {
      wall: performance.now() / 1000,
      cpu: this.#clock === 'own' ? 0 : this.#session.cpuSeconds(),
    };
  }

  stop(): Promise<void> {
    return this.#session.stop();
  }
}
