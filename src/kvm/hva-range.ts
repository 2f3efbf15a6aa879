import type { Gfn, Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { KvmLayout } from './layout.ts';

/** Guest frames of one slot. `first === last` is empty. Reused between calls. */
export type GfnRange = { slot: Ptr<'slot'>; first: Gfn; last: Gfn };

/**
 * The guest frames of the nth slot of a set that [start, end) of the address space backs. Returns 0 past the
 * last slot; a slot that is not touched, or has no memory yet (L-3), gives an empty range.
 */
export function hvaRange(
  words: Int32Array,
  layout: KvmLayout,
  set: Ptr<'slots'>,
  n: number,
  start: Vpn,
  end: Vpn,
  into: GfnRange,
): Ptr<'slot'> {
  if (n >= layout.slots.count.get(set)) return 0 as Ptr<'slot'>;
  const slot = words[set + layout.slots.entries.at + n] as Ptr<'slot'>;
  const vpn = layout.slot.vpn.get(slot);
  const from = Math.max(start, vpn);
  const to = Math.min(end, vpn + layout.slot.npages.get(slot));
  into.slot = slot;
  into.first = 0;
  into.last = 0;
  if (from < to && (vpn !== 0 || layout.slot.userAlloc.get(slot) !== 0)) {
    into.first = layout.slot.gfn.get(slot) + (from - vpn);
    into.last = layout.slot.gfn.get(slot) + (to - vpn);
  }
  return slot;
}
