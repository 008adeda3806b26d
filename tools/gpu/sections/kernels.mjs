/** Bandwidth of the copy kernel beside that of one large copy, in one process. */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'

export function run({ root, fake }) {
  const program = join(root, 'test/gpu/build/Release/gpu')
  const { status, stdout, stderr } = spawnSync(program, ['--bench', fake ? 'small' : 'full'], {
    encoding: 'utf8',
    timeout: 560_000,
    maxBuffer: 1 << 26,
  })
  const data = stdout
    .trim()
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line))
  const lines = [
    '| path | total | run | SMs | in a row | GB/s | of one copy | µs | submit µs |',
    '| - | - | - | - | - | - | - | - | - |',
  ]
  for (const row of data) {
    if (row.run === 0) continue
    const whole = data.find(
      ({ path, total, run }) => path === row.path && total === row.total && run === 0,
    )
    lines.push(
      `| ${row.path} | ${row.total >> 20} MiB | ${row.run >> 10} KiB | ${row.sms} | ${row.inARow} | ${row.gbps.toFixed(1)} | ${(row.gbps / whole.gbps).toFixed(2)} of ${whole.gbps.toFixed(0)} | ${row.us.toFixed(1)} | ${row.submitUs.toFixed(1)} |`,
    )
  }
  if (status !== 0) lines.push('', stderr)
  return { passed: status === 0 && data.length > 0, lines, data }
}
