import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ensureImage, type OpenImage } from '../../src/image/images.ts';
import { serve } from './serve.ts';

// The stock Debian kernel in a page of Debian's Chromium: so that nothing grows that a browser can't run.

const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(
  existsSync,
);
const DIST = fileURLToPath(new URL('../../dist', import.meta.url));

let browser: Browser | undefined;
let image: OpenImage | undefined;
let missing: string | undefined;

beforeAll(async () => {
  try {
    if (CHROMIUM === undefined) throw new Error('there is no Chromium: apt-get install chromium');
    image = await ensureImage('tiny');
    browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
  } catch (error) {
    missing = String((error as Error).message);
    console.warn(`not run: ${missing}`);
  }
}, 600_000);

afterAll(async () => {
  image?.close();
  await browser?.close();
});

const until = (page: Page, selector: string, text: string) =>
  page.waitForFunction(
    ([at, wanted]) => document.querySelector(at!)!.textContent!.includes(wanted!),
    [selector, text],
    { timeout: 240_000 },
  );

describe('a guest in a page', () => {
  for (const isolated of [true, false]) {
    const memory = isolated ? 'shared' : 'private';
    const headers = isolated ? 'with' : 'without';
    test(`boots to a prompt and answers, ${headers} isolation headers, in ${memory} memory that swaps`, async ({
      skip,
    }) => {
      if (missing !== undefined) skip();
      const site = await serve(DIST, image!.directory, isolated);
      const page = await browser!.newPage();
      const failures: string[] = [];
      page.on('pageerror', error => failures.push(String(error)));
      try {
        const append = encodeURIComponent(image!.commandLine);
        const files = 'kernel=/image/kernel&initrd=/image/initramfs.cpio';
        await page.goto(`${site.url}?${files}&append=${append}&memory=128&limit=48&zram=128`);
        expect(await page.evaluate(() => crossOriginIsolated)).toBe(isolated);
        await until(page, '#screen', '# ');
        await page.keyboard.type('echo $(uname -m) $((6*7))\n');
        await until(page, '#screen', 'riscv64 42');
        await until(page, '#status', 'faults');
        const status = await page.textContent('#status');
        expect(Number(/(\d+) out/.exec(status!)![1])).toBeGreaterThan(0);
        expect(failures).toEqual([]);
      } finally {
        await page.close();
        await site.close();
      }
    });
  }
});
