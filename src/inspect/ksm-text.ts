import type { MmCore } from '../mm/index.ts';

/** Files of /sys/kernel/mm/ksm that can be read. */
export const KSM_FILES = [
  ...['full_scans', 'general_profit', 'ksm_zero_pages', 'max_page_sharing', 'pages_scanned', 'pages_shared'],
  ...['pages_sharing', 'pages_to_scan', 'pages_unshared', 'pages_volatile', 'run', 'sleep_millisecs'],
  'use_zero_pages',
] as const;

/** The text of one of KSM_FILES, or undefined when there is no such file. Linux: ksm_attrs. */
export function ksmText(core: MmCore, file: string): string | undefined {
  const { merge: _, zero_pages, ...numbers } = core.ksm.stats();
  const values: Record<string, number> = { ...numbers, ksm_zero_pages: zero_pages };
  return Object.hasOwn(values, file) ? `${values[file]}\n` : undefined;
}
