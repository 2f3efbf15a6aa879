import v8 from 'node:v8';
if (process.env.HINT !== '0') v8.setFlagsFromString('--experimental-wasm-branch-hinting');
const dir = process.argv[2]!;
const { FlatMachine } = await import(dir + '/src/cpu/testing.ts');
const LOOPS: Record<string, string> = {
  wordsum: `
   start: li s0, 0x80010000
          li s1, 0x80018000
    loop: ld t0, 0(s0)
          ld t1, 8(s0)
          ld t2, 16(s0)
          ld t3, 24(s0)
          add a0, a0, t0
          add a0, a0, t1
          add a0, a0, t2
          add a0, a0, t3
          addi s0, s0, 32
          bne s0, s1, loop
          j start`,
  wordcopy: `
   start: li s0, 0x80010000
          li s1, 0x80018000
          li s2, 0x80020000
    loop: ld t0, 0(s0)
          ld t1, 8(s0)
          sd t0, 0(s2)
          sd t1, 8(s2)
          addi s0, s0, 16
          addi s2, s2, 16
          bne s0, s1, loop
          j start`,
  alu: `
    loop: addi t0, t0, 1
          xor t1, t1, t0
          slli t2, t1, 3
          add t1, t1, t2
          srli t3, t1, 5
          sub t4, t3, t0
          and t5, t4, t1
          bne t0, t6, loop`,
  rot: Array.from({length:60},(_,i)=>`srliw t0, a${i%4}, ${i%13+1}\nslliw t1, a${i%4}, ${31-i%13}\nor t0,t0,t1\nxor a${(i+1)%4}, a${(i+2)%4}, t0\naddw a${(i+3)%4}, a${(i+3)%4}, t0`).join('\n').replace(/^/,'loop: ')+'\n j loop',
  calls: `
          j loop
    leaf: addi t0, t0, 1
          ret
    loop: call leaf
          call leaf
          addi t1, t1, 1
          bne t1, t6, loop`,
};
const out: string[] = [];
for (const [name, src] of Object.entries(LOOPS)) {
  const m = new FlatMachine();
  m.program(src);
  let best = 0;
  for (let k = 0; k < 12; k++) {
    const t = process.cpuUsage(); const w = performance.now();
    let n = 0;
    while (n < 30e6) { m.cpu.run(m.vcpu, 50000); n += 50000; }
    const d = process.cpuUsage(t);
    best = Math.max(best, n / Math.min(d.user + d.system, 1000*(performance.now() - w)));
  }
  out.push(`${name} ${best.toFixed(0)}`);
}
console.log(out.join('  '));
