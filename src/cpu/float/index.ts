export { emitFloat, type FloatFunctions } from './emit-float.ts';
