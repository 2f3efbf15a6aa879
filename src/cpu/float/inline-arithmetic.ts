import type { Expr } from './expr.ts';
import { type Form, relaxedMadd, type Site } from './inline-site.ts';

const binary =
  (op: 'add' | 'sub' | 'mul' | 'div', lowest: 0 | 2): Form =>
  s => {
    s.needBoxed(0, 1);
    const result = s.letNumber(s.f.native[op](s.number(0), s.number(1)));
    s.needSafe(result, lowest);
    return s.image(result);
  };

/** What rounds once. A sum or a root never underflows inexactly; a root of less than zero is a NaN. */
export const ROUNDED: Readonly<Record<string, Form>> = {
  add: binary('add', 0),
  sub: binary('sub', 0),
  mul: binary('mul', 2),
  div: binary('div', 2),
  sqrt: s => {
    s.needBoxed(0);
    const result = s.letNumber(s.f.native.sqrt(s.number(0)));
    s.needSafe(result, 0);
    return s.image(result);
  },
};

const madd = (s: Site, x: Expr, y: Expr, z: Expr): Expr => relaxedMadd(s.f, x, y, z);

const fused =
  (write: (s: Site, x: Expr, y: Expr, z: Expr) => Expr): Form =>
  s => {
    s.needBoxed(0, 1, 2);
    const result = s.letNumber(write(s, s.number(0), s.number(1), s.number(2)));
    s.needSafe(result, 2);
    return s.image(result);
  };

/** nmsub is -(x * y) + z and nmadd -(x * y) - z. To nearest is symmetric, and zeros go the other way. */
export const FUSED: Readonly<Record<string, Form>> = {
  madd: fused(madd),
  msub: fused((s, x, y, z) => madd(s, x, y, s.f.native.neg(z))),
  nmsub: fused((s, x, y, z) => madd(s, s.f.native.neg(x), y, z)),
  nmadd: fused((s, x, y, z) => s.f.native.neg(madd(s, x, y, z))),
};
