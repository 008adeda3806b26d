/**
 * Lives up to a stage and ends there: `stages.js INIT STAGE HOW`. With a worker the stage is reached there, and the worker is
 * terminated.
 */
import { randomBytes } from 'node:crypto'
import { argv, exit } from 'node:process'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { silentLog, type Link, type Transfer, type TransferEngine } from '@kvx/contract'
import { allocate, type AllocatedMemory } from '@kvx/native'
import { reversed } from '../kit/plans.ts'
import { stageNames, type StageName } from '../kit/stage-names.ts'
import { backend, init } from './host.ts'

const bytes = 16 * 1024 * 1024

interface Reached {
  memories: AllocatedMemory[]
  engines: TransferEngine[]
  descriptor?: Uint8Array
  link?: Link
  transfers?: Transfer[]
}

const stages: Record<StageName, (it: Reached) => Promise<Partial<Reached> | undefined>> = {
  async loaded() {
    await (await backend()).probe(init.options)
    return { memories: [allocate(bytes), allocate(bytes)] }
  },
  async opened() {
    const found = await backend()
    const open = () =>
      found.open(init.options, { generation: randomBytes(16).toString('hex'), log: silentLog })
    return { engines: [await open(), await open()] }
  },
  async registered({ engines: [writer, owner], ...it }: Reached) {
    await writer!.register(it.memories[0]!)
    return { descriptor: (await owner!.register(it.memories[1]!)).descriptor }
  },
  async connected({ engines: [writer, owner], descriptor }: Reached) {
    const { identity, address } = owner!
    const peer = { generation: identity.generation, address, regions: [descriptor!] }
    return { link: await writer!.connect(peer) }
  },
  async writing({ link }: Reached) {
    const transfers = Array.from({ length: 100 }, () => link!.write(reversed(4096, bytes / 4096)))
    await transfers[0]!.done
    return { transfers }
  },
  async closing({ engines }: Reached) {
    for (const engine of engines) void engine.close()
    return undefined
  },
  async closed({ engines, transfers }: Reached) {
    await Promise.all(engines.map((engine) => engine.close()))
    await Promise.all(transfers!.map((transfer) => transfer.settled))
    return undefined
  },
}

async function reach(last: string): Promise<Reached> {
  const it: Reached = { memories: [], engines: [] }
  for (const name of stageNames) {
    Object.assign(it, await stages[name](it))
    if (name === last) break
  }
  return it
}

/** Referred to from here as long as the process lives. */
export let kept: Reached | undefined

async function inWorker(stage: string): Promise<void> {
  const worker = new Worker(new URL(import.meta.url), { workerData: { init: argv[2], stage } })
  await new Promise((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
  await worker.terminate()
}

async function main(stage: string, how: string): Promise<void> {
  if (how === 'with its worker') await inWorker(stage)
  else kept = await reach(stage)
  process.stdout.write(`reached ${stage}\n`)
  if (how === 'by process.exit') exit(0)
}

if (!isMainThread) {
  kept = await reach((workerData as { stage: string }).stage)
  setInterval(() => kept, 1000) // alive until it is terminated
  parentPort?.postMessage('reached')
} else {
  await main(argv[3] ?? '', argv[4] ?? '')
}
