import { F32, F64, ModuleBuilder, type ValType } from '../../wasm/encoder.ts';
import { variable } from './expr.ts';
import { DOUBLE, type Format, SINGLE } from './format.ts';
import { relaxedMadd } from './inline-site.ts';

type Madd = (x: number, y: number, z: number) => number;

/**
 * Whether vectors' relaxed_madd is x * y + z rounded once here. The specification leaves the number of
 * roundings to the engine, which must not change its mind within a process. A few hundred microseconds.
 */
export const isMaddFused = (): boolean => {
  const m = new ModuleBuilder();
  define(m, 'double', DOUBLE, F64);
  define(m, 'single', SINGLE, F32);
  const bytes = m.finish();
  if (!WebAssembly.validate(bytes)) return false;
  const { double, single } = new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports as {
    double: Madd;
    single: Madd;
  };
  return roundsOnce(double, 52) && roundsOnce(single, 23);
};

const define = (m: ModuleBuilder, name: string, f: Format, type: ValType): void => {
  m.define(name, { params: [type, type, type], results: [type] }, c =>
    relaxedMadd(f, variable(0), variable(1), variable(2))(c),
  );
};

/** (1 + u)(1 - u) - 1 is -u * u, and a tie less something tiny is none: two roundings lose both. */
const roundsOnce = (madd: Madd, fractionBits: number): boolean => {
  const u = 2 ** -fractionBits;
  return madd(1 + u, 1 - u, -1) === -u * u && madd(1 + u, 1.5, -u * u) === 1.5 + u && madd(3, 5, 7) === 22;
};
