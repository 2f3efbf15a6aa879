// Opcodes of the WebAssembly core specification, section 5.4, by their text names with `.` as `_`.
// A value above 0xff is a prefix byte and a sub-opcode: prefix * 0x10000 + sub.

const P = (prefix: number, sub: number): number => prefix * 0x10000 + sub;
const FC = 0xfc;
const FD = 0xfd;
const FE = 0xfe;

/** Instructions without immediates. */
export const PLAIN = {
  unreachable: 0x00, nop: 0x01, return_: 0x0f, drop: 0x1a, select: 0x1b,
  i32_eqz: 0x45, i32_eq: 0x46, i32_ne: 0x47, i32_lt_s: 0x48, i32_lt_u: 0x49, i32_gt_s: 0x4a, i32_gt_u: 0x4b,
  i32_le_s: 0x4c, i32_le_u: 0x4d, i32_ge_s: 0x4e, i32_ge_u: 0x4f,
  i64_eqz: 0x50, i64_eq: 0x51, i64_ne: 0x52, i64_lt_s: 0x53, i64_lt_u: 0x54, i64_gt_s: 0x55, i64_gt_u: 0x56,
  i64_le_s: 0x57, i64_le_u: 0x58, i64_ge_s: 0x59, i64_ge_u: 0x5a,
  f32_eq: 0x5b, f32_ne: 0x5c, f32_lt: 0x5d, f32_gt: 0x5e, f32_le: 0x5f, f32_ge: 0x60,
  f64_eq: 0x61, f64_ne: 0x62, f64_lt: 0x63, f64_gt: 0x64, f64_le: 0x65, f64_ge: 0x66,
  i32_clz: 0x67, i32_ctz: 0x68, i32_popcnt: 0x69, i32_add: 0x6a, i32_sub: 0x6b, i32_mul: 0x6c,
  i32_div_s: 0x6d, i32_div_u: 0x6e, i32_rem_s: 0x6f, i32_rem_u: 0x70, i32_and: 0x71, i32_or: 0x72,
  i32_xor: 0x73, i32_shl: 0x74, i32_shr_s: 0x75, i32_shr_u: 0x76, i32_rotl: 0x77, i32_rotr: 0x78,
  i64_clz: 0x79, i64_ctz: 0x7a, i64_popcnt: 0x7b, i64_add: 0x7c, i64_sub: 0x7d, i64_mul: 0x7e,
  i64_div_s: 0x7f, i64_div_u: 0x80, i64_rem_s: 0x81, i64_rem_u: 0x82, i64_and: 0x83, i64_or: 0x84,
  i64_xor: 0x85, i64_shl: 0x86, i64_shr_s: 0x87, i64_shr_u: 0x88, i64_rotl: 0x89, i64_rotr: 0x8a,
  f32_abs: 0x8b, f32_neg: 0x8c, f32_ceil: 0x8d, f32_floor: 0x8e, f32_trunc: 0x8f, f32_nearest: 0x90,
  f32_sqrt: 0x91, f32_add: 0x92, f32_sub: 0x93, f32_mul: 0x94, f32_div: 0x95, f32_min: 0x96, f32_max: 0x97,
  f32_copysign: 0x98,
  f64_abs: 0x99, f64_neg: 0x9a, f64_ceil: 0x9b, f64_floor: 0x9c, f64_trunc: 0x9d, f64_nearest: 0x9e,
  f64_sqrt: 0x9f, f64_add: 0xa0, f64_sub: 0xa1, f64_mul: 0xa2, f64_div: 0xa3, f64_min: 0xa4, f64_max: 0xa5,
  f64_copysign: 0xa6,
  i32_wrap_i64: 0xa7, i32_trunc_f32_s: 0xa8, i32_trunc_f32_u: 0xa9, i32_trunc_f64_s: 0xaa, i32_trunc_f64_u: 0xab,
  i64_extend_i32_s: 0xac, i64_extend_i32_u: 0xad, i64_trunc_f32_s: 0xae, i64_trunc_f32_u: 0xaf,
  i64_trunc_f64_s: 0xb0, i64_trunc_f64_u: 0xb1,
  f32_convert_i32_s: 0xb2, f32_convert_i32_u: 0xb3, f32_convert_i64_s: 0xb4, f32_convert_i64_u: 0xb5,
  f32_demote_f64: 0xb6, f64_convert_i32_s: 0xb7, f64_convert_i32_u: 0xb8, f64_convert_i64_s: 0xb9,
  f64_convert_i64_u: 0xba, f64_promote_f32: 0xbb,
  i32_reinterpret_f32: 0xbc, i64_reinterpret_f64: 0xbd, f32_reinterpret_i32: 0xbe, f64_reinterpret_i64: 0xbf,
  i32_extend8_s: 0xc0, i32_extend16_s: 0xc1, i64_extend8_s: 0xc2, i64_extend16_s: 0xc3, i64_extend32_s: 0xc4,
  i32_trunc_sat_f32_s: P(FC, 0), i32_trunc_sat_f32_u: P(FC, 1), i32_trunc_sat_f64_s: P(FC, 2),
  i32_trunc_sat_f64_u: P(FC, 3), i64_trunc_sat_f32_s: P(FC, 4), i64_trunc_sat_f32_u: P(FC, 5),
  i64_trunc_sat_f64_s: P(FC, 6), i64_trunc_sat_f64_u: P(FC, 7),
  i8x16_splat: P(FD, 15), i32x4_splat: P(FD, 17), i64x2_splat: P(FD, 18),
  v128_not: P(FD, 77), v128_and: P(FD, 78), v128_or: P(FD, 80), v128_xor: P(FD, 81), v128_any_true: P(FD, 83),
  i8x16_eq: P(FD, 35), i8x16_all_true: P(FD, 99), i64x2_eq: P(FD, 214), i64x2_all_true: P(FD, 195),
} as const;

/** Loads and stores: opcode and natural alignment as a power of two. */
export const MEMORY = {
  i32_load: [0x28, 2], i64_load: [0x29, 3], f32_load: [0x2a, 2], f64_load: [0x2b, 3],
  i32_load8_s: [0x2c, 0], i32_load8_u: [0x2d, 0], i32_load16_s: [0x2e, 1], i32_load16_u: [0x2f, 1],
  i64_load8_s: [0x30, 0], i64_load8_u: [0x31, 0], i64_load16_s: [0x32, 1], i64_load16_u: [0x33, 1],
  i64_load32_s: [0x34, 2], i64_load32_u: [0x35, 2],
  i32_store: [0x36, 2], i64_store: [0x37, 3], f32_store: [0x38, 2], f64_store: [0x39, 3],
  i32_store8: [0x3a, 0], i32_store16: [0x3b, 1], i64_store8: [0x3c, 0], i64_store16: [0x3d, 1], i64_store32: [0x3e, 2],
  v128_load: [P(FD, 0), 4], v128_store: [P(FD, 11), 4],
  memory_atomic_notify: [P(FE, 0), 2], memory_atomic_wait32: [P(FE, 1), 2], memory_atomic_wait64: [P(FE, 2), 3],
  i32_atomic_load: [P(FE, 0x10), 2], i64_atomic_load: [P(FE, 0x11), 3],
  i32_atomic_store: [P(FE, 0x17), 2], i64_atomic_store: [P(FE, 0x18), 3],
  i32_atomic_rmw_add: [P(FE, 0x1e), 2], i64_atomic_rmw_add: [P(FE, 0x1f), 3],
  i32_atomic_rmw_sub: [P(FE, 0x25), 2], i64_atomic_rmw_sub: [P(FE, 0x26), 3],
  i32_atomic_rmw_and: [P(FE, 0x2c), 2], i64_atomic_rmw_and: [P(FE, 0x2d), 3],
  i32_atomic_rmw_or: [P(FE, 0x33), 2], i64_atomic_rmw_or: [P(FE, 0x34), 3],
  i32_atomic_rmw_xor: [P(FE, 0x3a), 2], i64_atomic_rmw_xor: [P(FE, 0x3b), 3],
  i32_atomic_rmw_xchg: [P(FE, 0x41), 2], i64_atomic_rmw_xchg: [P(FE, 0x42), 3],
  i32_atomic_rmw_cmpxchg: [P(FE, 0x48), 2], i64_atomic_rmw_cmpxchg: [P(FE, 0x49), 3],
} as const;
