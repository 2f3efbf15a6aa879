// Litmus tests of RVWMO (the unprivileged manual's chapter "RVWMO Memory Consistency Model", and its appendix).
// x, y and z are 0, 64 and 128 bytes from a0 and begin as 0; a2 is 1, a3 is 2; what a thread observes are t0 and
// t1. Names are herd's.

export type Litmus = {
  readonly name: string;
  /** By thread, a line each. */
  readonly threads: readonly (readonly string[])[];
  /** What makes an outcome: `thread:register`, or a location's last value. Each is 0 to 3. */
  readonly observed: readonly string[];
  /** Outcomes that the model does not allow. */
  readonly forbidden: (...values: number[]) => boolean;
  /** A relaxed outcome that it allows, and that x86 shows: seen, it says that the harness can see such things. */
  readonly relaxed?: (...values: number[]) => boolean;
};

const never = (): boolean => false;
const [X, Y, Z] = ['0(a0)', '64(a0)', '128(a0)'];
const RW = 'fence 0x33';
const WW = 'fence 0x11';
const RR = 'fence 0x22';
const set = (at: string, value: 1 | 2 = 1): string => `sd a${value + 1}, ${at}`;
const get = (register: string, at: string): string => `ld ${register}, ${at}`;
/** Its address depends on t0, and is that of `at`. */
const dependent = (register: string, at: string): string[] => [
  'xor t5, t0, t0',
  'add t5, t5, a0',
  `ld ${register}, ${at.replace('a0', 't5')}`,
];
/** For atomic instructions, which have no offset: a4 is y. */
const AT_Y = 'addi a4, a0, 64';

const twoZeros = (a: number, b: number): boolean => a === 0 && b === 0;
const oneThenZero = (a: number, b: number): boolean => a === 1 && b === 0;

/** Adds 1 to x by LR and SC, until that succeeds. */
const increment = (label: string): string[] => [
  `${label}: lr.d t3, (a0)`,
  'addi t4, t3, 1',
  'sc.d t5, t4, (a0)',
  `bnez t5, ${label}`,
];

export const LITMUS: readonly Litmus[] = [
  {
    name: 'SB',
    threads: [
      [set(X), get('t0', Y)],
      [set(Y), get('t0', X)],
    ],
    observed: ['0:t0', '1:t0'],
    forbidden: never,
    relaxed: twoZeros,
  },
  {
    name: 'SB+fence.rw.rws',
    threads: [
      [set(X), RW, get('t0', Y)],
      [set(Y), RW, get('t0', X)],
    ],
    observed: ['0:t0', '1:t0'],
    forbidden: twoZeros,
  },
  {
    name: 'SB+fence.rw.rw+amoswap.aqrl',
    threads: [
      [set(X), RW, get('t0', Y)],
      [AT_Y, 'amoswap.d.aqrl t3, a2, (a4)', get('t0', X)],
    ],
    observed: ['0:t0', '1:t0'],
    forbidden: twoZeros,
  },
  {
    name: 'SB+lr.aqrls',
    threads: [
      [AT_Y, set(X), 'lr.d.aqrl t0, (a4)'],
      [set(Y), 'lr.d.aqrl t0, (a0)'],
    ],
    observed: ['0:t0', '1:t0'],
    forbidden: twoZeros,
  },
  {
    name: 'SB+lr.aqs',
    threads: [
      [AT_Y, set(X), 'lr.d.aq t0, (a4)'],
      [set(Y), 'lr.d.aq t0, (a0)'],
    ],
    observed: ['0:t0', '1:t0'],
    forbidden: never,
    relaxed: twoZeros,
  },
  {
    name: 'MP+fence.w.w+fence.r.r',
    threads: [
      [set(X), WW, set(Y)],
      [get('t0', Y), RR, get('t1', X)],
    ],
    observed: ['1:t0', '1:t1'],
    forbidden: oneThenZero,
  },
  {
    name: 'MP+fence.w.w+addr',
    threads: [
      [set(X), WW, set(Y)],
      [get('t0', Y), ...dependent('t1', X)],
    ],
    observed: ['1:t0', '1:t1'],
    forbidden: oneThenZero,
  },
  {
    name: 'MP+amoswap.rl+lr.aq',
    threads: [
      [AT_Y, set(X), 'amoswap.d.rl x0, a2, (a4)'],
      [AT_Y, 'lr.d.aq t0, (a4)', get('t1', X)],
    ],
    observed: ['1:t0', '1:t1'],
    forbidden: oneThenZero,
  },
  {
    name: 'MP+sc.rl+amoor.aq',
    threads: [
      [AT_Y, set(X), 'again: lr.d t3, (a4)', 'sc.d.rl t3, a2, (a4)', 'bnez t3, again'],
      [AT_Y, 'amoor.d.aq t0, x0, (a4)', get('t1', X)],
    ],
    observed: ['1:t0', '1:t1'],
    forbidden: oneThenZero,
  },
  {
    name: 'LB+fence.r.ws',
    threads: [
      [get('t0', X), RW, set(Y)],
      [get('t0', Y), RW, set(X)],
    ],
    observed: ['0:t0', '1:t0'],
    forbidden: (a, b) => a === 1 && b === 1,
  },
  {
    name: 'LB+datas',
    threads: [
      [get('t0', X), 'xor t5, t0, t0', 'add t5, t5, a2', `sd t5, ${Y}`],
      [get('t0', Y), 'xor t5, t0, t0', 'add t5, t5, a2', `sd t5, ${X}`],
    ],
    observed: ['0:t0', '1:t0'],
    forbidden: (a, b) => a === 1 && b === 1,
  },
  {
    name: 'R+fence.rw.rws',
    threads: [
      [set(X), RW, set(Y)],
      [set(Y, 2), RW, get('t0', X)],
    ],
    observed: ['1:t0', 'y'],
    forbidden: (x, y) => x === 0 && y === 2,
  },
  {
    name: 'R+fence.w.w+po',
    threads: [
      [set(X), WW, set(Y)],
      [set(Y, 2), get('t0', X)],
    ],
    observed: ['1:t0', 'y'],
    forbidden: never,
    relaxed: (x, y) => x === 0 && y === 2,
  },
  {
    name: 'S+fence.w.w+data',
    threads: [
      [set(X, 2), WW, set(Y)],
      [get('t0', Y), 'xor t5, t0, t0', 'add t5, t5, a2', `sd t5, ${X}`],
    ],
    observed: ['1:t0', 'x'],
    forbidden: (y, x) => y === 1 && x === 2,
  },
  {
    name: '2+2W+fence.w.ws',
    threads: [
      [set(X), WW, set(Y, 2)],
      [set(Y), WW, set(X, 2)],
    ],
    observed: ['x', 'y'],
    forbidden: (x, y) => x === 1 && y === 1,
  },
  {
    name: 'WRC+fence.rw.rw+addr',
    threads: [[set(X)], [get('t0', X), RW, set(Y)], [get('t0', Y), ...dependent('t1', X)]],
    observed: ['1:t0', '2:t0', '2:t1'],
    forbidden: (a, b, c) => a === 1 && b === 1 && c === 0,
  },
  {
    name: 'ISA2+fence.w.w+fence.rw.rw+addr',
    threads: [
      [set(X), WW, set(Y)],
      [get('t0', Y), RW, set(Z)],
      [get('t0', Z), ...dependent('t1', X)],
    ],
    observed: ['1:t0', '2:t0', '2:t1'],
    forbidden: (a, b, c) => a === 1 && b === 1 && c === 0,
  },
  {
    name: 'IRIW+fence.r.rs',
    threads: [[set(X)], [set(Y)], [get('t0', X), RR, get('t1', Y)], [get('t0', Y), RR, get('t1', X)]],
    observed: ['2:t0', '2:t1', '3:t0', '3:t1'],
    forbidden: (a, b, c, d) => a === 1 && b === 0 && c === 1 && d === 0,
  },
  {
    name: 'CoRR',
    threads: [[set(X)], [get('t0', X), get('t1', X)]],
    observed: ['1:t0', '1:t1'],
    forbidden: oneThenZero,
  },
  {
    name: 'CoWW',
    threads: [
      [set(X), set(X, 2)],
      [get('t0', X), get('t1', X)],
    ],
    observed: ['x', '1:t0', '1:t1'],
    forbidden: (x, a, b) => x !== 2 || b < a,
  },
  {
    name: 'CoRW1',
    threads: [[get('t0', X), set(X)], [set(X, 2)]],
    observed: ['0:t0', 'x'],
    forbidden: (a, x) => a === 1 || (a === 2 && x === 2),
  },
  {
    name: 'LR/SC: both increments count',
    threads: [increment('a'), increment('b')],
    observed: ['x'],
    forbidden: x => x !== 2,
  },
  {
    name: 'LR/SC: no store in between is lost',
    threads: [['lr.d t3, (a0)', 'addi t4, t3, 1', 'sc.d t0, t4, (a0)'], [set(X, 2)]],
    observed: ['0:t0', 'x'],
    forbidden: (failed, x) => x === 1 || (failed === 1 && x !== 2),
  },
  {
    name: 'AMO: both additions count, and one is first',
    threads: [['amoadd.w t0, a2, (a0)'], ['amoadd.w t0, a2, (a0)']],
    observed: ['x', '0:t0', '1:t0'],
    forbidden: (x, a, b) => x !== 2 || a === b,
  },
  {
    name: 'AMO: additions and LR/SC count',
    threads: [['amoadd.d t0, a2, (a0)'], increment('b')],
    observed: ['x'],
    forbidden: x => x !== 2,
  },
];
