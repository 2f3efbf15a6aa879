import { ByteQueue } from './byte-queue.ts';
import type { CharBackend, DeviceState, IrqLine, MmioDevice } from './interface.ts';
import { StateReader } from './state.ts';

// National Semiconductor 16550A, register-shift 0. Output leaves at once, so the transmitter is always
// empty. Input waits in a buffer larger than the chip's, of which FCR sees and clears 16 bytes at a time;
// the receive time-out is immediate. Section numbers are of the PC16550D data sheet.

/** Register offsets: 8.0. */
const RBR_THR_DLL = 0;
const IER_DLM = 1;
const IIR_FCR = 2;
const LCR = 3;
const MCR = 4;
const LSR = 5;
const MSR = 6;
const SCR = 7;

const Ier = { Rdi: 0x01, Thri: 0x02, Rlsi: 0x04, Msi: 0x08 } as const;
const Iir = { None: 0x01, Msi: 0x00, Thri: 0x02, Rdi: 0x04, Rlsi: 0x06, Timeout: 0x0c, Fifo: 0xc0 } as const;
const Fcr = { Enable: 0x01, ClearRx: 0x02, Kept: 0xc9 } as const;
const Lsr = { Dr: 0x01, Oe: 0x02, Thre: 0x20, Temt: 0x40 } as const;
const Mcr = { Loop: 0x10 } as const;
const DLAB = 0x80;
const FIFO_BYTES = 16;
const TRIGGER = [1, 4, 8, 14] as const;
/** Carrier, data set ready, clear to send: a terminal is always there. */
const MSR_CONNECTED = 0xb0;

const RX_CAPACITY = 4096;
const VERSION = 1;

export type Ns16550Ports = {
  readonly irq: IrqLine;
  readonly output: CharBackend;
  /** The input buffer was full and has room again. */
  readonly onRoom?: () => void;
};

export class Ns16550 implements MmioDevice {
  readonly name = 'ns16550';
  readonly length = 0x100;
  readonly #ports: Ns16550Ports;
  readonly #rx = new ByteQueue(RX_CAPACITY);
  readonly #byte = new Uint8Array(1);
  #ier = 0;
  #fcr = 0;
  #lcr = 0;
  #mcr = 0;
  /** The four delta bits, and the four lines above them. */
  #msr = MSR_CONNECTED;
  #scr = 0;
  #dll = 0;
  #dlm = 0;
  #overrun = false;
  /** The transmitter became empty and nobody has seen it: 8.4, third priority. */
  #thrEmpty = true;

  constructor(ports: Ns16550Ports) {
    this.#ports = ports;
  }

  /** Input from the terminal. Takes as many as fit; returns how many. */
  receive(bytes: Uint8Array): number {
    const taken = this.#rx.push(bytes);
    this.#update();
    return taken;
  }

  /** Registers are a byte wide: the byte at `offset`, whatever the access. */
  read(offset: number, _bytes: number): number {
    const value = this.#readRegister(offset);
    this.#update();
    return value;
  }

  write(offset: number, _bytes: number, value: number): void {
    this.#writeRegister(offset, value & 0xff);
    this.#update();
  }

  save(): DeviceState {
    return {
      version: VERSION,
      ier: this.#ier,
      fcr: this.#fcr,
      lcr: this.#lcr,
      mcr: this.#mcr,
      msr: this.#msr,
      scr: this.#scr,
      dll: this.#dll,
      dlm: this.#dlm,
      overrun: this.#overrun,
      thrEmpty: this.#thrEmpty,
      rx: this.#rx.contents(),
    };
  }

  load(state: DeviceState): void {
    const reader = new StateReader(this.name, state, VERSION);
    const names = ['ier', 'fcr', 'lcr', 'mcr', 'msr', 'scr', 'dll', 'dlm'] as const;
    const [ier, fcr, lcr, mcr, msr, scr, dll, dlm] = names.map(name => reader.number(name, 0xff)) as number[];
    const overrun = reader.flag('overrun');
    const thrEmpty = reader.flag('thrEmpty');
    const rx = reader.bytes('rx', { max: RX_CAPACITY });
    [this.#ier, this.#fcr, this.#lcr, this.#mcr] = [ier! & 0x0f, fcr! & Fcr.Kept, lcr!, mcr! & 0x1f];
    [this.#msr, this.#scr, this.#dll, this.#dlm] = [msr!, scr!, dll!, dlm!];
    this.#overrun = overrun;
    this.#thrEmpty = thrEmpty;
    this.#rx.restore(rx);
    this.#update();
  }

  reset(): void {
    this.#ier = this.#fcr = this.#lcr = this.#mcr = this.#scr = this.#dll = this.#dlm = 0;
    this.#msr = MSR_CONNECTED;
    this.#overrun = false;
    this.#thrEmpty = true;
    this.#update();
  }

  #readRegister(offset: number): number {
    const dlab = (this.#lcr & DLAB) !== 0;
    switch (offset) {
      case RBR_THR_DLL:
        return dlab ? this.#dll : this.#receiveByte();
      case IER_DLM:
        return dlab ? this.#dlm : this.#ier;
      case IIR_FCR:
        return this.#readIir();
      case LCR:
        return this.#lcr;
      case MCR:
        return this.#mcr;
      case LSR:
        return this.#readLsr();
      case MSR:
        return this.#readMsr();
      case SCR:
        return this.#scr;
      default:
        return 0;
    }
  }

  #writeRegister(offset: number, value: number): void {
    const dlab = (this.#lcr & DLAB) !== 0;
    switch (offset) {
      case RBR_THR_DLL:
        if (dlab) this.#dll = value;
        else this.#transmit(value);
        break;
      case IER_DLM:
        if (dlab) this.#dlm = value;
        else this.#writeIer(value);
        break;
      case IIR_FCR:
        this.#writeFcr(value);
        break;
      case LCR:
        this.#lcr = value;
        break;
      case MCR:
        this.#writeMcr(value);
        break;
      case SCR:
        this.#scr = value;
        break;
    }
  }

  #receiveByte(): number {
    const wasFull = this.#rx.room === 0;
    const byte = this.#rx.shift();
    if (wasFull) this.#ports.onRoom?.();
    return byte;
  }

  /** The byte leaves at once, so THR is empty again: a new interrupt, if wanted. */
  #transmit(value: number): void {
    this.#byte[0] = value;
    if ((this.#mcr & Mcr.Loop) === 0) this.#ports.output.write(this.#byte);
    else if (this.#rx.push(this.#byte) === 0) this.#overrun = true;
    this.#thrEmpty = true;
  }

  /** Enabling THRI while THR is empty interrupts at once: Linux's start_tx rests on it. */
  #writeIer(value: number): void {
    const enabled = value & 0x0f & ~this.#ier;
    this.#ier = value & 0x0f;
    if ((enabled & Ier.Thri) !== 0) this.#thrEmpty = true;
  }

  #writeFcr(value: number): void {
    const toggled = ((value ^ this.#fcr) & Fcr.Enable) !== 0;
    this.#fcr = (value & Fcr.Enable) === 0 ? 0 : value & Fcr.Kept;
    if (toggled || (value & Fcr.ClearRx) !== 0) this.#clearRx();
  }

  /** Clears what the chip would hold; the rest was still on the wire. */
  #clearRx(): void {
    const wasFull = this.#rx.room === 0;
    this.#rx.drop(FIFO_BYTES);
    if (wasFull) this.#ports.onRoom?.();
  }

  /** 8.6.2: with loopback the four outputs appear as the modem inputs. */
  #writeMcr(value: number): void {
    this.#mcr = value & 0x1f;
    const m = this.#mcr;
    const looped = ((m & 1) << 5) | ((m & 2) << 3) | ((m & 4) << 4) | ((m & 8) << 4);
    const lines = (m & Mcr.Loop) === 0 ? MSR_CONNECTED : looped;
    const changed = (lines ^ this.#msr) & 0xf0;
    // The ring indicator's delta marks only its trailing edge.
    const deltas = (changed & 0xb0) | (changed & this.#msr & 0x40);
    this.#msr = lines | (this.#msr & 0x0f) | (deltas >>> 4);
  }

  #readLsr(): number {
    const value = Lsr.Thre | Lsr.Temt | (this.#rx.length > 0 ? Lsr.Dr : 0) | (this.#overrun ? Lsr.Oe : 0);
    this.#overrun = false;
    return value;
  }

  #readMsr(): number {
    const value = this.#msr;
    this.#msr &= 0xf0;
    return value;
  }

  /** 8.4: the highest priority cause; reading it out as "THR empty" withdraws that cause. */
  #readIir(): number {
    const cause = this.#cause();
    if (cause === Iir.Thri) this.#thrEmpty = false;
    return cause | ((this.#fcr & Fcr.Enable) === 0 ? 0 : Iir.Fifo);
  }

  #cause(): number {
    if ((this.#ier & Ier.Rlsi) !== 0 && this.#overrun) return Iir.Rlsi;
    if ((this.#ier & Ier.Rdi) !== 0 && this.#rx.length > 0) return this.#receiveCause();
    if ((this.#ier & Ier.Thri) !== 0 && this.#thrEmpty) return Iir.Thri;
    if ((this.#ier & Ier.Msi) !== 0 && (this.#msr & 0x0f) !== 0) return Iir.Msi;
    return Iir.None;
  }

  #receiveCause(): number {
    const fifo = (this.#fcr & Fcr.Enable) !== 0;
    return !fifo || this.#rx.length >= TRIGGER[this.#fcr >>> 6]! ? Iir.Rdi : Iir.Timeout;
  }

  #update(): void {
    this.#ports.irq.set(this.#cause() !== Iir.None);
  }
}
