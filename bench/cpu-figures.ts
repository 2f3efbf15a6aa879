import type { Pass } from './bench-guest.ts';
import { geometricMean, median } from './lib.ts';
import type { PeerName } from './peers.ts';

type Against = 'qemu' | 'v86' | 'native';

const byWall = (pass: Pass): number => pass.rate;
/** What a loaded machine leaves alone; counts what others' helper threads do. */
const byCpu = (pass: Pass): number => pass.rate / pass.threads;

/** The passes of every test by every peer, and what follows from them. */
export class CpuFigures {
  readonly #peers: readonly PeerName[];
  readonly #passes = new Map<string, Map<PeerName, Pass[]>>();

  constructor(peers: readonly PeerName[]) {
    this.#peers = peers;
  }

  add(test: string, peer: PeerName, pass: Pass): void {
    let byPeer = this.#passes.get(test);
    if (byPeer === undefined) this.#passes.set(test, (byPeer = new Map()));
    const passes = byPeer.get(peer);
    if (passes === undefined) byPeer.set(peer, [pass]);
    else passes.push(pass);
  }

  get tests(): string[] {
    return [...this.#passes.keys()];
  }

  has(peer: PeerName): boolean {
    return this.#peers.includes(peer);
  }

  #of(test: string, peer: PeerName): Pass[] {
    return this.#passes.get(test)?.get(peer) ?? [];
  }

  /** The median rate; undefined for a peer that was not run. */
  rate(test: string, peer: PeerName): number | undefined {
    const passes = this.#of(test, peer);
    return passes.length === 0 ? undefined : median(passes.map(p => p.rate));
  }

  /** Ours over theirs, the median of the rounds. */
  ratio(test: string, peer: Against, rate: (pass: Pass) => number = byWall): number | undefined {
    const theirs = this.#of(test, peer);
    if (theirs.length === 0) return undefined;
    return median(this.#of(test, 'faultline').map((pass, round) => rate(pass) / rate(theirs[round]!)));
  }

  /** Of all tests that were run. */
  geomean(peer: Against, rate: (pass: Pass) => number = byWall): number | undefined {
    const ratios = this.tests.map(test => this.ratio(test, peer, rate));
    return ratios.some(r => r === undefined) ? undefined : geometricMean(ratios as number[]);
  }

  lastLine(test: string): string {
    const rates = this.#peers.map(peer => `${peer} ${digits(this.#of(test, peer).at(-1)!.rate)}`);
    return `${test} ${rates.join('  ')} ${this.#of(test, this.#peers[0]!)[0]!.unit}`;
  }

  /** A line a test: rates, ours over each peer's, and the processor seconds of all threads each second. */
  print(): void {
    const others = this.#peers.filter(peer => peer !== 'faultline') as Against[];
    const heads = [...this.#peers, 'unit', ...others.map(p => `/${p}`), ...this.#peers.map(p => `cpu ${p}`)];
    console.log(`  ${'test'.padEnd(10)}${heads.map(column).join('')}`);
    for (const test of this.tests) {
      const cells = [
        ...this.#peers.map(peer => digits(this.rate(test, peer))),
        this.#of(test, 'faultline')[0]!.unit,
        ...others.map(peer => this.ratio(test, peer)!.toFixed(2)),
        ...this.#peers.map(peer => median(this.#of(test, peer).map(p => p.threads)).toFixed(2)),
      ];
      console.log(`  ${test.padEnd(10)}${cells.map(column).join('')}`);
    }
    for (const peer of others)
      console.log(
        `  geometric mean against ${peer}: ${this.geomean(peer)!.toFixed(3)}; by processor time of all threads ${this.geomean(peer, byCpu)!.toFixed(3)}`,
      );
  }

  /** Rates by test and peer; `geomean` is ours over theirs. What was not run is null. */
  json(): {
    tests: Record<string, Record<PeerName, number | null>>;
    geomean: Record<'qemu' | 'v86', number | null>;
  } {
    const rates = (test: string) => ({
      faultline: this.rate(test, 'faultline') ?? null,
      qemu: this.rate(test, 'qemu') ?? null,
      v86: this.rate(test, 'v86') ?? null,
      native: this.rate(test, 'native') ?? null,
    });
    return {
      tests: Object.fromEntries(this.tests.map(test => [test, rates(test)])),
      geomean: { qemu: this.geomean('qemu') ?? null, v86: this.geomean('v86') ?? null },
    };
  }
}

const column = (text: string): string => text.padStart(Math.max(11, text.length + 2));

function digits(rate: number | undefined): string {
  if (rate === undefined) return '-';
  return rate >= 1000 ? rate.toFixed(0) : rate.toPrecision(4);
}
