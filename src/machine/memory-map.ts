// Where the board's parts answer in guest physical memory, and which PLIC source each raises. The
// device tree and the bus are both made from this page, so they can't disagree.

export const RAM_BASE = 0x8000_0000;

export const PLIC_BASE = 0x0c00_0000;

export const UART_BASE = 0x1000_0000;
export const UART_LENGTH = 0x100;
export const UART_IRQ = 10;
/** Input clock of the 16550; the divisor is remembered and has no effect. */
export const UART_CLOCK_HZ = 3_686_400;

export const RTC_BASE = 0x0010_1000;
export const RTC_IRQ = 11;

export const PCI_ECAM_BASE = 0x3000_0000;
/** One MiB a bus, and 256 buses, of which only the first has anything on it. */
export const PCI_ECAM_LENGTH = 0x1000_0000;
export const PCI_IO_BASE = 0x0300_0000;
export const PCI_IO_LENGTH = 0x1_0000;
/** BARs below 4 GiB; bus addresses equal physical ones. */
export const PCI_MEM32_BASE = 0x4000_0000;
export const PCI_MEM32_LENGTH = 0x4000_0000;
/** BARs above 4 GiB. RAM ends below it. */
export const PCI_MEM64_BASE = 0x4_0000_0000;
export const PCI_MEM64_LENGTH = 0x4_0000_0000;
/** INTA of device 0; pin p of device d raises this plus (p - 1 + d) mod 4. */
export const PCI_IRQ_BASE = 0x20;
export const PCI_IRQ_LINES = 4;

/** RAM can't reach into the 64-bit BAR window. */
export const RAM_BYTES_MAX = PCI_MEM64_BASE - RAM_BASE;

export const TIMEBASE_HZ = 10_000_000;
