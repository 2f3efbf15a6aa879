/** A line of smaps and meminfo: the name in 16 columns, the number in 8 or more. */
export const kib = (name: string, value: number): string =>
  `${`${name}:`.padEnd(16)}${String(value).padStart(8)} kB\n`;

/** The same of a number of bytes. */
export const kibOf = (name: string, bytes: number): string => kib(name, Math.floor(bytes / 1024));

/** Lines of `name value`, as in vmstat and memory.stat. */
export const valuesText = (values: Iterable<readonly [string, number]>): string => {
  let text = '';
  for (const [name, value] of values) text += `${name} ${value}\n`;
  return text;
};
