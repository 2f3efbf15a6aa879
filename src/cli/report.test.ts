import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Errno } from '../base/errno.ts';
import { FaultlineError } from '../base/error.ts';
import { OWN_FAILURE, Progress, reportError } from './report.ts';

let written = '';
const { isTTY, columns } = process.stderr;
/** Makes standard error one, or a pipe. */
const terminal = (is: boolean, width = 80): void =>
  void Object.assign(process.stderr, { isTTY: is, columns: width });

beforeEach(() => {
  written = '';
  vi.stubEnv('FAULTLINE_DEBUG', undefined);
  vi.spyOn(process.stderr, 'write').mockImplementation(text => {
    written += text;
    return true;
  });
});
afterEach(() => {
  Object.assign(process.stderr, { isTTY, columns });
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

test('a failure of ours is a line with its code and a line to try, and leaves with 125', () => {
  expect(reportError(new FaultlineError('E_SWAP', 'the file is full', { hint: 'another file' }))).toBe(
    OWN_FAILURE,
  );
  expect(written).toBe('faultline: error: the file is full   (code E_SWAP)\n    try: another file\n');
});

test('without a hint there is no second line', () => {
  reportError(new FaultlineError('E_IO', 'the disk is gone'));
  expect(written).toBe('faultline: error: the disk is gone   (code E_IO)\n');
});

test('an error number is its own code', () => {
  reportError(new Errno('ENOMEM', 'createVm', 'no frame'));
  expect(written).toBe('faultline: error: ENOMEM: createVm: no frame   (code ENOMEM)\n');
});

test('what nobody foresaw is E_INTERNAL on one line, with how to see more', () => {
  expect(reportError(new TypeError('x is not a function\nat somewhere'))).toBe(OWN_FAILURE);
  expect(written).toBe(
    'faultline: error: x is not a function   (code E_INTERNAL)\n    try: FAULTLINE_DEBUG=1 shows where; please report it\n',
  );
  written = '';
  reportError('a string');
  expect(written).toMatch(/^faultline: error: a string {3}\(code E_INTERNAL\)\n/);
});

test('FAULTLINE_DEBUG adds the stack', () => {
  vi.stubEnv('FAULTLINE_DEBUG', '1');
  reportError(new TypeError('bad'));
  expect(written).toContain('report.test.ts');
});

test('an interruption leaves with 130', () => {
  expect(reportError(Object.assign(new Error('interrupted'), { code: 'E_INTERRUPTED' }))).toBe(130);
});

test('progress on a pipe is a plain line now and then, and nothing when quiet', () => {
  terminal(false);
  const progress = new Progress(false);
  progress.update('booting');
  progress.update('still booting');
  progress.done();
  new Progress(true).update('never');
  expect(written).toBe('booting\n');
});

test('progress on a terminal is one line, cut to its width and taken away at the end', () => {
  terminal(true, 8);
  const progress = new Progress(false);
  progress.update('0123456789');
  progress.update('done');
  progress.done();
  progress.done();
  expect(written).toBe('\r\x1b[K0123456\r\x1b[Kdone\r\x1b[K');
});
