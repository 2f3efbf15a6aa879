/** Thrown by `assert`: a state that cannot be, hence a bug of ours. Never caught to carry on. */
export class AssertionError extends Error {
  override readonly name = 'AssertionError';
}

/**
 * States what must hold; on in production. Pass a literal that names the invariant: a template
 * literal would be built even when all is well.
 */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** Marks a branch that the types prove impossible. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable: ${String(value)}`);
}
