import { Errno } from '../base/errno.ts';
import type { DeviceState } from './interface.ts';

/** Reads a device's saved record and throws EINVAL for what isn't as `save` wrote it. */
export class StateReader {
  readonly #device: string;
  readonly #state: Record<string, unknown>;

  constructor(device: string, state: DeviceState, version: number) {
    this.#device = device;
    if (state === null || typeof state !== 'object') this.refuse('version');
    this.#state = state;
    if (state.version !== version) this.refuse('version');
  }

  refuse(field: string): never {
    throw new Errno('EINVAL', 'load', `${this.#device}: bad ${field}`);
  }

  /** An unsigned number of at most `max`, a 32-bit one unless told. */
  number(field: string, max = 0xffff_ffff): number {
    const value = this.#state[field];
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > max) this.refuse(field);
    return value as number;
  }

  flag(field: string): boolean {
    const value = this.#state[field];
    if (typeof value !== 'boolean') this.refuse(field);
    return value as boolean;
  }

  /** A copy of a byte string of at most `max` bytes, or of exactly `exactly`. */
  bytes(field: string, limit: { max?: number; exactly?: number }): Uint8Array {
    const value = this.#state[field];
    if (!(value instanceof Uint8Array)) this.refuse(field);
    const bytes = value as Uint8Array;
    if (limit.max !== undefined && bytes.length > limit.max) this.refuse(field);
    if (limit.exactly !== undefined && bytes.length !== limit.exactly) this.refuse(field);
    return bytes.slice();
  }

  /** A copy of exactly `length` words. */
  words(field: string, length: number): Int32Array {
    const value = this.#state[field];
    if (!(value instanceof Int32Array) || value.length !== length) this.refuse(field);
    return (value as Int32Array).slice();
  }

  /** A list of records, one for each part; of exactly `length`. */
  records(field: string, length: number): DeviceState[] {
    const value = this.#state[field];
    if (!Array.isArray(value) || value.length !== length) this.refuse(field);
    return value as DeviceState[];
  }

  /** A part's own record. */
  record(field: string): DeviceState {
    const value = this.#state[field];
    if (value === null || typeof value !== 'object') this.refuse(field);
    return value as DeviceState;
  }
}
