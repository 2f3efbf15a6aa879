import { Command, InvalidArgumentError, Option } from 'commander';
import { type BenchFlags, bench } from './bench.ts';
import { doctor } from './doctor.ts';
import { imageCommand } from './image.ts';
import { mem } from './mem.ts';
import { OWN_FAILURE, reportError, usageExit } from './report.ts';
import { type RunFlags, run } from './run.ts';

const program = new Command('faultline')
  .description('A real 64-bit Debian inside JavaScript, in memory that swaps. No KVM, no root.')
  .version('0.1.0')
  .showHelpAfterError('(faultline --help shows what there is)')
  .enablePositionalOptions()
  .exitOverride();

program
  .command('run')
  .description('boot an image and run a command in it; without one, a shell on its console')
  .argument('[image]', "'tiny', 'base', a name from `image list`, or an image's directory")
  .argument('[command...]', 'after `--`: what to run, with its arguments')
  .option('-i, --interactive', 'hand on standard input')
  .option('-t, --tty', 'give the command a terminal')
  .option('-m, --memory <size>', "guest RAM (default: the image's, 256M)")
  .option('--memory-limit <size>', 'most of it that may be in frames at once; the rest swaps')
  .option('--swap <spec>', 'none, zram[:SIZE] or file:PATH (default: zram when there is a limit)')
  .addOption(
    new Option('--ksm <whose>', 'merge equal pages (default: off)').choices(['off', 'self', 'same-owner']),
  )
  .addOption(
    new Option('--balloon <kind>', 'what the guest gives back of what it frees').choices([
      'off',
      'free-page-reporting',
    ]),
  )
  .option('--cpus <n>', 'harts, 1 to 8', count)
  .option('--runners <n>', 'workers that run vCPUs; 0 runs all on one thread', count)
  .addOption(
    new Option('--clock <kind>', 'real time, or the count of instructions').choices(['real', 'instret']),
  )
  .option('--seed <n>', "seed of the guest's random sources", count)
  .option('--append <text>', "added to the kernel's command line")
  .option('--cmdline <text>', "instead of the image's command line")
  .option('--pristine', 'modules and command line as Debian ships them')
  .option('--add <host:guest>', 'copy a file into the guest before it starts (repeatable)', collect, [])
  .option('-e, --env <NAME=value>', "set in the command's environment (repeatable)", collect, [])
  .option('-w, --workdir <path>', 'directory that the command starts in')
  .option(
    '--bare <file>',
    'run an ELF in supervisor mode, with nothing but SBI; its store to `tohost` ends it',
  )
  .option('--stats <file>', "write counters at exit, as JSON: vmstat's names, KVM's, and what the CPU counts")
  .option('--timeout <seconds>', 'give up after so long (exit code 124)', count)
  .option('--console', "show the guest's console on standard error")
  .option('--blocked-one-in <n>', 'test: answer one page in so many `blocked` first', count)
  .addOption(
    new Option('--break <rule>', 'test: switch a rule of the memory core off')
      .argParser(collect)
      .default([])
      .hideHelp(),
  )
  .option('-q, --quiet', 'no progress')
  .passThroughOptions()
  .addHelpText(
    'after',
    `
Examples:
  faultline run tiny -- uname -m
  faultline run -it tiny
  faultline run --memory 256M --memory-limit 64M tiny -- sh -c 'dd if=/dev/zero of=/tmp/x bs=1M count=100'
  faultline run base -- perl -e 'print 6*7'

The exit code is the command's; ${OWN_FAILURE} is a failure of ours, with a coded line on standard error.`,
  )
  .action(async (image: string | undefined, command: string[], flags: RunFlags) => {
    process.exitCode = await run(image, command, flags);
  });

program.addCommand(imageCommand());

program
  .command('mem')
  .summary('running guests, live: their memory and CPU')
  .description(
    `running guests, live, in two lines a second. Memory: resident, young, old, swapped, zero, huge, merged (KSM), balloon; pressure; faults, pages asked of programs and swaps a second. CPU: millions of instructions a second; regions that were translated, instructions in them, bytes of wasm, seconds that took; regions left a second, for another place or an instruction of the interpreter's; calls of it a second where there was no region; TLB misses in 1000 instructions`,
  )
  .argument('[pid]', 'which, by its process (default: the only one)')
  .option('--json', 'one line of JSON a second')
  .option('--once', 'one look, then leave')
  .action(async (pid: string | undefined, flags: { json?: boolean; once?: boolean }) => {
    process.exitCode = await mem(pid, flags);
  });

program
  .command('doctor')
  .description('what this host can and cannot do, with reasons')
  .option('--json', 'as JSON')
  .action(async (flags: { json?: boolean }) => {
    process.exitCode = await doctor(flags);
  });

program
  .command('bench')
  .description(
    'what guests get out of this host, in some twenty seconds: integers, floating point, memory, system calls, page faults, beside native code where gcc is installed',
  )
  .option('--seconds <s>', 'what a test lasts, about', seconds, 0.5)
  .option('--json', 'as JSON')
  .option('-q, --quiet', 'no progress')
  .action(async (flags: BenchFlags) => {
    process.exitCode = await bench(flags);
  });

function seconds(value: string): number {
  const number = Number(value);
  if (!(number > 0 && number <= 60)) throw new InvalidArgumentError('Not a number from 0 to 60.');
  return number;
}

function count(value: string): number {
  const number = Number(value);
  if (value.trim() === '' || !(number >= 0 && number < 2 ** 53))
    throw new InvalidArgumentError('Not a number.');
  return number;
}

function collect(value: string, before: string[]): string[] {
  return [...before, value];
}

/** Whoever read our output has left, as `head` does: nobody is told, and the guest goes too. Shells have 128 + SIGPIPE. */
process.stdout.on('error', (error: { code?: string }) => {
  process.exit(error.code === 'EPIPE' ? 141 : OWN_FAILURE);
});

async function main(): Promise<void> {
  try {
    await program.parseAsync();
  } catch (error) {
    const e = error as { code?: string; exitCode?: number };
    if (e.code?.startsWith('commander.'))
      process.exitCode = e.exitCode === 0 ? 0 : process.argv[2] === 'run' ? OWN_FAILURE : usageExit;
    else process.exitCode = reportError(error);
  }
}

void main();
