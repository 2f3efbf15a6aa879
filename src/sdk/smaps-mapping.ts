/** A mapping as /proc/PID/smaps tells of it: sizes in bytes by Linux's names (Rss, Pss, Swap, ...). */
export type SmapsMapping = {
  start: number;
  end: number;
  /** Such as 'rw-p'. */
  rights: string;
  sizes: Record<string, number>;
  /** VmFlags: two letters each. */
  flags: string[];
};

/** The text of smaps as values. */
export function parseSmaps(text: string): SmapsMapping[] {
  const mappings: SmapsMapping[] = [];
  for (const line of text.split('\n')) {
    const head = /^([0-9a-f]+)-([0-9a-f]+) (\S+)/.exec(line);
    const value = /^(\w+): +(\d+)( kB)?$/.exec(line);
    const last = mappings.at(-1);
    if (head !== null) {
      const [start, end] = [Number.parseInt(head[1]!, 16), Number.parseInt(head[2]!, 16)];
      mappings.push({ start, end, rights: head[3]!, sizes: {}, flags: [] });
    } else if (value !== null && last !== undefined) {
      last.sizes[value[1]!] = Number(value[2]) * (value[3] === undefined ? 1 : 1024);
    } else if (line.startsWith('VmFlags:') && last !== undefined) {
      last.flags = line.slice('VmFlags:'.length).trim().split(' ');
    }
  }
  return mappings;
}
