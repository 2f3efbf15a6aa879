import type { Code } from '../wasm/code.ts';
import type { Code as CodeRecord } from './code-cache.ts';
import type { VcpuPtr } from './interface.ts';
import { AT, type CodePtr } from './vcpu.ts';

// A vCPU counts events in its record, 64 bits each. The runner that holds it adds, plainly, and mostly in generated
// code; anyone reads. Hits are not counted: that would cost as much as the hit.

/** What is counted, by the names that statistics have. */
const EVENTS = {
  region_exits_lookup: AT.lookups,
  region_exits_interpret: AT.interprets,
  interpreter_calls: AT.interpreted,
  tlb_fills: AT.tlbFills,
  tlb_misses: AT.tlbMisses,
  tlb_asked: AT.tlbAsked,
} as const;

export type Events = Record<keyof typeof EVENTS, number>;

/** Adds 1 to a count of the record whose byte address is local `cpu`. */
export function count(c: Code, cpu: number, at: number): void {
  c.get(cpu)
    .get(cpu)
    .mem('i64_load', at * 4)
    .i64(1)
    .op('i64_add')
    .mem('i64_store', at * 4);
}

/** The counts of a vCPU, which may run meanwhile: each is one that was true at some moment of the call. */
export function readEvents(words: Int32Array, vcpu: VcpuPtr): Events {
  const events = {} as Events;
  for (const name of Object.keys(EVENTS) as (keyof Events)[]) {
    events[name] = readCount(words, vcpu + EVENTS[name]);
  }
  return events;
}

/** The two halves are stored at once, and read again when the high one has changed. */
function readCount(words: Int32Array, at: number): number {
  for (;;) {
    const high = Atomics.load(words, at + 1);
    const low = Atomics.load(words, at) >>> 0;
    if (Atomics.load(words, at + 1) === high) return (high >>> 0) * 2 ** 32 + low;
  }
}

/** What was translated of a VM's code since it was made, by all its threads. */
export type Translated = {
  regions: number;
  region_instructions: number;
  /** Regions that pages have from others with the same content. */
  regions_recalled: number;
  /** Modules of several regions. */
  region_batches: number;
  region_wasm_bytes: number;
  region_microseconds: number;
  /** How often all regions were dropped, to make room. */
  region_drops: number;
  /** Entries that were taken away, as they did not pay. */
  region_entries_refused: number;
};

export const readTranslated = (c: CodeRecord, code: CodePtr): Translated => ({
  regions: c.translatedRegions.get(code),
  region_instructions: c.translatedInstructions.get(code),
  regions_recalled: c.recalled.get(code),
  region_batches: c.batches.get(code),
  region_wasm_bytes: c.translatedBytes.get(code),
  region_microseconds: c.translateMicroseconds.get(code),
  region_drops: c.epoch.load(code),
  region_entries_refused: c.entriesRefused.get(code),
});
