/** What a page tells the worker that holds its guest. */
export type ToGuest =
  | {
      kind: 'boot';
      kernelUrl: string;
      initrdUrl: string;
      commandLine: string;
      memoryBytes: number;
      memoryLimitBytes?: number;
      zramBytes?: number;
    }
  | { kind: 'type'; bytes: Uint8Array }
  | { kind: 'stop' };

/** What the worker tells the page. `shared`: the page is cross-origin isolated, so threads may attach. */
export type FromGuest =
  | { kind: 'booting'; shared: boolean }
  | { kind: 'console'; bytes: Uint8Array }
  | { kind: 'counters'; counters: Record<string, unknown> }
  | { kind: 'ended'; reason: string }
  | { kind: 'failed'; message: string };
