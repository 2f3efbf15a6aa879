import { Random } from '../../src/base/random.ts';
import { MIB } from '../../src/base/units.ts';
import { Lockstep } from '../../src/cpu/region/lockstep.ts';
import { lockstepMachine, runSome } from '../../src/cpu/region/lockstep-testing.ts';
import { framesFor, HEAP_BYTES } from '../../src/machine/host.ts';
import { Host } from '../../src/sdk/host.ts';
import { Sandbox } from '../../src/sdk/sandbox.ts';

// Regions against the interpreter, run by run: src/cpu/region/lockstep.ts.

export type LockstepRun = { seed: number; instructions: number; print(line: string): void };

/** Instructions of each random program. */
const EACH = 200_000;
/** Arrivals after which a place of the booting guest is translated. */
const BOOT_HOT = 64;
const REPORT_EVERY = 1e7;

/** Random programs until `instructions` were retired by regions. Returns the number of differences. */
export function runLockstep({ seed, instructions, print }: LockstepRun): number {
  const module = new Lockstep().compile();
  const sum = { programs: 0, differences: 0, instructions: 0, runs: 0, stores: 0, next: REPORT_EVERY };
  while (sum.instructions < instructions) {
    const lockstep = oneProgram(seed + sum.programs, module, print);
    sum.programs++;
    for (const name of ['differences', 'instructions', 'runs', 'stores'] as const)
      sum[name] += lockstep[name];
    if (sum.instructions < sum.next) continue;
    print(`lockstep: ${totals(sum)}, by ${sum.programs} programs`);
    sum.next += REPORT_EVERY;
  }
  print(`lockstep: ${totals(sum)}, by ${sum.programs} programs`);
  return sum.differences;
}

function oneProgram(seed: number, module: WebAssembly.Module, print: (line: string) => void): Lockstep {
  const { m, lockstep } = lockstepMachine(seed, { module });
  const r = new Random(seed);
  runSome(m, EACH, () => (r.oneIn(20) ? 1 + r.below(400) : 20_000));
  for (const report of lockstep.reports) print(`seed ${seed}: ${report}`);
  return lockstep;
}

const totals = (of: Pick<Lockstep, 'differences' | 'instructions' | 'runs' | 'stores'>): string =>
  `${of.differences} differences in ${of.runs} runs of regions, ${of.instructions} instructions, ${of.stores} stores`;

/** Boots the image `tiny` to the end of a command. `pristine`: with Debian's own command line and modules. */
export async function runLockstepBoot(print: (line: string) => void, pristine: boolean): Promise<number> {
  const lockstep = new Lockstep(BOOT_HOT);
  const memoryBytes = 128 * MIB;
  const config = { frames: framesFor(memoryBytes, undefined, { kind: 'none' }), heapBytes: HEAP_BYTES };
  const host = Host.of({ ...config, shared: false, swap: { kind: 'none' }, breaks: [] }, () => {}, {
    lockstep,
  });
  const sandbox = await Sandbox.create('tiny', {
    host,
    memory: memoryBytes,
    clock: 'instret',
    pristine,
    timeoutMs: 3_600_000,
  });
  const result = await sandbox.commands.run('uname -a; ls -l /; cat /proc/cpuinfo; sort /etc/passwd');
  await sandbox.kill();
  await host.close();
  for (const report of lockstep.reports) print(`boot: ${report}`);
  print(`lockstep: boot ends with ${result.exitCode}; ${totals(lockstep)}`);
  return lockstep.differences + (result.exitCode === 0 ? 0 : 1);
}
