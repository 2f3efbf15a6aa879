// A guest that makes new code for ever: gcc and python3 in a loop under a memory limit, each with a program of its own and
// a known answer. What counts is that every answer is right and that this process' memory stays bounded.

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { MIB } from '../src/base/units.ts';
import { buildBase } from '../src/image/build-base.ts';
import { listImages } from '../src/image/images.ts';
import { withApt } from './bench-apt.ts';
import { makeProgram } from './churn-programs.ts';
import { bar, FAULTLINE, load } from './lib.ts';
import { Session } from './session.ts';

const IMAGE = 'bench-churn';
/** gcc, and what python3 needs; python3 itself is set up by a boot of our own guest, as its scripts run itself. */
const INCLUDE = ['gcc', 'libc6-dev', 'libexpat1', 'libssl3t64'];
const IN_GUEST = ['libpython3.13-minimal', 'python3.13-minimal', 'python3-minimal'];
const MEMORY_MIB = 512;
const LIMIT_MIB = 192;
/** What this process may hold beside the guest's RAM: the engine, its code, tables, compressed pages. */
const BESIDE_MIB = 512;
/** Growth of the last quarter over the second; sooner than that everything is still warming up. */
const GROWTH = { atMost: 1.1 };
const LONG_SECONDS = 600;
const SET_UP_SECONDS = 1800;
const STEP_SECONDS = 600;

/** `npm run bench -- churn [--seconds N] [--seed N]`; half an hour unless told. */
export async function run(args: string[]): Promise<boolean> {
  const { values } = parseArgs({
    args,
    options: { seconds: { type: 'string', default: '1800' }, seed: { type: 'string', default: '1' } },
  });
  const debs = await prepare();
  const adds = debs.flatMap((deb, i) => ['--add', `${deb}:/tmp/${i}.deb`]);
  const sizes = [
    '--memory',
    `${MEMORY_MIB}M`,
    '--memory-limit',
    `${LIMIT_MIB}M`,
    '--swap',
    `zram:${MEMORY_MIB}M`,
  ];
  const guest = new Session(process.execPath, [
    FAULTLINE,
    'run',
    '-q',
    '-i',
    ...sizes,
    ...adds,
    IMAGE,
    '--',
    'sh',
  ]);
  try {
    await setUp(guest);
    return await churn(guest, Number(values.seconds), Number(values.seed));
  } finally {
    await guest.stop();
  }
}

/** Builds the image once; gives the packages that the guest is to set up itself. */
async function prepare(): Promise<string[]> {
  const onProgress = (line: string) => console.log(`  image: ${line}`);
  if (!listImages().some(image => image.name === IMAGE))
    await buildBase({ name: IMAGE, include: INCLUDE, onProgress });
  return withApt({ onProgress }, async apt => (await apt.fetch(IN_GUEST)).map(deb => deb.path));
}

async function setUp(guest: Session): Promise<void> {
  guest.type('cd /tmp; export DEBIAN_FRONTEND=noninteractive; echo "UP <$(uname -m)>"\n');
  console.log(
    `  the guest answers after ${(await guest.until(/UP <riscv64>/, SET_UP_SECONDS)).toFixed(1)} s`,
  );
  // One after the other: what one needs before it is unpacked has to be set up.
  guest.type(
    'for deb in *.deb; do dpkg -i $deb && rm $deb; done > dpkg.log 2>&1; cat dpkg.log; python3 -V; echo "SET UP <$?>"\n',
  );
  const [said, code] = await guest.next(/[\s\S]*SET UP <(\d+)>/, SET_UP_SECONDS);
  if (code !== '0') throw new Error(`the guest could not set python3 up: ${said.slice(-1000)}`);
  console.log('  python3 is set up');
}

async function churn(guest: Session, seconds: number, seed: number): Promise<boolean> {
  const start = performance.now();
  const elapsed = () => (performance.now() - start) / 1000;
  const resident: { at: number; mib: number }[] = [];
  let [programs, wrong, said] = [0, 0, 0];
  while (elapsed() < seconds || programs === 0) {
    wrong += await oneProgram(guest, seed * 1_000_000 + programs, programs % 3);
    programs += 2;
    resident.push({ at: elapsed(), mib: residentMib(guest.pid) });
    if (elapsed() - said < 10) continue;
    said = elapsed();
    console.log(
      `  ${said.toFixed(0)} s: ${programs} programs, ${wrong} wrong, resident ${resident.at(-1)!.mib.toFixed(0)} MiB   load ${load()}`,
    );
  }
  console.log(`  ${programs} programs compiled or run in ${elapsed().toFixed(0)} s, seed ${seed}`);
  const right = bar('wrong answers', wrong, { atMost: 0, unit: `of ${programs}` });
  return bounded(resident, elapsed()) && right;
}

/** Compiles and runs one program in both languages. Returns how many answers were wrong. */
async function oneProgram(guest: Session, seed: number, optimize: number): Promise<number> {
  const { c, python, answer } = makeProgram(seed);
  guest.type(
    `cat > a.c <<'END-OF-C'\n${c}END-OF-C\ngcc -O${optimize} -o a a.c; echo "C <$(./a)>"; rm -f a\n`,
  );
  const [, fromC] = await guest.next(/C <(.*)>/, STEP_SECONDS);
  guest.type(`cat > a.py <<'END-OF-PYTHON'\n${python}END-OF-PYTHON\necho "PYTHON <$(python3 a.py)>"\n`);
  const [, fromPython] = await guest.next(/PYTHON <(.*)>/, STEP_SECONDS);
  const given = { [`gcc -O${optimize}`]: fromC, python3: fromPython };
  const wrong = Object.entries(given).filter(([, got]) => got !== answer);
  for (const [who, got] of wrong) console.log(`  WRONG: ${who}, program ${seed}: ${got}, not ${answer}`);
  return wrong.length;
}

function bounded(resident: { at: number; mib: number }[], seconds: number): boolean {
  const peak = Math.max(...resident.map(r => r.mib));
  const small = bar('resident memory of the process, peak', peak, {
    atMost: MEMORY_MIB + BESIDE_MIB,
    unit: 'MiB',
  });
  if (seconds < LONG_SECONDS) {
    console.log(`  growth: not judged in less than ${LONG_SECONDS} s`);
    return small;
  }
  const most = (from: number, to: number) =>
    Math.max(...resident.filter(r => r.at >= from * seconds && r.at <= to * seconds).map(r => r.mib));
  return bar('last quarter against the second', most(0.75, 1) / most(0.25, 0.5), GROWTH) && small;
}

/** MiB of this machine's memory that a process holds. Linux only. */
function residentMib(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return (Number(/^VmRSS:\s+(\d+) kB/m.exec(status)![1]) * 1024) / MIB;
}
