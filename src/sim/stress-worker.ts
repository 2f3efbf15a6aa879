import { workerData } from 'node:worker_threads';
import { Arena } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import { type StressBreaks, type StressHost, stressHost } from './stress-host.ts';
import { type StressShape, stressLayout } from './stress-layout.ts';
import { StressVcpu } from './stress-vcpu.ts';

/** What a stress worker is started with. */
export type StressWorkerData = {
  memory: WebAssembly.Memory;
  vm: number;
  vcpu: number;
  index: number;
  shape: StressShape;
  breaks: StressBreaks;
  control: number;
  report: number;
};

/** One vCPU on a thread of its own: counts until told to stop, then looks at every counter again. */
function main(data: StressWorkerData): void {
  const host: StressHost = stressHost(Arena.attach(data.memory), data.breaks, 'attach');
  const layout = stressLayout(host.sync.words);
  const control = data.control as Ptr<'stressControl'>;
  const vcpu = new StressVcpu({
    ...{ kvm: host.kvm, layout, control, index: data.index, shape: data.shape },
    vm: data.vm as Ptr<'vm'>,
    vcpu: data.vcpu as Ptr<'vcpu'>,
    report: data.report as Ptr<'stressReport'>,
    noRetranslate: data.breaks.noRetranslate,
  });
  const { ready, go, stop, finished } = layout.control;
  ready.add(control, 1);
  while (go.load(control) === 0) host.sync.waiter.wait(control + go.at, 0);
  while (stop.load(control) === 0 && !vcpu.stopped) vcpu.round();
  vcpu.sweep();
  host.mm.lru.close();
  finished.add(control, 1);
}

main(workerData as StressWorkerData);
