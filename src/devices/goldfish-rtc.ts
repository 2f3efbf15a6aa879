import type { Clock, DeviceState, IrqLine, MmioDevice } from './interface.ts';
import { StateReader } from './state.ts';

// The Goldfish platform's real-time clock: 64-bit nanoseconds since 1970, and one alarm. BigInt is fine
// here, as a guest reads it once a boot.

const TIME_LOW = 0x00;
const TIME_HIGH = 0x04;
const ALARM_LOW = 0x08;
const ALARM_HIGH = 0x0c;
const IRQ_ENABLED = 0x10;
const CLEAR_ALARM = 0x14;
const ALARM_STATUS = 0x18;
const CLEAR_INTERRUPT = 0x1c;

const MASK64 = (1n << 64n) - 1n;
const VERSION = 1;

export type GoldfishRtcPorts = { readonly irq: IrqLine; readonly clock: Clock };

export class GoldfishRtc implements MmioDevice {
  readonly name = 'goldfish-rtc';
  readonly length = 0x1000;
  readonly #ports: GoldfishRtcPorts;
  /** What the guest added to the real time by setting it, modulo 2^64. */
  #offset = 0n;
  /** Upper half, latched by a read of the lower. */
  #timeHigh = 0;
  /** Upper half, written before the lower. */
  #setHigh = 0;
  #alarm = 0n;
  #alarmHigh = 0;
  #armed = false;
  #enabled = false;
  #pending = false;

  constructor(ports: GoldfishRtcPorts) {
    this.#ports = ports;
  }

  /** The clock's time, in nanoseconds, at which the alarm is due; Infinity without one. */
  nextDeadline(): number {
    if (!this.#armed) return Number.POSITIVE_INFINITY;
    const wait = this.#alarm - this.#now();
    return this.#ports.clock.now() + (wait > 0n ? Number(wait) : 0);
  }

  /** Rings the alarm if it is due. */
  poll(): void {
    if (!this.#armed || this.#now() < this.#alarm) return;
    this.#armed = false;
    this.#pending = true;
    this.#update();
  }

  read(offset: number, _bytes: number): number {
    switch (offset) {
      case TIME_LOW: {
        const now = this.#now();
        this.#timeHigh = Number(now >> 32n);
        return Number(now & 0xffff_ffffn);
      }
      case TIME_HIGH:
        return this.#timeHigh;
      case ALARM_LOW:
        return Number(this.#alarm & 0xffff_ffffn);
      case ALARM_HIGH:
        return Number(this.#alarm >> 32n);
      case IRQ_ENABLED:
        return this.#enabled ? 1 : 0;
      case ALARM_STATUS:
        return this.#armed ? 1 : 0;
      default:
        return 0;
    }
  }

  write(offset: number, _bytes: number, value: number): void {
    switch (offset) {
      case TIME_LOW:
        this.#offset = (join(this.#setHigh, value) - this.#realTime()) & MASK64;
        break;
      case TIME_HIGH:
        this.#setHigh = value >>> 0;
        break;
      case ALARM_LOW:
        this.#alarm = join(this.#alarmHigh, value);
        this.#armed = true;
        this.poll();
        break;
      case ALARM_HIGH:
        this.#alarmHigh = value >>> 0;
        break;
      case IRQ_ENABLED:
        this.#enabled = (value & 1) === 1;
        this.#update();
        break;
      case CLEAR_ALARM:
        this.#armed = false;
        break;
      case CLEAR_INTERRUPT:
        this.#pending = false;
        this.#update();
        break;
    }
  }

  save(): DeviceState {
    return {
      version: VERSION,
      offset: words(this.#offset),
      alarm: words(this.#alarm),
      timeHigh: this.#timeHigh,
      setHigh: this.#setHigh,
      alarmHigh: this.#alarmHigh,
      armed: this.#armed,
      enabled: this.#enabled,
      pending: this.#pending,
    };
  }

  load(state: DeviceState): void {
    const reader = new StateReader(this.name, state, VERSION);
    const [offset, alarm] = [reader.words('offset', 2), reader.words('alarm', 2)];
    const highs = ['timeHigh', 'setHigh', 'alarmHigh'].map(name => reader.number(name));
    const flags = ['armed', 'enabled', 'pending'].map(name => reader.flag(name));
    this.#offset = join(offset[1]!, offset[0]!);
    this.#alarm = join(alarm[1]!, alarm[0]!);
    [this.#timeHigh, this.#setHigh, this.#alarmHigh] = highs as [number, number, number];
    [this.#armed, this.#enabled, this.#pending] = flags as [boolean, boolean, boolean];
    this.#update();
  }

  /** The time stays as the guest set it; the alarm goes. */
  reset(): void {
    this.#armed = this.#enabled = this.#pending = false;
    this.#alarm = 0n;
    this.#timeHigh = this.#setHigh = this.#alarmHigh = 0;
    this.#update();
  }

  #realTime(): bigint {
    const clock = this.#ports.clock;
    const running = clock.now() + (clock.paused?.() ?? 0);
    return BigInt(Math.floor(clock.epochSeconds * 1e6)) * 1000n + BigInt(Math.floor(running));
  }

  #now(): bigint {
    return (this.#realTime() + this.#offset) & MASK64;
  }

  #update(): void {
    this.#ports.irq.set(this.#pending && this.#enabled);
  }
}

function join(high: number, low: number): bigint {
  return (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
}

function words(value: bigint): Int32Array {
  return Int32Array.of(Number(value & 0xffff_ffffn), Number(value >> 32n));
}
