import { i32, type Ptr, ptr, struct } from '../../sync/struct.ts';

/** Whose pages may become one. By default an owner's: equal pages of others would show by timing. */
export const KsmMerge = { Off: 0, Self: 1, SameOwner: 2 } as const;
/** Names of `KsmMerge`, by its value. */
export const KSM_MERGE = ['off', 'self', 'same-owner'] as const;

/** Values of `run`, as in /sys/kernel/mm/ksm/run. */
export const KsmRun = { Stop: 0, Merge: 1, Unmerge: 2 } as const;

/** Buckets whose heads share a frame: the stable ones in its first half, the unstable in its second. */
export const BUCKETS_PER_FRAME = 512;

export function ksmLayout(words: Int32Array) {
  return {
    /** At Root.ksm. Settings and counters are atomic, as they are read without the lock. */
    ksm: struct(words, 'ksm', {
      lock: i32, //   class 'ksm'
      active: i32, // it ran once: address spaces that exit must ask
      run: i32,
      pages_to_scan: i32,
      sleep_millisecs: i32,
      use_zero_pages: i32,
      max_page_sharing: i32,
      merge: i32, //  KsmMerge
      pages_shared: i32,
      pages_sharing: i32,
      pages_unshared: i32,
      pages_scanned: i32,
      full_scans: i32,
      zero_pages: i32, // pages given up for the zero page, ever
      items: i32, //    of all address spaces
      // From here on under the lock, plain.
      mm: ptr('mm'), //        the scan stands in it, 0 before the first
      vpn: i32, //             and here
      prev: ptr('ksmItem'), // the item before that place, 0 for none
      seq: i32, //             number of the pass, from 1 on
      sweeping: i32, //        the pass looks at nodes
      sweep: ptr('ksmNode'), // the next one
      nodes: ptr('ksmNode'), // all
      mask: i32, //            buckets - 1
      directory: i32, //       word index of the pfns of the bucket frames
      zeroLo: i32, //          the hash of a page of zeroes
      zeroHi: i32,
    }),
  };
}
export type KsmLayout = ReturnType<typeof ksmLayout>;
export type KsmRoot = Ptr<'ksm'>;
