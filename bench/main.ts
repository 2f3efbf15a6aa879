// `npm run bench -- NAME [options]`: each bench answers one question, prints its figures with the load
// average, and exits non-zero below its floor. Without a name it lists them.

import { loadavg } from 'node:os';

type Bench = {
  question: string;
  load: () => Promise<{ run(args: string[]): unknown }>;
};

const BENCHES: Record<string, Bench> = {
  faults: {
    question: 'what does a minor fault cost, against the kernel?',
    load: () => import('./faults.ts'),
  },
  thp: {
    question: 'what does a huge page cost, against the kernel?',
    load: () => import('./thp.ts'),
  },
  userfault: {
    question: 'what does a user fault cost, against userfaultfd?',
    load: () => import('./userfault.ts'),
  },
  move: {
    question: 'is a page brought to a guest sooner by COPY or by MOVE, beside 1 to 16 vCPUs?',
    load: () => import('./move.ts'),
  },
  pageops: {
    question: 'what do zero, copy, compare, hash and LZ4 of a page cost?',
    load: () => import('./pageops.ts'),
  },
  interp: {
    question: 'how many instructions a second does the interpreter retire?',
    load: () => import('./interp.ts'),
  },
  boot: {
    question: 'how long from process start to the prompt, against QEMU?',
    load: () => import('./boot.ts'),
  },
  cpu: {
    question: 'how fast are programs in the guest, against QEMU and v86?',
    load: () => import('./cpu.ts'),
  },
  pause: { question: 'how soon does a busy guest stand still?', load: () => import('./pause.ts') },
  smp: { question: 'what is a second hart worth?', load: () => import('./smp.ts') },
  armed: {
    question: 'what does it cost that memory could be reclaimed, while it is not?',
    load: () => import('./armed.ts'),
  },
  churn: {
    question: 'does a guest that makes code for ever stay bounded, and right?',
    load: () => import('./churn.ts'),
  },
  ageing: { question: 'does the TLB generation bump save refaults?', load: () => import('./ageing.ts') },
  'free-page-reporting': {
    question: 'does the Host get back what a guest has freed?',
    load: () => import('./free-page-reporting.ts'),
  },
  'ksm-guests': {
    question: 'how many frames do four guests need whose equal pages are merged?',
    load: () => import('./ksm-guests.ts'),
  },
  idle: { question: 'what does an idle guest at its prompt cost?', load: () => import('./idle.ts') },
  ksm: { question: 'how fast are equal pages merged, against ksmd?', load: () => import('./ksm.ts') },
  zram: {
    question: 'what does swap to compressed memory and back cost, against zram?',
    load: () => import('./zram.ts'),
  },
  swap: {
    question: 'does a squeezed guest keep every byte, and at what rate?',
    load: () => import('./swap.ts'),
  },
};

const [name, ...args] = process.argv.slice(2);
// Then standard output is for the figures alone.
if (args.includes('--json')) console.log = console.error;
const bench = name === undefined ? undefined : BENCHES[name];
if (bench === undefined) {
  for (const [key, { question }] of Object.entries(BENCHES)) console.log(`  ${key.padEnd(19)} ${question}`);
  process.exitCode = name === undefined ? 0 : 2;
} else {
  console.log(
    `${name}: ${bench.question}   load average ${loadavg()
      .map(l => l.toFixed(2))
      .join(' ')}`,
  );
  const met = await (await bench.load()).run(args);
  if (met === false) process.exitCode = 1;
}
