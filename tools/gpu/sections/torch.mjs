/**
 * PyTorch on both sides, a Node process beside each, and the pages moved between them by kvx (examples/torch): within one GPU, between
 * two where there are two, and each once more with the pages landing elsewhere, which must be noticed. Needs python3 (or the variable PYTHON)
 * with torch. On the fake driver, which torch cannot use, it is the model without torch, in memory of the host.
 */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { gpus } from '@kvx/native'

export async function run({ root, fake }) {
  const program = join(root, 'examples', ...(fake ? ['python', 'tiny.py'] : ['torch', 'run.py']))
  const count = fake ? 0 : (await gpus()).list.length
  const pairs = [
    'cpu,cpu',
    ...['cuda:0,cuda:0', 'cuda:0,cuda:1', 'cuda:1,cuda:0'].slice(0, count > 1 ? 3 : count),
  ]
  const found = pairs.flatMap((devices) =>
    [false, true].map((suppressed) => ({
      devices,
      suppressed,
      ...once(program, devices, suppressed),
    })),
  )
  return {
    passed: found.every(({ asExpected }) => asExpected),
    lines: found.map(
      ({ devices, suppressed, asExpected, said }) =>
        `${asExpected ? 'ok' : 'FAILED'} ${devices}${suppressed ? ', pages landing elsewhere' : ''}: ${said}`,
    ),
    data: { found },
  }
}

function once(program, devices, suppressed) {
  const given = [program, '--devices', devices, ...(suppressed ? ['--suppress-transfer'] : [])]
  const { stdout, stderr, error } = spawnSync(process.env.PYTHON ?? 'python3', given, {
    encoding: 'utf8',
    env: { ...process.env, KVX_NODE: process.execPath, PYTHONDONTWRITEBYTECODE: '1' },
    timeout: 600_000,
  })
  try {
    const result = JSON.parse(stdout)
    const { ok, tokensEqual, cacheEqual, report } = result
    // A crash finds neither; when the pages land elsewhere, tokens and cache must both differ.
    const asExpected = suppressed ? !ok && !tokensEqual && !cacheEqual : ok
    const ms = report.ms.toFixed(1)
    const said = `tokens ${tokensEqual ? 'equal' : 'differ'}, cache ${cacheEqual ? 'equal' : 'differs'}, ${report.bytes} bytes in ${ms} ms`
    return { asExpected, said, result }
  } catch {
    return { asExpected: false, said: `${error ?? ''} ${stderr.slice(-2000)}` }
  }
}
