// The machines that run bench.c beside each other, each in the nearest Debian guest that it boots.

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { BenchGuest, type Clock } from './bench-guest.ts';
import { type BenchImage, imageWith } from './bench-image.ts';
import { compileProgram } from './guest-program.ts';
import { i386Image, SEABIOS } from './i386-image.ts';
import { FAULTLINE, qemuVersion } from './lib.ts';
import { PROMPT, Session } from './session.ts';

export const PEERS = ['faultline', 'qemu', 'v86', 'native'] as const;
export type PeerName = (typeof PEERS)[number];

const BOOT_SECONDS = 300;
const IN_GUEST = '/bin/bench';

/** Starts peers over one image, which is made when the first of them asks. */
export class Peers {
  readonly #work: string;
  #image: Promise<BenchImage | undefined> | undefined;

  constructor(work: string) {
    this.#work = work;
  }

  /** The guest at its prompt; undefined, with a line that says why, if this machine can't run it. */
  async start(name: PeerName): Promise<BenchGuest | undefined> {
    console.log(`  starting ${name}`);
    if (name === 'native') return this.#native();
    if (name === 'v86') return this.#v86();
    return name === 'qemu' ? this.#qemu() : this.faultline();
  }

  async faultline(
    flags: string[] = [],
    name = 'faultline',
    clock: Clock = 'host',
  ): Promise<BenchGuest | undefined> {
    const image = await this.#riscv64();
    if (image === undefined) return undefined;
    const args = [FAULTLINE, 'run', '-q', '--memory', '256M', ...flags, image.directory];
    return atPrompt(name, new Session(process.execPath, args), clock);
  }

  async #qemu(): Promise<BenchGuest | undefined> {
    const version = await qemuVersion();
    const image = version === undefined ? undefined : await this.#riscv64();
    if (image === undefined) return undefined;
    console.log(`  qemu is ${version}, TCG`);
    return atPrompt('qemu', new Session('qemu-system-riscv64', qemuArgs(image)));
  }

  async #v86(): Promise<BenchGuest | undefined> {
    if (!hasV86()) {
      console.log('not run: the npm package v86 is missing (npm ci)');
      return undefined;
    }
    const program = compileProgram('bench', 'i386', this.#work);
    const image = program === undefined ? undefined : await i386Image(this.#work, { [IN_GUEST]: program });
    if (image === undefined) return undefined;
    const script = fileURLToPath(new URL('./v86-guest.ts', import.meta.url));
    const args = ['--import', 'tsx', script, image.kernel, image.initrd, SEABIOS];
    return atPrompt('v86', new Session(process.execPath, args));
  }

  #native(): BenchGuest | undefined {
    const program = compileProgram('bench', 'native', this.#work);
    return program === undefined
      ? undefined
      : new BenchGuest('native', new Session('sh', []), program, 'own');
  }

  #riscv64(): Promise<BenchImage | undefined> {
    this.#image ??= this.#makeImage();
    return this.#image;
  }

  async #makeImage(): Promise<BenchImage | undefined> {
    if (!existsSync(FAULTLINE)) throw new Error(`${FAULTLINE} is not built: npm run build`);
    const program = compileProgram('bench', 'riscv64', this.#work);
    return program === undefined ? undefined : imageWith(this.#work, { [IN_GUEST]: program });
  }
}

/** A development dependency: who installed our package alone has none. */
function hasV86(): boolean {
  try {
    createRequire(import.meta.url).resolve('v86');
    return true;
  } catch {
    return false;
  }
}

function qemuArgs({ kernel, initrd, commandLine }: BenchImage): string[] {
  return [
    ...['-M', 'virt', '-m', '256M', '-nographic', '-accel', 'tcg,thread=single', '-no-reboot'],
    ...['-kernel', kernel, '-initrd', initrd, '-append', `${commandLine} faultline.console=shell`],
  ];
}

async function atPrompt(name: string, session: Session, clock: Clock = 'host'): Promise<BenchGuest> {
  try {
    const seconds = await session.until(PROMPT, BOOT_SECONDS);
    console.log(`  ${name} is at its prompt after ${seconds.toFixed(1)} s`);
    return new BenchGuest(name, session, IN_GUEST, clock);
  } catch (error) {
    await session.stop();
    throw error;
  }
}
