import { AssertionError } from '../../base/assert.ts';
import { frameByte } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { MmCore } from '../core.ts';
import { PageFlag } from '../layout.ts';

type Item = Ptr<'ksmItem'>;
type Node = Ptr<'ksmNode'>;
type AnonVma = Ptr<'anonVma'>;

function must(condition: boolean, rule: string, ...details: unknown[]): asserts condition {
  if (!condition) throw new AssertionError([rule, ...details].join(' '));
}

/** What the tables hold, counted. */
type Found = { items: number; unstable: number; shared: number; sharing: number };

/**
 * Proves KS1 to KS5 of README.md from the lists, and tells of every reference to an anon_vma (C-21). The mm must
 * be at rest.
 */
export function checkKsm(core: MmCore, anonVmaRef: (anonVma: AnonVma) => void): void {
  const tables = core.ksm.tables();
  const found: Found = { items: 0, unstable: 0, shared: 0, sharing: 0 };
  const onMms = new Set<Item>();
  core.mms.forEach(mm => {
    let previous = -1;
    const { ksmItem: i } = core.layout;
    for (let item = core.layout.mm.ksmItems.load(mm); item !== 0; item = i.next.get(item)) {
      must(i.mm.get(item) === mm && i.vpn.get(item) > previous, 'KS2: items are ordered', i.vpn.get(item));
      previous = i.vpn.get(item);
      onMms.add(item);
      found.items++;
      if (i.seq.get(item) !== 0) found.unstable++;
      must(i.seq.get(item) === 0 || i.node.get(item) === 0, 'KS2: an item is in one table', previous);
    }
  });
  const nodes = checkNodes(core, tables.nodes, onMms, found, anonVmaRef);
  checkPages(core, nodes);
  checkUnstable(core, tables.unstable, tables.seq, onMms);
  must(core.slabs.ksmNode.used === nodes.size, 'KS2: no node leaks', core.slabs.ksmNode.used, nodes.size);
  const kept = core.ksm.stats();
  must(kept.pages_shared === found.shared, 'KS4: pages_shared', kept.pages_shared, found.shared);
  must(kept.pages_sharing === found.sharing, 'KS4: pages_sharing', kept.pages_sharing, found.sharing);
  must(kept.pages_unshared === found.unstable, 'KS4: pages_unshared', kept.pages_unshared, found.unstable);
  must(tables.items === found.items, 'KS4: items', tables.items, found.items);
}

function checkNodes(
  core: MmCore,
  all: readonly Node[],
  onMms: ReadonlySet<Item>,
  found: Found,
  anonVmaRef: (anonVma: AnonVma) => void,
): Set<Node> {
  const { ksmNode: n, ksmItem: i } = core.layout;
  const seen = new Set<Item>();
  for (const node of all) {
    let [count, before] = [0, 0 as Item];
    for (let item = n.items.get(node); item !== 0; item = i.link.get(item)) {
      must(!seen.has(item) && i.back.get(item) === before, 'KS2: the list of a node', node);
      must(i.node.get(item) === node, 'KS2: an item names its node', node);
      must(i.mm.get(item) === 0 || onMms.has(item), 'KS2: an item is its mm’s, or an orphan', node);
      if (i.mm.get(item) !== 0) count++;
      anonVmaRef(i.anonVma.get(item));
      seen.add(item);
      before = item;
    }
    must(count === n.count.get(node), 'KS2: items of a node', node, count, n.count.get(node));
    if (count > 0) found.shared++;
    found.sharing += Math.max(0, count - 1);
  }
  const stable = [...onMms].filter(item => i.node.get(item) !== 0);
  must(
    stable.every(item => seen.has(item)),
    'KS2: a merged item is on its node',
  );
  must(core.slabs.ksmItem.used === onMms.size + seen.size - stable.length, 'KS2: no item leaks');
  return new Set(all);
}

/** KS1, KS3: merged pages and their content. */
function checkPages(core: MmCore, nodes: ReadonlySet<Node>): void {
  const { arena } = core.sync;
  const { page, ksmNode: n } = core.layout;
  for (let pfn = arena.firstFrame; pfn < core.pageAlloc.bump; pfn++) {
    if (core.pages.refcount(pfn) === 0 || !core.pages.has(pfn, PageFlag.Ksm)) continue;
    const node = page.mapping.load(core.pages.at(pfn)) as number as Node;
    must(nodes.has(node) && n.pfn.get(node) === pfn, 'KS1: a merged page and its node name each other', pfn);
    must(!core.pages.has(pfn, PageFlag.AnonExclusive), 'KS1: a merged page is nobody’s own', pfn);
    const lo = core.pageOps.hash64(frameByte(pfn));
    const same = lo === n.lo.get(node) && core.pageOps.hashHigh() === n.hi.get(node);
    must(same, 'KS3: the content of a merged page never changes', pfn);
  }
}

/** KS5: who is in the unstable table is an item of this pass, and the reverse. */
function checkUnstable(core: MmCore, inTable: readonly Item[], seq: number, onMms: ReadonlySet<Item>): void {
  const { ksmItem: i } = core.layout;
  const set = new Set(inTable);
  must(set.size === inTable.length, 'KS5: an item is in the unstable table once');
  for (const item of inTable)
    must(i.seq.get(item) === seq && onMms.has(item), 'KS5: an item of another pass');
  for (const item of onMms) must(set.has(item) === (i.seq.get(item) === seq), 'KS5: an item is missing');
}
