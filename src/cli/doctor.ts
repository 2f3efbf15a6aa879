import { spawnSync } from 'node:child_process';
import { availableParallelism, totalmem } from 'node:os';
import { formatSize } from '../base/size.ts';
import { listImages } from '../image/images.ts';

type Finding = { what: string; ok: boolean; detail: string; hint?: string };

/** Looks at this host and says what works, what doesn't, and why. Exit 0 if guests can run. */
export async function doctor(flags: { json?: boolean }): Promise<number> {
  const findings = [node(), memory(), ...engine(), images(), ...tools()];
  const canRun = findings.slice(0, 4).every(f => f.ok);
  if (flags.json) {
    process.stdout.write(`${JSON.stringify({ canRun, findings }, null, 2)}\n`);
    return canRun ? 0 : 1;
  }
  for (const f of findings) {
    process.stdout.write(`${f.ok ? 'ok  ' : '--  '} ${f.what.padEnd(26)} ${f.detail}\n`);
    if (!f.ok && f.hint !== undefined) process.stdout.write(`     try: ${f.hint}\n`);
  }
  process.stdout.write(
    canRun ? 'Guests can run here, in software; no KVM is needed.\n' : 'Guests cannot run here.\n',
  );
  return canRun ? 0 : 1;
}

function node(): Finding {
  const [major, minor] = process.versions.node.split('.').map(Number) as [number, number];
  const ok = major > 20 || (major === 20 && minor >= 19);
  return { what: 'Node.js >= 20.19', ok, detail: process.versions.node, hint: 'a newer Node.js' };
}

function memory(): Finding {
  const cores = availableParallelism();
  return {
    what: 'cores and memory',
    ok: true,
    detail: `${cores} cores, ${formatSize(totalmem())}; the worker of a guest takes one core`,
  };
}

function engine(): Finding[] {
  const shared = tryTo(() => new WebAssembly.Memory({ initial: 1, maximum: 65536, shared: true }));
  const large = tryTo(() => new WebAssembly.Memory({ initial: 8192, maximum: 8192, shared: true }));
  return [
    {
      what: 'shared WebAssembly memory',
      ok: shared,
      detail: shared ? 'yes: workers share the arena' : 'no: only --runners 0',
    },
    {
      what: 'an arena of 512 MiB',
      ok: large,
      detail: large ? 'yes' : 'no',
      hint: 'less --memory, or a limit on address space (ulimit -v) lifted',
    },
  ];
}

function tryTo(make: () => unknown): boolean {
  try {
    make();
    return true;
  } catch {
    return false;
  }
}

function images(): Finding {
  const names = listImages().map(i => i.name);
  return {
    what: 'images',
    ok: names.length > 0,
    detail:
      names.length > 0 ? names.join(', ') : 'none yet; `run` builds tiny and base when they are asked for',
    hint: 'faultline image build tiny',
  };
}

const TOOLS: [tool: string, args: string[], pkg: string, why: string][] = [
  ['apt-get', ['--version'], 'apt', 'fetches packages for images'],
  ['dpkg-deb', ['--version'], 'dpkg', 'unpacks them'],
  ['riscv64-linux-gnu-gcc', ['--version'], 'gcc-riscv64-linux-gnu', 'compiles the guest agent'],
  ['mmdebstrap', ['--version'], 'mmdebstrap', 'makes the root of base'],
  ['mkfs.erofs', ['-V'], 'erofs-utils', "makes base's disk"],
  ['qemu-riscv64-static', ['--version'], 'qemu-user-static', 'conformance tests only'],
  ['qemu-system-riscv64', ['--version'], 'qemu-system-misc', 'benchmarks only'],
];

function tools(): Finding[] {
  return TOOLS.map(([tool, args, pkg, why]) => {
    const ok = spawnSync(tool, args, { stdio: 'ignore' }).error === undefined;
    return { what: tool, ok, detail: ok ? why : `missing: ${why}`, hint: `apt-get install ${pkg}` };
  });
}
