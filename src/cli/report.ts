import { FaultlineError } from '../base/error.ts';

/** Our own failures, as Docker has it; the guest's command keeps its own code. */
export const OWN_FAILURE = 125;
const USAGE = 2;
const INTERRUPTED = 130;

/** One line for a person, one line to try. Returns the exit code. */
export function reportError(error: unknown): number {
  const { message, code, hint } = describe(error);
  process.stderr.write(`faultline: error: ${message}   (code ${code})\n`);
  if (hint !== undefined) process.stderr.write(`    try: ${hint}\n`);
  if (process.env.FAULTLINE_DEBUG !== undefined && error instanceof Error)
    process.stderr.write(`${error.stack}\n`);
  return code === 'E_INTERRUPTED' ? INTERRUPTED : OWN_FAILURE;
}

function describe(error: unknown): { message: string; code: string; hint: string | undefined } {
  if (error instanceof FaultlineError) return { message: error.message, code: error.code, hint: error.hint };
  const e = error as { message?: string; code?: string; hint?: string };
  return {
    message: (e.message ?? String(error)).split('\n')[0] as string,
    code: e.code ?? 'E_INTERNAL',
    hint: e.hint ?? (e.code === undefined ? 'FAULTLINE_DEBUG=1 shows where; please report it' : undefined),
  };
}

export const usageExit = USAGE;

/** A progress line on stderr, replaced in place on a terminal; a plain line now and then elsewhere. */
export class Progress {
  readonly #quiet: boolean;
  #shown = false;
  #last = 0;

  constructor(quiet: boolean) {
    this.#quiet = quiet;
  }

  update(text: string): void {
    if (this.#quiet) return;
    if (process.stderr.isTTY) {
      process.stderr.write(`\r\x1b[K${text.slice(0, (process.stderr.columns ?? 80) - 1)}`);
      this.#shown = true;
      return;
    }
    const now = Date.now();
    if (now - this.#last < 2000) return;
    this.#last = now;
    process.stderr.write(`${text}\n`);
  }

  done(): void {
    if (this.#shown) process.stderr.write('\r\x1b[K');
    this.#shown = false;
  }
}
