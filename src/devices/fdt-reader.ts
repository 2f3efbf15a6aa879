import { Errno } from '../base/errno.ts';
import { alignUp } from '../base/units.ts';
import { FDT_HEADER_BYTES, FDT_LAST_COMPATIBLE, FDT_MAGIC, FDT_VERSION, FdtToken } from './fdt.ts';

/** Nodes inside one another; deeper trees are refused. */
const DEPTH_MAX = 64;

export type FdtNode = {
  readonly name: string;
  readonly properties: ReadonlyMap<string, Uint8Array>;
  readonly children: readonly FdtNode[];
};

/** Reads a flattened device tree that may be hostile. Throws EINVAL for what the specification forbids. */
export function parseFdt(blob: Uint8Array): FdtNode {
  return new FdtReader(blob).root();
}

/** The node at a path such as `/soc/serial@10000000`, or undefined. */
export function findNode(root: FdtNode, path: string): FdtNode | undefined {
  let node: FdtNode | undefined = root;
  for (const name of path.split('/').filter(part => part !== '')) {
    node = node?.children.find(child => child.name === name);
  }
  return node;
}

/** A property as 32-bit cells. */
export function cellsOf(node: FdtNode, name: string): number[] {
  const bytes = node.properties.get(name) ?? new Uint8Array(0);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: Math.floor(bytes.length / 4) }, (_, index) => view.getUint32(index * 4));
}

/** A property as strings, without the zero that ends each. */
export function textsOf(node: FdtNode, name: string): string[] {
  const bytes = node.properties.get(name) ?? new Uint8Array(0);
  return new TextDecoder().decode(bytes).split('\0').slice(0, -1);
}

function refuse(what: string): never {
  throw new Errno('EINVAL', 'parseFdt', what);
}

type OpenNode = { name: string; properties: Map<string, Uint8Array>; children: FdtNode[] };

class FdtReader {
  readonly #blob: Uint8Array;
  readonly #view: DataView;
  readonly #structureEnd: number;
  readonly #strings: { start: number; end: number };
  #at: number;

  constructor(blob: Uint8Array) {
    if (blob.length < FDT_HEADER_BYTES) refuse('shorter than its header');
    this.#blob = blob;
    this.#view = new DataView(blob.buffer, blob.byteOffset, blob.length);
    if (this.#view.getUint32(0) !== FDT_MAGIC) refuse('no magic');
    if (this.#view.getUint32(20) < FDT_VERSION || this.#view.getUint32(24) > FDT_LAST_COMPATIBLE + 1) {
      refuse('another version');
    }
    const [structure, strings] = [this.#view.getUint32(8), this.#view.getUint32(12)];
    const length = Math.min(this.#view.getUint32(4), blob.length);
    this.#structureEnd = structure + this.#view.getUint32(36);
    this.#strings = { start: strings, end: strings + this.#view.getUint32(32) };
    if (this.#view.getUint32(4) > blob.length) refuse('truncated');
    if (structure % 4 !== 0 || this.#structureEnd > length || this.#strings.end > length)
      refuse('a block lies outside');
    this.#at = structure;
  }

  root(): FdtNode {
    const top: OpenNode = { name: '', properties: new Map(), children: [] };
    const open: OpenNode[] = [top];
    for (;;) {
      const token = this.#token();
      if (token === FdtToken.End) break;
      this.#step(token, open);
    }
    if (open.length !== 1 || top.children.length !== 1) refuse('not one root');
    return top.children[0]!;
  }

  #step(token: number, open: OpenNode[]): void {
    const node = open.at(-1)!;
    switch (token) {
      case FdtToken.BeginNode: {
        if (open.length > DEPTH_MAX) refuse('too deep');
        const child: OpenNode = { name: this.#name(), properties: new Map(), children: [] };
        node.children.push(child);
        open.push(child);
        break;
      }
      case FdtToken.EndNode:
        if (open.length === 1) refuse('a node ends that never began');
        open.pop();
        break;
      case FdtToken.Property:
        if (open.length === 1) refuse('a property outside the root');
        this.#property(node);
        break;
      case FdtToken.Nop:
        break;
      default:
        refuse('unknown token');
    }
  }

  #token(): number {
    if (this.#at + 4 > this.#structureEnd) refuse('the structure has no end');
    this.#at += 4;
    return this.#view.getUint32(this.#at - 4);
  }

  #name(): string {
    const [name, next] = this.#text(this.#at, this.#structureEnd);
    this.#at = alignUp(next, 4);
    return name;
  }

  #property(node: OpenNode): void {
    const length = this.#token();
    const nameAt = this.#strings.start + this.#token();
    if (length > this.#structureEnd - this.#at) refuse('a property lies outside');
    const [name] = this.#text(nameAt, this.#strings.end);
    node.properties.set(name, this.#blob.slice(this.#at, this.#at + length));
    this.#at = alignUp(this.#at + length, 4);
  }

  /** The zero-terminated text at `start`, and where the next thing begins. */
  #text(start: number, end: number): [string, number] {
    const zero = start < end ? this.#blob.subarray(0, end).indexOf(0, start) : -1;
    if (zero < 0) refuse('a name has no end');
    return [new TextDecoder().decode(this.#blob.slice(start, zero)), zero + 1];
  }
}
