/** Worlds, each in a process of its own: what one has taken of memory it gives back, and cores share the worlds. */
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Bounds, Explored } from './explore.ts'
import type { Spec } from './spec.ts'

const program = fileURLToPath(new URL('./worker.js', import.meta.url))

/** From a worker: how far it is, or what it has found. */
export type Told =
  { readonly states: number; readonly depth: number } | { readonly explored: Explored }

export interface Limits extends Bounds {
  /** So many schedules, and not all. */
  readonly walks: { readonly count: number; readonly from: number } | undefined
}

/** @param onEnd called in the order of their ends */
export async function apart(
  specs: readonly Spec[],
  bounds: Limits,
  jobs: number,
  onEnd: (explored: Explored) => void,
): Promise<void> {
  const left = [...specs]
  const work = async () => {
    for (let spec = left.shift(); spec; spec = left.shift()) onEnd(await exploreApart(spec, bounds))
  }
  await Promise.all(Array.from({ length: jobs }, work))
}

function exploreApart(spec: Spec, bounds: Limits): Promise<Explored> {
  const heap = Math.ceil((bounds.memory * 1.2) / 1024 ** 2) + 200
  const child = fork(program, [JSON.stringify({ spec, bounds })], {
    execArgv: [`--max-old-space-size=${String(heap)}`],
  })
  return new Promise((resolve, reject) => {
    let end: Explored | undefined
    child.on('message', (told: Told) => {
      if ('explored' in told) end = told.explored
      else progress(`${spec.name}: ${String(told.states)} states, depth ${String(told.depth)}`)
    })
    child.once('error', reject)
    child.once('exit', (code, signal) => {
      if (end) resolve(end)
      else reject(new Error(`the process of world ${spec.name} ended: ${signal ?? String(code)}`))
    })
  })
}

function progress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\u001b[2K${text}\r`)
}
