/** How much memory processes have for themselves, over time. */
import { readFile } from 'node:fs/promises'
import type { ServerProcess } from './launch.ts'

export interface MemorySample {
  readonly process: string
  /** Since the watch began. */
  readonly seconds: number
  /** Of the process alone: neither files nor the pages that peers write to, which are touched one after the other. */
  readonly bytes: number
}

const everyMs = 1_000

export class MemoryWatch {
  readonly samples: MemorySample[] = []
  readonly #processes: readonly ServerProcess[]
  readonly #began = performance.now()
  readonly #timer: NodeJS.Timeout

  constructor(processes: readonly ServerProcess[]) {
    this.#processes = processes
    this.#timer = setInterval(() => void this.#look(), everyMs)
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  async #look(): Promise<void> {
    const seconds = (performance.now() - this.#began) / 1_000
    for (const { name, pid } of this.#processes) {
      const bytes = pid === undefined ? undefined : await privateBytes(pid)
      if (bytes !== undefined) this.samples.push({ process: name, seconds, bytes })
    }
  }
}

/** @returns undefined when the process is gone */
async function privateBytes(pid: number): Promise<number | undefined> {
  const status = await readFile(`/proc/${String(pid)}/status`, 'utf8').catch(() => '')
  const kilobytes = /^RssAnon:\s+(\d+) kB$/m.exec(status)?.[1]
  return kilobytes === undefined ? undefined : Number(kilobytes) * 1024
}
