/**
 * The PTX of packages/native/include/kvx/gpu/kernels: `node tools/gpu/ptx.mjs --write` compiles kvx.cu and writes
 * kvx.ptx, `--check` compares; both assemble it for every architecture that the assembler knows, where no kernel may
 * spill registers. The compiler is NVIDIA's from PyPI, in kvx's cache; no GPU is needed. Exit status 3: it cannot be fetched.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cacheFolder } from '../lib/repository.mjs'

const kernels = fileURLToPath(
  new URL('../../packages/native/include/kvx/gpu/kernels/', import.meta.url),
)
const source = join(kernels, 'kvx.cu')
const target = join(kernels, 'kvx.ptx')

// Pinned: another version words its output differently.
const wheels = {
  'nvidia-cuda-nvcc': '13.0.88',
  'nvidia-nvvm': '13.0.88',
  'nvidia-cuda-crt': '13.0.88',
  'nvidia-cuda-runtime': '13.0.96',
  'nvidia-cuda-cccl': '13.0.85',
}

// Its assembler knows Turing and later; Volta was still known to that of CUDA 12.
const olderWheels = { 'nvidia-cuda-nvcc-cu12': '12.8.93' }
const olderArchitectures = ['70', '72']
// prettier-ignore
const architectures = ['75', '80', '86', '87', '88', '89', '90', '100', '103', '110', '120', '121']

/** The folder of the compiler (100 MB to fetch). */
const toolkit = () =>
  fetched(`nvcc-${wheels['nvidia-cuda-nvcc']}`, wheels, 'cu13', ['bin', 'nvvm/bin'])
/** That of the older assembler (40 MB). */
const olderToolkit = () =>
  fetched(`ptxas-${olderWheels['nvidia-cuda-nvcc-cu12']}`, olderWheels, 'cuda_nvcc', ['bin'])

/**
 * A folder of kvx's cache with what is in wheels, fetched when it is not there yet.
 * @throws Error which says why it cannot be fetched
 */
function fetched(name, wheels, root, programs) {
  const folder = join(cacheFolder, name)
  const inside = join(folder, 'nvidia', root)
  if (existsSync(inside)) return inside
  mkdirSync(cacheFolder, { recursive: true })
  const work = mkdtempSync(join(cacheFolder, 'nvcc-work-'))
  try {
    const names = Object.entries(wheels).map(([name, version]) => `${name}==${version}`)
    // prettier-ignore
    const pip = ['-m', 'pip', 'download', '--quiet', '--no-deps', '--only-binary=:all:', '--dest', work, ...names]
    try {
      execFileSync('python3', pip, { stdio: ['ignore', 'ignore', 'pipe'], timeout: 300_000 })
    } catch (error) {
      const last = String(error.stderr ?? error.message)
        .trim()
        .split('\n')
        .at(-1)
      throw new Error(`NVIDIA's compiler could not be fetched with pip: ${last}`, { cause: error })
    }
    const tree = join(work, 'tree')
    for (const wheel of readdirSync(work).filter((name) => name.endsWith('.whl'))) {
      execFileSync('python3', ['-m', 'zipfile', '-e', join(work, wheel), tree])
    }
    for (const name of programs) {
      for (const file of readdirSync(join(tree, 'nvidia', root, name), { withFileTypes: true })) {
        if (file.isFile()) chmodSync(join(file.parentPath, file.name), 0o755)
      }
    }
    try {
      renameSync(tree, folder)
    } catch (error) {
      if (!existsSync(inside)) throw error // else somebody else was faster
    }
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
  return inside
}

/** What the repository holds, without its wrapping for C++. */
function checkedIn() {
  const text = readFileSync(target, 'utf8')
  return text.slice(text.indexOf('(\n') + 2, text.lastIndexOf(')ptx"'))
}

/** The PTX of the source, in the words of PTX 7.4 for Volta: drivers from 470 on compile it for every later GPU. */
function compiled(nvcc) {
  const work = mkdtempSync(join(cacheFolder, 'ptx-'))
  try {
    const out = join(work, 'kvx.ptx')
    // prettier-ignore
    execFileSync(join(nvcc, 'bin/nvcc'), ['-std=c++17', '-ptx', '-arch=compute_75', '-O3', source, '-o', out])
    return readFileSync(out, 'utf8')
      .replace(/^\.version .*$/m, '.version 7.4')
      .replace(/^\.target .*$/m, '.target sm_70')
      .replace(/^\s*\.pragma "used_bytes_mask.*\n/gm, '') // a hint that PTX 7.4 does not know
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

/** @throws Error when the assembler refuses, or when a kernel spills registers */
function assemble(nvcc, ptx, architecture) {
  const work = mkdtempSync(join(cacheFolder, 'ptx-'))
  try {
    const file = join(work, 'kvx.ptx')
    writeFileSync(file, ptx)
    // prettier-ignore
    const { status, stdout, stderr } = spawnSync(join(nvcc, 'bin/ptxas'), ['-v', `-arch=sm_${architecture}`, file, '-o', '/dev/null'], { encoding: 'utf8' })
    const words = stdout + stderr
    if (status !== 0) throw new Error(`ptxas refuses sm_${architecture}:\n${words}`)
    const spills = [...words.matchAll(/(\d+) bytes spill (?:stores|loads)/g)].map(([, n]) => n)
    if (spills.length === 0 || spills.some((bytes) => bytes !== '0')) {
      throw new Error(`a kernel spills registers on sm_${architecture}:\n${words}`)
    }
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

const mode = process.argv[2]
if (mode !== '--write' && mode !== '--check') {
  console.error('usage: node tools/gpu/ptx.mjs --write | --check')
  process.exit(2)
}
let nvcc
let older
try {
  nvcc = toolkit()
  older = olderToolkit()
} catch (error) {
  console.error(error.message)
  process.exit(3)
}
const ptx = compiled(nvcc)
if (mode === '--write') writeFileSync(target, `R"ptx(\n${ptx})ptx"\n`)
else if (ptx !== checkedIn()) {
  console.error('kvx.ptx is not what kvx.cu compiles to: node tools/gpu/ptx.mjs --write')
  process.exit(1)
}
for (const architecture of olderArchitectures) assemble(older, ptx, architecture)
for (const architecture of architectures) assemble(nvcc, ptx, architecture)
const all = [...olderArchitectures, ...architectures]
console.log(`kvx.ptx: ${ptx.length} bytes, assembles for sm_${all.join(', sm_')}`)
