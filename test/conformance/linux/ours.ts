import { PAGE_SIZE } from '../../../src/base/units.ts';
import type { MmBreaks } from '../../../src/mm/breaks.ts';
import type { MmCore } from '../../../src/mm/core.ts';
import {
  FAULT_OFFSET_SHIFT,
  GUP_HWPOISON,
  GUP_NOMEM,
  GUP_PFN_MASK,
  GUP_SIGBUS,
} from '../../../src/mm/fault-codes.ts';
import { Syscalls } from '../../../src/mm/syscalls/syscalls.ts';
import { testMm } from '../../../src/mm/testing.ts';
import { frameByte } from '../../../src/sync/arena.ts';
import type { Ptr } from '../../../src/sync/struct.ts';
import { besideLine } from './conditions.ts';
import { mapsLines } from './our-maps.ts';
import { OurRace } from './our-race.ts';
import { OurUffd } from './our-uffd.ts';
import { isRace, PROCESSES, type Script, type Step, WINDOW, WINDOW_BYTES, wantsHuge } from './script.ts';

type Mm = Ptr<'mm'>;
type Process = { mm: Mm; uffd?: OurUffd };

/** Places in a page that a dump reads; driver.c has the same. */
const DUMPED = [0, 8, 0x800];

/** The seed's order of a user fault is Linux's: it shows in which mappings have an anon_vma (U-14). */
const newCore = (breaks: Partial<MmBreaks>, frames = 4096): MmCore =>
  testMm({ frames, strictSeedOrder: true, breaks });

/** Five processes, each with a window full of memory, and the page tables. */
const HUGE_HOST_FRAMES = 5 * (WINDOW_BYTES / PAGE_SIZE) + 2048;
/** What says that we had no huge page to give, which would be our own fault here. */
const MISSES = ['thp_fault_fallback', 'thp_collapse_alloc_failed', 'thp_zero_page_alloc_failed'] as const;

/** Runs scripts through our mm and tells of each step what driver.c tells. */
export class Ours {
  #core: MmCore;
  #calm: MmCore;
  /** For scripts with huge pages; made when the first of them comes. */
  #huge: MmCore | undefined;
  #calls: Syscalls;
  #processes: (Process | undefined)[] = [];

  /** Shared with a second thread, for scripts that race; made when the first of them comes. */
  #race: OurRace | undefined;
  #racing = false;

  readonly #breaks: Partial<MmBreaks>;

  /** `breaks`: rules of ours to switch off, to see that scripts would notice. */
  constructor(breaks: Partial<MmBreaks> = {}) {
    this.#breaks = breaks;
    this.#core = this.#calm = newCore(breaks);
    this.#calls = new Syscalls(this.#core, 'modern');
  }

  /** Makes ready for scripts that race. */
  async ready(): Promise<void> {
    this.#race ??= await OurRace.start(this.#breaks);
  }

  /** What our mm did beside scripts that raced, since it was last made. */
  report(): string[] {
    if (this.#race === undefined) return [];
    const beside = this.#race.beside();
    return [`${besideLine('ours', beside)}, in ${beside.rounds} rounds`];
  }

  /** Ends the second thread. */
  async close(): Promise<void> {
    const race = this.#race;
    this.#race = undefined;
    await race?.close();
  }

  #use(core: MmCore): void {
    this.#core = core;
    this.#calls = new Syscalls(core, 'modern');
  }

  /** An outcome for each step. What an assertion says stands last, and the rest is missing. */
  run(script: Script): string[] {
    const outcomes: string[] = [];
    this.#racing = isRace(script);
    if (this.#racing && this.#race === undefined) throw new Error('nobody waited until a race is ready');
    this.#use(this.#racing ? this.#race!.core : this.#calmFor(script));
    const misses = this.#misses();
    try {
      this.#processes = [{ mm: this.#core.createMm() }];
      for (const step of script) {
        outcomes.push(this.#step(step));
        if (this.#racing) this.#race!.pace();
        else this.#core.checkInvariants();
      }
      this.#end();
      if (this.#misses() !== misses) outcomes.push('no huge page');
    } catch (error) {
      outcomes.push(`ASSERT ${error instanceof Error ? error.message : error}`);
      this.#forget();
    }
    return outcomes;
  }

  #calmFor(script: Script): MmCore {
    if (!wantsHuge(script)) return this.#calm;
    this.#huge ??= newCore(this.#breaks, HUGE_HOST_FRAMES);
    return this.#huge;
  }

  #misses(): number {
    return MISSES.reduce((sum, name) => sum + this.#core.vmstat.read(name), 0);
  }

  /** An mm that an assertion has failed in is not used again. */
  #forget(): void {
    this.#huge = undefined;
    if (!this.#racing) this.#calm = newCore(this.#breaks);
    else void this.close();
  }

  #end(): void {
    for (const process of this.#processes) if (process !== undefined) this.#leave(process);
    this.#core.checkInvariants();
    if (this.#core.slabs.mm.used + this.#core.slabs.vma.used + this.#core.slabs.avc.used > 0)
      throw new Error('records are left over');
  }

  #step({ process, call, args }: Step): string {
    const at = this.#processes[process];
    if (at === undefined) return '-';
    if (call === 'fork') return this.#fork(at, args[0]!);
    if (call === 'exit') return this.#exit(process);
    if (call === 'race') this.#race!.add(at.mm);
    at.uffd ??= new OurUffd(this.#core, at.mm);
    const text = this.#memory(at, call, args) ?? this.#look(at, call, args) ?? at.uffd.call(call, args);
    if (text === undefined) throw new Error(`no call ${call}`);
    return text;
  }

  #fork({ mm }: Process, child: number): string {
    if (child >= PROCESSES || this.#processes[child] !== undefined) return '-';
    this.#processes[child] = { mm: this.#core.fork(mm) };
    return '0';
  }

  #exit(process: number): string {
    if (process === 0) return '-';
    this.#leave(this.#processes[process]!);
    this.#processes[process] = undefined;
    return '0';
  }

  /** As exit does: memory first, then the descriptors. */
  #leave({ mm, uffd }: Process): void {
    if (this.#racing) this.#race!.remove(mm);
    this.#core.exit(mm);
    uffd?.close();
  }

  /** Calls that change a mapping, or what is known of it. */
  #memory({ mm }: Process, call: string, args: readonly number[]): string | undefined {
    const [a = 0, b = 0, c = 0, d = 0, e = 0] = args;
    const at = WINDOW + a;
    if (call === 'mmap') return this.#place(mm, this.#calls.mmap(mm, at, b, c, d), b);
    if (call === 'mremap') return this.#place(mm, this.#calls.mremap(mm, at, b, c, d, WINDOW + e), c);
    if (call === 'munmap') return String(this.#calls.munmap(mm, at, b));
    if (call === 'mprotect') return String(this.#calls.mprotect(mm, at, b, c));
    if (call === 'madvise') return String(this.#calls.madvise(mm, at, b, c));
    if (call === 'mlock') return String(this.#calls.mlock(mm, at, b));
    if (call === 'mlock2') return String(this.#calls.mlock2(mm, at, b, c));
    if (call === 'munlock') return String(this.#calls.munlock(mm, at, b));
    return undefined;
  }

  /** An address in the window, an error, or somewhere that isn't compared and so is unmapped again. */
  #place(mm: Mm, result: number, bytes: number): string {
    if (result < 0) return String(result);
    if (result >= WINDOW && result < WINDOW + WINDOW_BYTES) return `at ${(result - WINDOW).toString(16)}`;
    this.#calls.munmap(mm, result, bytes);
    return 'at another place';
  }

  /** Calls that look, and touches. */
  #look({ mm }: Process, call: string, args: readonly number[]): string | undefined {
    const [a = 0, b = 0] = args;
    if (call === 'read' || call === 'write') return this.#touch(mm, a, call === 'write' ? b : undefined);
    if (call === 'maps') return `maps${mapsLines(this.#core, mm)}`;
    if (call === 'dump') return `dump${this.#dump(mm)}`;
    if (call === 'mincore') return this.#mincore(mm, a, b);
    if (call === 'thp' || call === 'race' || call === 'memlock') return '0';
    return undefined;
  }

  #mincore(mm: Mm, a: number, bytes: number): string {
    const vector = new Uint8Array(4096);
    const result = this.#calls.mincore(mm, WINDOW + a, bytes, vector);
    const pages = Math.ceil(bytes / PAGE_SIZE);
    return result < 0 ? String(result) : `0 ${vector.subarray(0, pages).join('')}`.trimEnd();
  }

  #touch(mm: Mm, offset: number, value: number | undefined): string {
    const at = WINDOW + offset;
    const how = (at % PAGE_SIZE) << FAULT_OFFSET_SHIFT;
    const result = this.#core.gup.faultWait(mm, Math.floor(at / PAGE_SIZE), value !== undefined, how);
    if (result < 0) return faultName(result);
    const pfn = result & GUP_PFN_MASK;
    const word = (frameByte(pfn) + (at % PAGE_SIZE)) / 4;
    const words = this.#core.sync.arena.words;
    if (value !== undefined) {
      words[word] = value;
      // Whoever writes by a reference says so afterwards: the page may have been written to swap meanwhile.
      this.#core.pages.setDirty(pfn);
    }
    const text = value === undefined ? `ok ${words[word]! >>> 0}` : 'ok';
    this.#core.pages.put(pfn);
    return text;
  }

  #dump(mm: Mm): string {
    const { vmas, layout } = this.#core;
    let text = '';
    let end = -1;
    for (let i = 0; i < vmas.count(mm); i++) {
      const vma = vmas.at(mm, i);
      const from = layout.vma.start.get(vma) * PAGE_SIZE - WINDOW;
      if (from < 0 || from >= WINDOW_BYTES) continue;
      if (from !== end) text += ` [${from.toString(16)}]`;
      end = layout.vma.end.get(vma) * PAGE_SIZE - WINDOW;
      for (let at = from; at < end; at += PAGE_SIZE) text += ` ${this.#dumpPage(mm, at)}`;
    }
    return text;
  }

  #dumpPage(mm: Mm, at: number): string {
    const words = DUMPED.map(offset => this.#touch(mm, at + offset, undefined));
    const bad = words.find(word => !word.startsWith('ok'));
    if (bad !== undefined) return bad;
    return words.every(word => word === 'ok 0') ? '0' : words.map(word => word.slice(3)).join(',');
  }
}

/** What the access ends in. */
function faultName(result: number): string {
  if (result === GUP_SIGBUS) return 'bus';
  if (result === GUP_HWPOISON) return 'poison';
  if (result === GUP_NOMEM) return 'no memory';
  return 'segv';
}
