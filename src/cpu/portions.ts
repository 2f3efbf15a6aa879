import { type FunctionIndex, I32, type ModuleBuilder } from '../wasm/encoder.ts';
import type { VcpuPtr } from './interface.ts';
import { AT } from './vcpu.ts';

// Code that runs does not look at the requests in every round of a loop. A vCPU of several, whose neighbours wait for
// it when they fence or write code, is handed its slice in portions instead: between two of them `run` and the interpreter
// look. Of the record's words, `budget` is what was handed out since the slice began, `left` what of that has not begun,
// `portion` the last of them, and `rest` what is still to come. All are the runner's own.

/** Instructions: some microseconds, of which going on costs a hundredth. */
export const PORTION = 8192;

/** A slice begins. `isAlone`: nobody waits for this vCPU for long. */
export function beginSlice(words: Int32Array, vcpu: VcpuPtr, instructions: number, isAlone: boolean): void {
  const portion = isAlone ? instructions : Math.min(instructions, PORTION);
  words[vcpu + AT.budget] = portion;
  words[vcpu + AT.left] = portion;
  words[vcpu + AT.portion] = portion;
  words[vcpu + AT.rest] = instructions - portion;
}

/** The slice is over, and counted. */
export function endSlice(words: Int32Array, vcpu: VcpuPtr): void {
  words[vcpu + AT.budget] = 0;
  words[vcpu + AT.left] = 0;
  words[vcpu + AT.unretired] = 0;
  words[vcpu + AT.rest] = 0;
}

const CPU = 0;
/** What the next portion is added to: `stint` counts to the slice's end. */
const COUNTED = ['budget', 'left', 'stint'] as const;

/** In wasm: hands out the next portion. Requires: there is a rest. */
export function defineNextPortion(m: ModuleBuilder): FunctionIndex {
  return m.define(undefined, { params: [I32], results: [] }, c => {
    const [rest, portion] = [c.local(I32), c.local(I32)];
    c.get(CPU)
      .mem('i32_load', AT.rest * 4)
      .tee(rest);
    c.i32(PORTION).get(rest).i32(PORTION).op('i32_lt_u', 'select').set(portion);
    c.get(CPU)
      .get(rest)
      .get(portion)
      .op('i32_sub')
      .mem('i32_store', AT.rest * 4);
    c.get(CPU)
      .get(portion)
      .mem('i32_store', AT.portion * 4);
    for (const field of COUNTED) {
      const at = AT[field] * 4;
      c.get(CPU).get(CPU).mem('i32_load', at).get(portion).op('i32_add').mem('i32_store', at);
    }
  });
}
