import { defineConfig } from 'vitest/config';

// `fast` is everything that sits beside the code and needs nothing from outside; `slow` boots guests,
// spawns threads or drives other programs, and is named *.slow.test.ts or lives in test/.
export default defineConfig({
  test: {
    // For what hangs: a test that takes two seconds takes thirty beside a load of 25.
    testTimeout: 180_000,
    maxWorkers: 2,
    projects: [
      {
        extends: true,
        test: {
          name: 'fast',
          include: ['src/**/*.test.ts', 'tools/**/*.test.ts'],
          exclude: ['**/*.slow.test.ts', '**/node_modules/**'],
        },
      },
      {
        extends: true,
        test: {
          name: 'slow',
          include: ['src/**/*.slow.test.ts', 'test/**/*.test.ts'],
          testTimeout: 300_000,
        },
      },
    ],
  },
});
