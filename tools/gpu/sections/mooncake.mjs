/**
 * @kvx/mooncake with memory of GPUs, two processes, over TCP: the wheel of peers.tar.xz, from every place to every other; random runs, whose
 * bytes are compared by digests of both sides. Needs python3 (or the variable PYTHON) to find the CUDA run-time that PyTorch brings.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gpus } from '@kvx/native'

const program = fileURLToPath(new URL('../mooncake-pairs.mjs', import.meta.url))
const findRuntime = `
import glob, site, sys
places = [*site.getsitepackages(), "/usr/local"]
found = [path for place in places for path in glob.glob(place + "/**/libcudart.so.13", recursive=True)]
print(found[0] if found else "")
`

export async function run({ fake }) {
  const { list } = await gpus()
  const peers = process.env.KVX_PEERS
  if (fake || list.length === 0 || peers === undefined) {
    const why = peers === undefined ? 'peers.tar.xz is not beside the pack' : 'it needs a real GPU'
    return { passed: peers !== undefined, lines: [`left out: ${why}`], data: {} }
  }
  const python = process.env.PYTHON ?? 'python3'
  const runtime = execFileSync(python, ['-c', findRuntime], { encoding: 'utf8' }).trim()
  const folder = mkdtempSync(join(tmpdir(), 'kvx-libraries-'))
  try {
    // What a machine must have; the rest has stand-ins.
    symlinkSync(join(peers, 'lib/libnuma.so.1'), join(folder, 'libnuma.so.1'))
    if (runtime !== '') symlinkSync(runtime, join(folder, 'libcudart.so.13'))
    const places = ['cpu', ...list.slice(0, 2).map(({ ordinal }) => ordinal)]
    const { status, stdout, stderr, error } = spawnSync(
      process.execPath,
      [program, join(peers, 'mooncake/engine.so'), JSON.stringify(places)],
      {
        encoding: 'utf8',
        env: {
          ...process.env,
          LD_LIBRARY_PATH: [folder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':'),
        },
        timeout: 120_000,
        killSignal: 'SIGKILL',
      },
    )
    const lines = (stdout ?? '').trim().split('\n')
    if (status !== 0) lines.push(`${error ?? ''} ${(stderr ?? '').slice(-2000)}`)
    return { passed: status === 0, lines, data: { runtime } }
  } finally {
    rmSync(folder, { recursive: true })
  }
}
