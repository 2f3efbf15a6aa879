import { expect, test } from 'vitest';
import { MIB, PAGE_SIZE } from '../base/units.ts';
import { assemble } from '../cpu/assemble.ts';
import { load } from '../machine/boot.ts';
import type { MachineBreaks } from '../machine/breaks.ts';
import { Host } from '../machine/host.ts';
import { Machine } from '../machine/machine.ts';
import { RAM_BASE } from '../machine/memory-map.ts';
import { type FaultHandler, Uffd, type UserfaultOptions } from './userfault.ts';

// A small guest that reads two pages of a range that somebody has to supply, and adds what it finds.

const AT = RAM_BASE + MIB;
const PROGRAM = `
  lui t0, 0x80100
  slli t0, t0, 32
  srli t0, t0, 32
  lw a2, 0(t0)
  lui t1, 1
  add t1, t1, t0
  lw a3, 0(t1)
  add a2, a2, a3
  sw a2, 4(t1)
  lui a7, 0x53525
  addi a7, a7, 0x354
  li a6, 0
  li a0, 0
  li a1, 0
  ecall
`;

function guest(handler: FaultHandler, options: UserfaultOptions = {}, breaks: readonly string[] = []) {
  const host = Host.create({ frames: 2048, shared: false, swap: { kind: 'none' }, breaks });
  const config = { memoryBytes: 4 * MIB, commandLine: '', clock: 'instret', seed: 1, balloon: true } as const;
  const ports = { console: () => {}, monotonicMs: () => 0, epochSeconds: 0, random: () => {} };
  const machine = new Machine(host, config, ports);
  load(machine.memory, RAM_BASE, new Uint8Array(assemble(PROGRAM, RAM_BASE).buffer));
  host.cpu.reset(machine.vcpu, { hartId: 0, pc: RAM_BASE, a1: 0 });
  const initial = (address: number) => page((address - AT) / PAGE_SIZE + 1);
  const uffd = new Uffd(host, machine.guest, handler, initial, options);
  uffd.arm({ start: AT, length: 64 * PAGE_SIZE }, options.mode ?? 'missing');
  return { host, machine, uffd };
}

/** A page whose words are all `value`. */
const page = (value: number): Uint8Array => new Uint8Array(new Int32Array(PAGE_SIZE / 4).fill(value).buffer);

/** Runs the guest to its end as InlineDriver does, giving handlers that take their time a turn. */
async function run({ machine }: { machine: Machine }): Promise<string> {
  for (let i = 0; i < 5000; i++) {
    const step = machine.step();
    if (step === 'blocked' && !machine.waitForPage(0)) await new Promise(resolve => setTimeout(resolve, 1));
    else if (step !== 'ran' && step !== 'blocked') return step;
  }
  return 'never ended';
}

const sum = ({ host, machine }: { host: Host; machine: Machine }): number =>
  host.mm.access.read32(machine.mm, machine.hva + MIB + PAGE_SIZE + 4);

test('a handler is asked for each page, by guest physical address, and what it gives is what the guest finds', async () => {
  const asked: [number, boolean, number][] = [];
  const g = guest((fault, uffd) => {
    asked.push([fault.address, fault.write, fault.initial[0]!]);
    uffd.copy(fault.address, page(fault.address === AT ? 40 : 2));
  });
  expect(await run(g)).toBe('shutdown');
  expect([sum(g), asked, g.uffd.count]).toEqual([
    42,
    [
      [AT, false, 1],
      [AT + PAGE_SIZE, false, 2],
    ],
    2,
  ]);
  g.uffd.close();
  g.machine.destroy();
  g.host.mm.checkInvariants();
});

test('a handler may answer later, out of order, and for pages that nobody has asked for yet', async () => {
  const g = guest(async (fault, uffd) => {
    await new Promise(resolve => setTimeout(resolve, 5));
    uffd.copy(AT + PAGE_SIZE, page(7));
    uffd.copy(fault.address, page(5));
  });
  expect(await run(g)).toBe('shutdown');
  expect([sum(g), g.uffd.count]).toEqual([12, 1]);
});

const BAD: [string, FaultHandler, RegExp][] = [
  [
    'that throws',
    () => {
      throw new Error('no such block');
    },
    /the handler failed at 0x80100000: Error: no such block/,
  ],
  ['that rejects', () => Promise.reject(new Error('store is down')), /the handler failed .* store is down/],
  ['that never answers', () => {}, /nobody answered at 0x80100000 within 50 ms/],
  ['that never settles', () => new Promise(() => {}), /nobody answered at 0x80100000 within 50 ms/],
  ['with half a page', (f, u) => u.copy(f.address, new Uint8Array(2048)), /EINVAL: copy/],
  ['with no page', (f, u) => u.copy(f.address, new Uint8Array(0)), /EINVAL: copy/],
  ['with a page for elsewhere', (f, u) => u.copy(f.address + 8, page(1)), /EINVAL: copy/],
  ['with a page beyond RAM', (f, u) => u.copy(f.address + 2 ** 32, page(1)), /EINVAL: .*not in RAM/],
  ['with what RAM has no cache for', (f, u) => u.continue(f.address, PAGE_SIZE), /EINVAL: continue/],
];

test.each(BAD)(
  'V-29 a handler %s ends the guest with a coded line, and never with zeros',
  async (_what, handler, message) => {
    const g = guest(handler, { answerMs: 50 });
    expect(await run(g)).toBe('out-of-memory');
    expect(g.uffd.failure).toMatchObject({ code: 'E_USER_FAULT', message: expect.stringMatching(message) });
    expect(g.host.lastFailure()).toMatch(/is lost/);
    expect(() => g.uffd.copy(AT, page(1))).toThrow('EBADF');
    g.machine.destroy();
    g.host.mm.checkInvariants();
  },
);

test('V-29 with another policy the guest goes on with zeros when its manager dies', async () => {
  const g = guest(
    () => {
      throw new Error('gone');
    },
    { closePolicy: 'mainline' },
  );
  expect(await run(g)).toBe('shutdown');
  expect(sum(g)).toBe(0);
});

test('V-31 an answer given twice is EEXIST for who gives it, and the guest goes on', async () => {
  const codes: string[] = [];
  const g = guest((fault, uffd) => {
    uffd.copy(fault.address, page(3));
    try {
      uffd.zeropage(fault.address, PAGE_SIZE);
    } catch (error) {
      codes.push((error as { code: string }).code);
    }
    uffd.copy(fault.address, page(4)); // not caught, and no reason to end anything
  });
  expect(await run(g)).toBe('shutdown');
  expect([sum(g), codes, g.uffd.failure]).toEqual([6, ['EEXIST', 'EEXIST'], undefined]);
});

test('a page that the handler declares lost ends the guest, and no other does', async () => {
  const g = guest((fault, uffd) => uffd.poison(fault.address, PAGE_SIZE));
  expect(await run(g)).toBe('out-of-memory');
  expect(g.uffd.failure).toBeUndefined();
});

test('V-36 a handler of writes is asked before the first, and the guest waits for it', async () => {
  const asked: unknown[] = [];
  const g = guest(
    (fault, uffd) => {
      const before = g.host.mm.access.read32(g.machine.mm, g.machine.hva + MIB + PAGE_SIZE + 4);
      asked.push([fault.address, fault.write, fault.wp, before]);
      uffd.writeprotect({ start: fault.address, length: PAGE_SIZE }, false);
    },
    { mode: 'wp' },
  );
  expect(await run(g)).toBe('shutdown');
  expect(asked).toEqual([[AT + PAGE_SIZE, true, true, 0]]);
});

test('O-6, V-56, S-11 what a guest gives away is zero afterwards, and its source is not asked again', async () => {
  let asked = 0;
  const g = guest((fault, uffd) => {
    asked++;
    uffd.copy(fault.address, page(9));
  });
  expect(await run(g)).toBe('shutdown');
  expect([asked, sum(g)]).toEqual([2, 18]);
  expect(g.machine.memory.discard(AT, 2 * PAGE_SIZE)).toBe(true);
  g.host.cpu.reset(g.machine.vcpu, { hartId: 0, pc: RAM_BASE, a1: 0 });
  expect(await run(g)).toBe('shutdown');
  expect([asked, sum(g)]).toEqual([2, 0]);
  // What was not given away still comes from there.
  expect(g.machine.memory.pin(AT + 5 * PAGE_SIZE, 4, 'read')).toBe('blocked');
  expect(g.machine.waitForPage(0)).toBe(true);
  const pin = g.machine.memory.pin(AT + 5 * PAGE_SIZE, 4, 'read');
  expect([asked, typeof pin === 'string' ? pin : pin.pieces[0]![0]]).toEqual([3, 9]);
  if (typeof pin !== 'string') g.machine.memory.unpin(pin);
  g.uffd.close();
  g.machine.destroy();
  g.host.mm.checkInvariants();
});

test('T-DN-03, V-56 what is zapped once the manager has read of it is not brought back by it; without the rule it is', async () => {
  const rule: keyof MachineBreaks = 'forgetRemoved';
  /** What the guest finds, and how often the source is asked, before and after its pages are zapped. */
  const outcome = async (breaks: readonly string[]): Promise<number[]> => {
    let asked = 0;
    const g = guest(
      (fault, uffd) => {
        asked++;
        uffd.copy(fault.address, page(9));
      },
      {},
      breaks,
    );
    const found: number[] = [];
    for (let i = 0; i < 2; i++) {
      g.host.cpu.reset(g.machine.vcpu, { hartId: 0, pc: RAM_BASE, a1: 0 });
      expect(await run(g)).toBe('shutdown');
      found.push(asked, sum(g));
      // The event is read before the pages go, so the manager knows of it when it is next asked.
      expect(g.machine.memory.discard(AT, 2 * PAGE_SIZE)).toBe(true);
    }
    g.uffd.close();
    g.machine.destroy();
    g.host.mm.checkInvariants();
    return found;
  };
  expect(await outcome([])).toEqual([2, 18, 2, 0]);
  expect(await outcome([rule])).toEqual([2, 18, 4, 18]);
});

test('K-31 a guest that waits for its page can be ended, and leaves no waiter', () => {
  const g = guest(() => {}, { answerMs: 60_000 });
  for (let i = 0; i < 20; i++) g.machine.step();
  expect(g.machine.step()).toBe('blocked');
  expect(g.machine.memory.pin(AT + 3 * PAGE_SIZE, 4, 'read')).toBe('blocked');
  g.machine.destroy();
  g.uffd.close();
  g.host.mm.checkInvariants();
});

test('ranges that are not whole pages of RAM, or somebody else’s, are refused', () => {
  const g = guest(() => {});
  const again = (start: number, length: number, mode: 'missing' | 'minor' = 'missing') => {
    const other = new Uffd(
      g.host,
      g.machine.guest,
      () => {},
      () => page(0),
      {},
    );
    try {
      other.arm({ start, length }, mode);
    } finally {
      other.close();
    }
  };
  expect(() => again(AT, PAGE_SIZE)).toThrow('EBUSY');
  expect(() => again(RAM_BASE + 1, PAGE_SIZE)).toThrow('EINVAL');
  expect(() => again(RAM_BASE, 100)).toThrow('EINVAL');
  expect(() => again(RAM_BASE, 0)).toThrow('EINVAL');
  expect(() => again(RAM_BASE, 5 * MIB)).toThrow('EINVAL');
  expect(() => again(0, PAGE_SIZE)).toThrow('EINVAL');
  expect(() => again(RAM_BASE + 2 * MIB, PAGE_SIZE, 'minor')).toThrow('EINVAL');
  g.uffd.close();
});

test('options that say nothing are E_USAGE before anything is registered', () => {
  const answers: FaultHandler = () => {};
  for (const [handler, options] of [
    [answers, { closePolicy: 'posion' as 'poison' }],
    [answers, { answerMs: Number.NaN }],
    [undefined as unknown as FaultHandler, {}],
  ] as const)
    expect(() => guest(handler, options)).toThrow(/user faults: .*(no closePolicy|no time|not a function)/);
});

test('V-36 a copy in answer to a protected write is no answer: the manager fails, the guest does not ask for ever', async () => {
  let asked = 0;
  const g = guest(
    (fault, uffd) => {
      asked++;
      uffd.copy(fault.address, page(1));
    },
    { mode: 'wp' },
  );
  g.uffd.arm({ start: AT, length: 64 * PAGE_SIZE }, 'missing');
  g.uffd.arm({ start: AT, length: 64 * PAGE_SIZE }, 'wp');
  g.host.mm.access.read32(g.machine.mm, g.machine.hva + MIB + PAGE_SIZE);
  await run(g);
  expect([asked, g.uffd.failure?.code]).toEqual([1, 'E_USER_FAULT']);
  g.machine.destroy();
});

test('what is no Uint8Array is EINVAL, not zeros', () => {
  const g = guest(() => {});
  const text = 'x'.repeat(PAGE_SIZE) as unknown as Uint8Array;
  expect(() => g.uffd.copy(AT, text)).toThrow(/EINVAL/);
  g.uffd.close();
  g.machine.destroy();
});
