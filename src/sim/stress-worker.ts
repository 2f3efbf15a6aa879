import { parentPort, workerData } from 'node:worker_threads';
import { PageFlag } from '../mm/layout.ts';
import { Arena } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import { StressDevice } from './stress-device.ts';
import { type StressBreaks, type StressHost, stressHost } from './stress-host.ts';
import { Housekeeper } from './stress-housekeeper.ts';
import { type StressLayout, type StressShape, stressLayout } from './stress-layout.ts';
import { StressManager } from './stress-manager.ts';
import { SigbusResolver } from './stress-sigbus.ts';
import { StressTrail } from './stress-trail.ts';
import type { StressUffd } from './stress-uffd.ts';
import { StressVcpu } from './stress-vcpu.ts';

/** What a thread of the test is started with. */
export type StressWorkerData = {
  role: 'vcpu' | 'housekeeper' | 'manager';
  memory: WebAssembly.Memory;
  vm: number;
  vcpu: number;
  index: number;
  mm: number;
  hva: number;
  shape: StressShape;
  breaks: StressBreaks;
  control: number;
  report: number;
  /** With `--everything`. */
  uffd?: StressUffd;
};

type Here = StressWorkerData & { host: StressHost; layout: StressLayout; trail: StressTrail };

/** Who fills holes of the SIGBUS region on this thread, if there is one. */
function resolver({ host, shape, uffd, hva, mm, trail }: Here): SigbusResolver | undefined {
  const { regions } = shape;
  if (regions === undefined || uffd === undefined) return undefined;
  return new SigbusResolver({ mm: host.mm, space: mm as Ptr<'mm'>, hva, regions, uffd, trail });
}

/** Counts until told to stop, then looks at every counter again. */
function vcpu(here: Here): void {
  const { host, layout } = here;
  const control = here.control as Ptr<'stressControl'>;
  const sigbus = resolver(here);
  const vcpu = new StressVcpu({
    ...{ kvm: host.kvm, layout, control, index: here.index, shape: here.shape },
    vm: here.vm as Ptr<'vm'>,
    vcpu: here.vcpu as Ptr<'vcpu'>,
    report: here.report as Ptr<'stressReport'>,
    noRetranslate: here.breaks.noRetranslate,
    sigbus,
    trail: here.trail,
  });
  awaitGo(here);
  while (layout.control.stop.load(control) === 0 && !vcpu.stopped) vcpu.round();
  vcpu.sweep();
  if (sigbus !== undefined) layout.report.sigbus.store(here.report as Ptr<'stressReport'>, sigbus.moved);
  host.mm.lru.close();
  layout.control.finished.add(control, 1);
}

/** Takes memory away until told to stop, waits for the vCPUs' last look, and takes everything down. */
function housekeeper(here: Here): void {
  const { host, layout, shape } = here;
  const control = here.control as Ptr<'stressControl'>;
  const { stop, finished, keeperDone } = layout.control;
  const keeper = new Housekeeper({
    ...{ host, layout, control, shape, hva: here.hva, sigbus: resolver(here), uffd: here.uffd },
    report: here.report as Ptr<'stressReport'>,
    mm: here.mm as Ptr<'mm'>,
    trail: here.trail,
  });
  awaitGo(here);
  while (stop.load(control) === 0) keeper.round();
  keeper.end();
  keeperDone.store(control, 1);
  const others = shape.vcpus + (here.uffd === undefined ? 0 : 1);
  while (finished.load(control) < others) host.sync.waiter.wait(control + finished.at, -1, 5);
  parentPort?.postMessage({ problems: takeDown(here) });
  host.mm.lru.close();
  finished.add(control, 1);
}

/** Answers user faults, brings them about until told to stop, and is a device; it goes when nobody can meet one any more. */
function manager(here: Here): void {
  const { host, layout, shape, uffd } = here;
  const control = here.control as Ptr<'stressControl'>;
  const { stop, finished, keeperDone } = layout.control;
  if (shape.regions === undefined || uffd === undefined) throw new Error('a manager of nothing');
  const common = {
    ...{ host, layout, control, shape, hva: here.hva },
    report: here.report as Ptr<'stressReport'>,
    mm: here.mm as Ptr<'mm'>,
    trail: here.trail,
  };
  const manager = new StressManager({ ...common, uffd, regions: shape.regions });
  const device = new StressDevice(common);
  awaitGo(here);
  while (finished.load(control) < shape.vcpus || keeperDone.load(control) === 0) {
    manager.round(stop.load(control) === 0);
    device.round(layout.control.contended.load(control));
  }
  device.end();
  manager.end();
  host.mm.lru.close();
  finished.add(control, 1);
}

function trailOf(): StressTrail {
  const { vcpus } = data.shape;
  const names = [...Array.from({ length: vcpus }, (_, i) => `vCPU ${i}`), 'housekeeper', 'manager'];
  const first = layout.control.trails.load(data.control as Ptr<'stressControl'>);
  return new StressTrail(host.sync.words, first, data.index, data.uffd ? names : names.slice(0, -1));
}

function awaitGo(here: Here): void {
  const control = here.control as Ptr<'stressControl'>;
  const { ready, go } = here.layout.control;
  ready.add(control, 1);
  while (go.load(control) === 0) here.host.sync.waiter.wait(control + go.at, 0);
}

/** Proves the invariants, then that nothing is left over once the VM and its memory are gone (OR-4). */
function takeDown(here: Here): string[] {
  const { mm, vms } = here.host;
  mm.lru.drainAll();
  mm.checkInvariants();
  vms.destroy(here.vm as Ptr<'vm'>);
  mm.exit(here.mm as Ptr<'mm'>);
  // Pages of the swap cache that nobody wants any more, and that were locked when the last one let go.
  mm.vmscan.reclaim(0 as Ptr<'memcg'>, here.shape.pages);
  mm.checkInvariants();
  const { slots } = mm.swap;
  const { uffd, uffdWait } = mm.slabs;
  const problems: string[] = [];
  if (uffd.used !== 0) problems.push(`${uffd.used} contexts are left over`);
  if (uffdWait.used !== 0) problems.push(`${uffdWait.used} tickets are left over`);
  if (slots.used !== 0) problems.push(`${slots.used} swap slots are left over`);
  if (slots.cached !== 0) problems.push(`${slots.cached} pages of the swap cache are left over`);
  const left = framesLeft(mm);
  if (left !== 0) problems.push(`${left} frames are left over`);
  return problems;
}

/** Frames that somebody holds, beside the zero page and those of records, which stay with their caches. */
function framesLeft(mm: StressHost['mm']): number {
  const { pages, pageAlloc, sync } = mm;
  let left = 0;
  for (let pfn = sync.arena.firstFrame; pfn < pageAlloc.bump; pfn++) {
    if (pages.refcount(pfn) !== 0 && pfn !== pages.zeroPage && !pages.has(pfn, PageFlag.Slab)) left++;
  }
  return left;
}

const data = workerData as StressWorkerData;
const host = stressHost(Arena.attach(data.memory), data.breaks, 'attach', data.shape.seed * 7 + data.index);
const layout = stressLayout(host.sync.words);
const here: Here = { ...data, host, layout, trail: trailOf() };
if (data.role === 'vcpu') vcpu(here);
else if (data.role === 'manager') manager(here);
else housekeeper(here);
