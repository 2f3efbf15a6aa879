/** Sizes that are architectural for the whole project and never configurable per VM (J-1). */
export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 4096;
/** 32-bit words in a page. */
export const PAGE_WORDS = 1024;
export const HPAGE_ORDER = 9;
/** 4 KiB pages in a 2 MiB huge page. */
export const HPAGE_PAGES = 512;
export const HPAGE_SIZE = HPAGE_PAGES * PAGE_SIZE;
export const KIB = 1024;
export const MIB = 1024 * 1024;
export const GIB = 1024 * 1024 * 1024;

/**
 * A host frame number: the number of a 4 KiB page *of the arena*, so that `pfn * PAGE_SIZE` is the
 * frame's byte address there. Below 2^20, as the arena is at most 4 GiB.
 */
export type Pfn = number;
/** Guest frame number: a guest physical address divided by the page size. */
export type Gfn = number;
/** Host virtual page number within one mm. Below 2^27 (a 512 GiB address space). */
export type Vpn = number;
/** Guest physical byte address; below 2^53. */
export type Gpa = number;
/** Host virtual byte address within one mm; below 2^39. */
export type Hva = number;

/** Pages that `bytes` need. Divides, because addresses exceed 32 bits and `>>` would truncate (J-3). */
export const pagesOf = (bytes: number): number => Math.ceil(bytes / PAGE_SIZE);
/** The page an address lies in. */
export const pageNumber = (address: number): number => Math.floor(address / PAGE_SIZE);
export const isPageAligned = (address: number): boolean => address % PAGE_SIZE === 0;
export const alignUp = (value: number, to: number): number => Math.ceil(value / to) * to;
export const alignDown = (value: number, to: number): number => Math.floor(value / to) * to;
