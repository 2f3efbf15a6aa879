// A guest that believes in 256 MiB, squeezed into 64 MiB with zram, fills 120 MiB and verifies every byte twice.

import { compileGuest, runInGuest, withWork } from './guest-program.ts';

const MOVED_FLOOR = 20_000;

export async function run(): Promise<boolean | undefined> {
  return withWork(work => {
    const program = compileGuest('fill', work);
    if (program === undefined) return undefined;
    const flags = ['--memory', '256M', '--memory-limit', '64M', '--swap', 'zram:256M'];
    const { exitCode, stdout, stderr, seconds, stats } = runInGuest(flags, program, [
      '/bin/fill',
      '120',
      '7',
    ]);
    console.log(
      `  ${stdout.trim()}${stderr.trim()}   exit ${exitCode}, ${seconds.toFixed(1)} s with the boot`,
    );
    const { peakBytes, limitBytes } = stats.memory!;
    console.log(
      `  pswpin ${stats.pswpin}  pswpout ${stats.pswpout}  peak charged ${peakBytes} of ${limitBytes} bytes`,
    );
    console.log(`  zram_mm_stat ${JSON.stringify(stats.zram_mm_stat)}`);
    const moved = stats.pswpin! > MOVED_FLOOR && stats.pswpout! > MOVED_FLOOR;
    const met = exitCode === 0 && moved && peakBytes <= limitBytes;
    console.log(
      `swap: every byte right, both above ${MOVED_FLOOR}, never above the limit: ${met ? 'met' : 'NOT MET'}`,
    );
    return met;
  });
}
