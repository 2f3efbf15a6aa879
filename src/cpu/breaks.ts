/** Rules of the processor that a test may switch off, to see what they are for. All off in production. */
export type CpuBreaks = {
  /** T-UF-22: who leaves because a page is not there keeps its reservation. */
  keepReservation: boolean;
};
