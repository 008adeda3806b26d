/** The machine that measured, as far as it bears on numbers. */
import {
  arch,
  availableParallelism,
  cpus,
  freemem,
  loadavg,
  release,
  totalmem,
  type,
} from 'node:os'

export interface Machine {
  readonly cpu: string
  readonly cores: number
  readonly memoryBytes: number
  readonly freeBytes: number
  readonly system: string
  /** Of the last minute, before the run: what else was running. */
  readonly load: number
}

export function thisMachine(): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'not known',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    freeBytes: freemem(),
    system: `${type()} ${release()} ${arch()}`,
    load: loadavg()[0] ?? 0,
  }
}
