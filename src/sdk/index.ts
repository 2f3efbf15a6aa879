/** `faultline`: a Linux in one object. */
export { FaultlineError } from '../base/error.ts';
export type { CpuStat } from '../machine/host.ts';
export type { AgentProcess } from './agent-client.ts';
export { type CommandResult, Commands, type RunOptions } from './commands.ts';
export { Host, type HostOptions, type HostStat } from './host.ts';
export {
  type GuestMemoryStat,
  Memory,
  type MemoryAdvice,
  type MemoryFile,
  type MemoryStat,
  type Pressure,
  type PsiLine,
} from './memory.ts';
export type { SandboxOptions } from './options.ts';
export { Sandbox } from './sandbox.ts';
export type { Size } from './size.ts';
export type { SmapsMapping } from './smaps-mapping.ts';
export {
  type FaultHandler,
  type Range,
  Uffd,
  type UserFault,
  type UserfaultOptions,
} from './userfault.ts';
