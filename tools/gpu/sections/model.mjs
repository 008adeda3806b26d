/**
 * What kvx's copies cost a model on the same GPU: the speed of two kernels of PyTorch as a part of their speed alone, and the copies' GB/s at
 * the same time (model.py). By who copies (the model's process on another stream, or another process), path and SMs; 64 lanes of random pages of
 * 16 KiB, beside one large copy by the copy engine. Needs python3 (or the variable PYTHON) with torch; on the fake driver it is the copies alone.
 */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gpus } from '@kvx/native'

const program = fileURLToPath(new URL('model.py', import.meta.url))

export async function run({ root }) {
  const { list, reason } = await gpus()
  if (list.length === 0) return { passed: false, lines: [`No GPU: ${reason}`], data: {} }
  const { status, signal, stdout, stderr, error } = spawnSync(
    process.env.PYTHON ?? 'python3',
    [program, join(root, 'test/gpu/build/Release/beside.so'), '130'],
    {
      encoding: 'utf8',
      env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1' },
      timeout: 145_000,
      killSignal: 'SIGKILL',
    },
  )
  const said = (stdout ?? '')
    .split('\n')
    .filter((line) => line.startsWith('{') && line.endsWith('}'))
    .map((line) => JSON.parse(line))
  const rows = said.filter(({ copyAlone }) => copyAlone !== undefined)
  const alone = said.filter((line) => line.alone !== undefined)
  const left = said.find((line) => line.left !== undefined)?.left
  return {
    passed: status === 0 && left?.length === 0 && rows.length > 0,
    lines: [
      ...table(rows),
      ...alone.slice(0, 1).flatMap((line) => speeds(line.alone)),
      ...(left === undefined || left.length === 0
        ? []
        : [`No time was left for ${left.map((each) => each.join(' ')).join(', ')}.`]),
      ...(status === 0
        ? []
        : [`${error ?? signal ?? `Status ${status}`}: ${(stderr ?? '').trim()}`]),
    ],
    data: { rows, alone, left },
  }
}

const perSecond = (bytes) => (bytes / 1e9).toFixed(bytes < 1e11 ? 1 : 0)

function table(rows) {
  if (rows.length === 0) return []
  const beside = (kernel) =>
    kernel === undefined ? '– | –' : `${kernel.ofAlone.toFixed(2)} | ${perSecond(kernel.copy)}`
  return [
    '| copies | path | SMs | GB/s without the model | GEMM of alone | GB/s | memory-bound of alone | GB/s |',
    '| - | - | - | - | - | - | - | - |',
    ...rows.map(
      ({ by, path, sms, copyAlone, gemm, memory }) =>
        `| ${by} | ${path} | ${sms === 0 ? 'copy engine' : sms} | ${perSecond(copyAlone)} | ${beside(gemm)} | ${beside(memory)} |`,
    ),
    '',
  ]
}

function speeds({ gemm, memory }) {
  if (gemm === undefined) return ['The fake driver runs no model: these are the copies alone.']
  return [
    `Alone: GEMM ${(gemm / 1e12).toFixed(0)} TFLOP/s, memory-bound ${perSecond(memory)} GB/s.`,
  ]
}
