import type { Pfn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { MmCore } from './core.ts';
import { PageFlag } from './layout.ts';
import { must } from './must.ts';
import { MAX_FILE_PAGES } from './page-cache.ts';

type Inode = Ptr<'inode'>;

/**
 * M11: the caches of all inodes, `vmas` being how many VMAs map each. Returns the pages that they hold, and
 * the trees, of each of which the inode holds one count.
 */
export function checkInodes(core: MmCore, vmas: ReadonlyMap<Inode, number>) {
  const cached = new Map<Pfn, Inode>();
  const inodes: Inode[] = [];
  core.shmem.forEach(inode => void inodes.push(inode));
  for (const inode of inodes) checkInode(core, inode, vmas.get(inode) ?? 0, cached);
  for (const inode of vmas.keys()) must(inodes.includes(inode), 'M11: a VMA maps an inode that lives', inode);
  must(core.slabs.inode.used === inodes.length, 'M11: no inode leaks', core.slabs.inode.used);
  return { cached, trees: inodes.map(inode => core.layout.inode.tree.get(inode)) };
}

function checkInode(core: MmCore, inode: Inode, vmas: number, cached: Map<Pfn, Inode>): void {
  const { inode: i, page } = core.layout;
  must(core.sync.words[inode + i.lock.at] === 0, 'M9: an inode lock is free at rest', inode);
  must(i.refs.load(inode) >= vmas, 'M11: a VMA holds a reference to its inode', inode);
  let pages = 0;
  for (let at = core.pageCache.next(inode, 0, MAX_FILE_PAGES); at >= 0; ) {
    const pfn = core.shmem.find(inode, at);
    const p = core.pages.at(pfn);
    core.pages.put(pfn);
    must(core.pages.has(pfn, PageFlag.Shmem), 'M11: a page of a cache is marked', pfn);
    must(at < i.size.load(inode), 'M11: no page lies beyond the end', at);
    must(page.private.get(p) === inode && page.index.load(p) === at, 'M11: a page knows its place', pfn);
    must(page.mapping.load(p) === i.tree.get(inode), 'M11: a page names the tree of its inode', pfn);
    cached.set(pfn, inode);
    pages++;
    at = core.pageCache.next(inode, at + 1, MAX_FILE_PAGES);
  }
  must(pages === i.pages.get(inode), 'M11: pages in the cache', pages, i.pages.get(inode));
}
