/** One call of one process. Addresses count from WINDOW; numbers are the system calls' own. */
export type Step = { process: number; call: string; args: readonly number[] };
export type Script = readonly Step[];

/** Where scripts map things, on both sides. driver.c has the same. */
export const WINDOW = 0x20000000;
export const WINDOW_BYTES = 0x1000000;
export const PROCESSES = 6;

/** Does a second thread get in its way? */
export const isRace = (script: Script): boolean => script.some(({ call }) => call === 'race');

/** Does it switch huge pages on? Without `thp` a script's processes have none. */
export const wantsHuge = (script: Script): boolean => script.some(({ call }) => call === 'thp');

const number = (n: number): string => (n < 16 ? String(n) : `0x${n.toString(16)}`);

/** `0.mmap 0x3000 0x4000 3 0x32; 0.write 0x4000 7`: what --script takes, and driver.c. */
export const formatScript = (script: Script): string =>
  script.map(({ process, call, args }) => [`${process}.${call}`, ...args.map(number)].join(' ')).join('; ');

const STEP = /^(\d)\.([a-z0-9]+)((?: +(?:0x[0-9a-f]+|\d+))*)$/i;

/** Throws when a step doesn't read as one. */
export function parseScript(text: string): Script {
  return text
    .split(';')
    .map(step => step.trim())
    .filter(step => step !== '')
    .map(step => {
      const [, process, call, args] = STEP.exec(step) ?? [];
      if (call === undefined) throw new Error(`not a step: ${step}`);
      const numbers = args!.split(' ').filter(word => word !== '');
      return { process: Number(process), call, args: numbers.map(Number) };
    });
}
