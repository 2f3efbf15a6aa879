import { array, i32, struct } from '../../sync/struct.ts';

// The regions of a VM, in the arena, so that every thread that runs its vCPUs finds them. Writers hold the
// code cache's `translating`; a row is complete before an id in a decoded page leads to it.

/** The places at which regions can be entered, by id; the ids of a region follow each other. 0 is none. */
const ENTRY_FIELDS = {
  /** Number of the region. */
  fn: i32,
  /** Id of the region's first entry. */
  base: i32,
  /** Instructions that have to be left in the slice. */
  need: i32,
  /** Where it is: the decoded page's slot, and below it 12 bits of offset in the page. */
  place: i32,
  /** Of the page that `place` is in (CodeCache.stampOf). */
  stamp: i32,
  /** The instruction, as it stands in memory and decoded as if it stood alone; then what leads on. */
  raw: i32,
  record: array(2),
  afterShort: array(2),
  afterLong: array(2),
  spare: array(4),
} as const;
/** Byte offsets, for generated code. */
export const ENTRY = { fn: 0, base: 4, need: 8, record: 24 } as const;
export const ENTRY_SIZE = 64;
/** Ids are u16. */
export const MAX_ENTRIES = 65536;
export const entryStruct = (words: Int32Array) => struct(words, 'regionEntry', ENTRY_FIELDS);

/**
 * Each vCPU counts by entry how often `run` came in there, one time in 16 counted, and how many instructions then
 * retired: estimates. Its own, as two harts that execute the same code would take the lines of shared ones from each other.
 */
export const VISITS = { visits: 0, retired: 4, log2: 3 } as const;
export const VISITS_BYTES = MAX_ENTRIES << VISITS.log2;

/** A region's wasm, by its number: that of the batch which it was translated in. */
const REGION_FIELDS = {
  /** Word index of the module's bytes. */
  module: i32,
  bytes: i32,
  /** Number of the batch's first region, which is its first function. */
  first: i32,
  count: i32,
} as const;
export const REGION_WORDS = 4;
export const MAX_REGIONS = 8192;
export const regionStruct = (words: Int32Array) => struct(words, 'region', REGION_FIELDS);
/** Bytes of wasm that a VM's regions may have before all are dropped. */
export const MAX_WASM_BYTES = 24 * 2 ** 20;
/** What a VM's regions may have together before all are dropped. A test may have less. */
export type RegionLimits = { entries: number; regions: number; wasmBytes: number };
export const LIMITS: RegionLimits = {
  entries: MAX_ENTRIES,
  regions: MAX_REGIONS,
  wasmBytes: MAX_WASM_BYTES,
};
