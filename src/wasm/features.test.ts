import { expect, test } from 'vitest';
import { missingFeatures, probeFeatures } from './features.ts';

test('Node has everything, and says so', () => {
  const features = probeFeatures();
  expect(features).toMatchObject({
    sharedMemory: true,
    simd: true,
    bulkMemory: true,
    saturatingConversions: true,
    mayWait: true,
  });
  expect(missingFeatures(features)).toEqual([]);
});

test('an engine that refuses every module has nothing, and what is needed is named', () => {
  const validate = WebAssembly.validate;
  WebAssembly.validate = () => false;
  try {
    const features = probeFeatures();
    expect(features).toMatchObject({
      sharedMemory: false,
      simd: false,
      bulkMemory: false,
      saturatingConversions: false,
      tailCalls: false,
      mayWait: false,
    });
    expect(missingFeatures(features)).toEqual(['simd', 'bulkMemory', 'saturatingConversions']);
  } finally {
    WebAssembly.validate = validate;
  }
});
