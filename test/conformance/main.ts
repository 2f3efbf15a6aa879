import { parseArgs } from 'node:util';
import { EXTENSIONS, type Extension } from './generate.ts';
import { runIsa } from './isa.ts';
import { buildDriver, kernelRelease, runLinux, runOneScript } from './linux/linux.ts';
import { runLitmus } from './litmus/litmus.ts';
import { runLockstep, runLockstepBoot } from './lockstep.ts';
import { runPrivileged } from './privileged/privileged.ts';
import { findQemuSystem } from './privileged/qemu-system.ts';
import { findQemuUser } from './qemu-user.ts';
import { runRequirements } from './requirements/requirements.ts';

// npm run conformance -- isa [--extension F] [--instructions N] [--seed N]
// npm run conformance -- privileged [--instructions N] [--seed N]
// npm run conformance -- linux [--scripts N] [--seed N] [--racing] [--script '0.mmap …']
// npm run conformance -- litmus [--runs N] [--test NAME]
// npm run conformance -- requirements [--untested]
// npm run conformance -- lockstep [--instructions N] [--seed N] [--boot [--pristine]]

const USAGE =
  'usage: conformance isa|privileged [--seed N] [--instructions N] [--extension I|M|A|F|D|C]\n' +
  "       conformance linux [--scripts N] [--seed N] [--racing] [--script '0.mmap …']\n" +
  '       conformance litmus [--runs N] [--test NAME]\n' +
  '       conformance requirements [--untested]\n' +
  '       conformance lockstep [--seed N] [--instructions N] [--boot [--pristine]]';
const print = (line: string): void => console.log(line);

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seed: { type: 'string' },
    instructions: { type: 'string' },
    extension: { type: 'string', multiple: true },
    scripts: { type: 'string' },
    script: { type: 'string' },
    racing: { type: 'boolean' },
    untested: { type: 'boolean' },
    runs: { type: 'string' },
    test: { type: 'string' },
    boot: { type: 'boolean' },
    pristine: { type: 'boolean' },
  },
});

const isExtension = (name: string): name is Extension => EXTENSIONS.includes(name as Extension);

const isa = async (): Promise<number> => {
  const qemu = findQemuUser();
  if (qemu === undefined) {
    print('isa: not run: no qemu-riscv64 here; apt-get install qemu-user-static');
    return 0;
  }
  const extensions = values.extension ?? [...EXTENSIONS];
  if (!extensions.every(isExtension)) throw new Error(USAGE);
  const seed = Number(values.seed ?? 1);
  const instructions = Number(values.instructions ?? 1e7);
  print(`isa: seed ${seed}, against ${qemu.version}`);
  const differences = await runIsa({ seed, instructions, extensions, program: qemu.program, print });
  print(`isa: ${differences} differences`);
  return differences;
};

const privileged = async (): Promise<number> => {
  const qemu = findQemuSystem();
  if (qemu === undefined) {
    print('privileged: not run: no qemu-system-riscv64 here; apt-get install qemu-system-misc');
    return 0;
  }
  const seed = Number(values.seed ?? 1);
  const instructions = Number(values.instructions ?? 1e5);
  print(`privileged: seed ${seed}, against ${qemu.version}`);
  const differences = await runPrivileged({ seed, instructions, print });
  print(`privileged: ${differences} differences`);
  return differences;
};

const linux = async (): Promise<number> => {
  const driver = await buildDriver();
  if (driver === undefined) {
    print('linux: not run: no Linux here, or no gcc; apt-get install gcc libc6-dev');
    return 0;
  }
  // The rest of the machine is put back by conditions.c.
  process.once('exit', driver.remove);
  process.once('SIGINT', () => process.exit(130));
  try {
    if (values.script !== undefined) return await runOneScript(driver, values.script, print);
    const seed = Number(values.seed ?? 1);
    const scripts = Number(values.scripts ?? 20000);
    const racing = values.racing === true;
    print(`linux: seed ${seed}, ${scripts} scripts, against Linux ${kernelRelease()}`);
    const differences = await runLinux(driver, { seed, scripts, racing, print });
    print(`linux: ${differences} differences`);
    return differences;
  } finally {
    driver.remove();
  }
};

const litmus = async (): Promise<number> => {
  const runs = Number(values.runs ?? 1e7);
  const failed = await runLitmus({ runs, only: values.test, print });
  print(`litmus: ${failed} tests with forbidden outcomes`);
  return failed;
};

const lockstep = async (): Promise<number> => {
  const seed = Number(values.seed ?? 1);
  const instructions = Number(values.instructions ?? (values.boot ? 0 : 1e8));
  print(`lockstep: seed ${seed}, ${instructions} instructions of random programs`);
  const differences = instructions === 0 ? 0 : runLockstep({ seed, instructions, print });
  return differences + (values.boot ? await runLockstepBoot(print, values.pristine === true) : 0);
};

const run = async (): Promise<number> => {
  if (positionals[0] === 'isa') return isa();
  if (positionals[0] === 'privileged') return privileged();
  if (positionals[0] === 'litmus') return litmus();
  if (positionals[0] === 'linux') return linux();
  if (positionals[0] === 'lockstep') return lockstep();
  if (positionals[0] === 'requirements')
    return runRequirements({ untestedOnly: values.untested === true, print });
  throw new Error(USAGE);
};

run().then(
  differences => {
    process.exitCode = differences === 0 ? 0 : 1;
  },
  (error: unknown) => {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 125;
  },
);
