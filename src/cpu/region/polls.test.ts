import { expect, test } from 'vitest';
import { assemble } from '../assemble.ts';
import { Request } from '../interface.ts';
import { FlatMachine, RAM_BASE } from '../testing.ts';
import { AT } from '../vcpu.ts';
import { planRegion, writeBatch } from './batch.ts';

// Others that ask something of a vCPU wait for it; a region must not make them wait for the end of a slice.

const LOOP = 'again: addi a0, a0, 1\nbne a0, a1, again\necall';

/** Calls the loop's region as the dispatch would, with a request pending, and says how far it came. */
function roundsDespiteRequest(polls: boolean): bigint {
  const m = new FlatMachine();
  m.program(LOOP);
  const halves = new Uint16Array(2048);
  halves.set(new Uint16Array(assemble(LOOP).buffer));
  const plan = planRegion(offset => halves[offset / 2]!, [0])!;
  const bytes = writeBatch([plan], { shared: false, watched: false, fused: false, polls });
  const env = { memory: m.arena.memory, fillRead: () => 0, fillWrite: () => 0 };
  const { r0 } = new WebAssembly.Instance(new WebAssembly.Module(bytes as BufferSource), { env }).exports;
  m.setX(11, 100n);
  m.arena.words[m.vcpu + AT.left] = 1000;
  m.cpu.vcpu.requests.or(m.vcpu, Request.FlushTlb);
  (r0 as (...args: unknown[]) => number)(m.vcpu * 4, 0, 1, 0, BigInt(RAM_BASE));
  return m.x(10);
}

test('a loop of a VM with several vCPUs is left at once when something is asked of its own', () => {
  expect(roundsDespiteRequest(true)).toBe(0n);
});

test('a loop of a VM with one goes on until its slice ends', () => {
  expect(roundsDespiteRequest(false)).toBe(100n);
});
