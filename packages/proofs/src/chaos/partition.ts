/**
 * Prefill and decode on two machines between which the network goes away and comes back under load. Runs in
 * the namespace that routes between them.
 */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Random } from '@kvx/simulator'
import { Cluster } from './cluster.ts'
import { describe, evidenceText } from './evidence.ts'
import { judge, type Verdict, type Window } from './judge.ts'
import { Load, type Asked } from './load.ts'
import { Machines } from './namespaces.ts'
import { answerAlone } from './questions.ts'
import { recovery } from './recovery.ts'
import { differenceAtRest, pagesOf } from './rest.ts'
import { afterRound, drainMs, patienceMs } from './settings.ts'
import { endSurvivors } from './survivors.ts'

export interface PartitionOptions {
  readonly engine: string
  /** Seconds that each cut lasts, one after another. */
  readonly cuts: readonly number[]
  readonly seed: number
  readonly lanes: number
  /** For the logs of all processes. */
  readonly folder: string
  readonly progress: (line: string) => void
}

export interface PartitionReport {
  readonly verdicts: Verdict[]
  /** For each cut: milliseconds from the healing to the first whole answer to a request that began after it. */
  readonly recoveries: number[]
  /** One sentence each. */
  readonly failures: string[]
}

/** Seconds of load before each cut, so that requests of every phase live through it. */
const leadSeconds = 2

/** In the namespace that is to route (`inRouter`); the engine's library must be installed. */
export async function runPartition(options: PartitionOptions): Promise<PartitionReport> {
  const { engine, seed, folder, progress } = options
  const mark = `${String(process.pid)}-${String(Date.now())}`
  const env = { KVX_TOKEN: `token-${mark}`, KVX_CHAOS: mark }
  const report: PartitionReport = { verdicts: [], recoveries: [], failures: [] }
  const machines = await Machines.open()
  try {
    progress('asking a standalone worker every question once')
    const questions = await answerAlone(seed, env, folder)
    const chance = new Random(seed)
    const cluster = await Cluster.open(chance, engine, env, folder, machines.machines)
    const load = new Load(cluster.routerUrl, questions, chance, options.lanes)
    const windows: Window[] = []
    const wrong: Asked[] = []
    try {
      const atRest = await pagesOf(cluster)
      for (const seconds of options.cuts) {
        const [first, firstWindow] = [load.asked.length, windows.length]
        load.start()
        await load.success(Date.now())
        await sleep(leadSeconds * 1_000)
        const fault = { kind: 'cut', victim: 'network', seconds } as const
        const window = { fault, from: Date.now(), until: Infinity, spared: new Set<Asked>() }
        windows.push({ ...window, mayAffect: 'all' })
        machines.cut()
        await sleep(seconds * 1_000)
        machines.heal()
        const healed = Date.now()
        report.recoveries.push(await recovery(load, cluster, healed))
        windows.at(-1)!.until = Date.now()
        await load.stop()
        await load.askSome(afterRound)
        const asked = load.asked.slice(first)
        for (const one of asked) {
          const verdict = judge(one, windows.slice(firstWindow), patienceMs)
          report.verdicts.push(verdict)
          if (verdict.kind !== 'wrong') continue
          wrong.push(one)
          report.failures.push(`cut of ${String(seconds)} s: ${describe(one, verdict.why)}`)
        }
        for (const difference of await differenceAtRest(cluster, atRest))
          report.failures.push(`cut of ${String(seconds)} s: ${difference}`)
        progress(
          `${String(seconds)} s without a network: ${String(asked.length)} requests; served ${String(report.recoveries.at(-1))} ms after the healing`,
        )
      }
      report.failures.push(...(await endInOrder(cluster)))
    } catch (cause) {
      report.failures.push(String(cause))
    } finally {
      if (report.failures.length > 0) {
        const where = `seed ${String(seed)}, engine ${engine}`
        const evidence = { where, planned: [], windows, problems: report.failures, wrong }
        await writeFile(join(folder, 'failure.txt'), evidenceText(evidence, cluster.started))
      }
      await load.stop()
      await cluster.close()
    }
  } finally {
    machines.close()
    const survivors = await endSurvivors(`KVX_CHAOS=${mark}`)
    report.failures.push(...survivors.map((one) => `a process outlived the run: ${one}`))
  }
  return report
}

/** Ends every process by SIGTERM, and tells which did not exit with 0. */
async function endInOrder(cluster: Cluster): Promise<string[]> {
  const ends = cluster.started.map(async (one) => {
    one.signal('SIGTERM')
    const how = await Promise.race([one.gone, sleep(drainMs, 'it is still there', { ref: false })])
    return how === 'exit code 0' ? [] : [`${one.name} did not end well after SIGTERM: ${how}`]
  })
  return (await Promise.all(ends)).flat()
}
