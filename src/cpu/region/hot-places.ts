import type { CodePtr } from '../vcpu.ts';
import type { Head } from './job.ts';

type Place = Head & { heat: number };

/** Places that are counted, of all VMs; what is hot will be so again. */
const MAX_PLACES = 1024;
const MAX_REFUSED = 65536;

const keyOf = ({ slot, offset }: Head): number => slot * 4096 + offset;

/**
 * Places to which the interpreter comes often, and those that are not worth a region. A thread's own, and what it loses
 * costs speed alone.
 */
export class HotPlaces {
  readonly #byCode = new Map<CodePtr, Map<number, Place>>();
  /** By place, its page's stamp. */
  readonly #refused = new Map<CodePtr, Map<number, number>>();
  #count = 0;
  #refusals = 0;

  /** Adds to a place's heat; how much it has now, 0 if it was refused. */
  heat(code: CodePtr, head: Head, by: number): number {
    const key = keyOf(head);
    if (this.#refused.get(code)?.get(key) === head.stamp) return 0;
    const place = this.#placesOf(code).get(key);
    if (place?.stamp === head.stamp) {
      place.heat += by;
      return place.heat;
    }
    this.#begin(code, key, { ...head, heat: by });
    return by;
  }

  /** Whether a place of a slot is counted. */
  has(code: CodePtr, slot: number, offset: number): boolean {
    return this.#byCode.get(code)?.has(slot * 4096 + offset) === true;
  }

  #placesOf(code: CodePtr): Map<number, Place> {
    const places = this.#byCode.get(code) ?? new Map<number, Place>();
    if (places.size === 0) this.#byCode.set(code, places);
    return places;
  }

  #begin(code: CodePtr, key: number, place: Place): void {
    if (this.#count >= MAX_PLACES) this.#cool();
    const places = this.#placesOf(code);
    if (!places.has(key)) this.#count++;
    places.set(key, place);
  }

  /** Where all room is taken, all cool down, so that what is hot now comes up. */
  #cool(): void {
    for (const places of this.#byCode.values()) {
      for (const [key, place] of places) {
        place.heat >>= 1;
        if (place.heat === 0 && places.delete(key)) this.#count--;
      }
    }
  }

  /** The hottest places of a VM, `heat` and more, those first; what `isWanted` denies is forgotten, too. */
  take(code: CodePtr, most: number, heat: number, isWanted: (head: Head) => boolean): Head[] {
    const places = this.#placesOf(code);
    for (const [key, place] of places) if (!isWanted(place) && places.delete(key)) this.#count--;
    const hottest = [...places.values()].filter(place => place.heat >= heat).sort((a, b) => b.heat - a.heat);
    const taken = hottest.slice(0, most);
    for (const place of taken) if (places.delete(keyOf(place))) this.#count--;
    return taken;
  }

  /** The place has no region that pays, as long as its page is not decoded again. */
  refuse(code: CodePtr, head: Head): void {
    if (this.#refusals++ >= MAX_REFUSED) {
      this.#refused.clear();
      this.#refusals = 0;
    }
    const refused = this.#refused.get(code) ?? new Map<number, number>();
    if (refused.size === 0) this.#refused.set(code, refused);
    refused.set(keyOf(head), head.stamp);
  }

  /** A VM is gone, and its number may be another's. */
  forget(code: CodePtr): void {
    this.#count -= this.#byCode.get(code)?.size ?? 0;
    this.#byCode.delete(code);
    this.#refused.delete(code);
  }
}
